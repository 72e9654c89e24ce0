"""Operations of a self-guided step, in ordinary passes of the network.

    python benchmarks/self_guidance_operations.py [--recipe selfguidance-imagenet256] [--report DIR]

Multiplications and additions of matrix products are counted exactly, on the meta device, for one
image; nothing is timed. The plain second pass goes down matrix by matrix, the folded one is what
sampling does; folding itself is counted apart, since it is done once for all steps and images.
"""

from __future__ import annotations

import sys

import torch
from common import parsed, parser, products, publish
from torch import Tensor

from unmask.decode import blank_canvas
from unmask.nn.feedback import FeedbackAdapter, FoldedAdapter
from unmask.nn.model import MaskedModel
from unmask.recipes import get

LIMIT = 2.1


@torch.no_grad()
def count(model: MaskedModel) -> dict[str, int]:
    """Operations of each way to take a step, logits of every token included."""
    adapter = model.feedback
    assert isinstance(adapter, FeedbackAdapter)
    canvas = blank_canvas(1, model.length, "meta")
    labels = torch.zeros(1, dtype=torch.long, device="meta") if model.classes else None
    first, ready = model.hidden(canvas, labels), FoldedAdapter(model, canvas, labels)

    def ordinary() -> Tensor:
        """The network and its head."""
        return model.head.code_logits(model.hidden(canvas, labels).tokens)

    def plain() -> Tensor:
        """The second pass as published, and the head."""
        states = adapter.states(model, first, canvas, labels)
        return model.head.code_logits(states[-1][:, -model.length :])

    def fold() -> FoldedAdapter:
        """What one decoding makes once."""
        return FoldedAdapter(model, canvas, labels)

    def folded() -> Tensor:
        """The second pass as sampling does it, and the head."""
        return model.head.code_logits(ready(first, canvas, labels))

    folding = products(fold)
    found = {"pass": products(ordinary), "plain": products(plain), "folded": products(folded)}
    return found | {"folding": folding}


def main() -> None:
    """Count and print."""
    words = parser(__doc__)
    words.add_argument("--recipe", default="selfguidance-imagenet256")
    options = parsed(words)
    with torch.device("meta"):
        model = get(options.recipe).network.build().eval()
    found = count(model)
    one = found["pass"]
    rows = [
        ("ordinary pass", one / 1e9, 1.0),
        ("guided step, plain", (one + found["plain"]) / 1e9, 1 + found["plain"] / one),
        ("guided step, folded", (one + found["folded"]) / 1e9, 1 + found["folded"] / one),
        ("folding, once", found["folding"] / 1e9, found["folding"] / one),
    ]
    header = ("what", "10^9 operations an image", "in ordinary passes")
    note = (
        f"{options.recipe}: matrix products alone, on the meta device. Limit of a guided step: "
        f"{LIMIT} ordinary passes."
    )
    publish(options, rows, header=header, note=note)
    sys.exit(1 + found["folded"] / one > LIMIT)


if __name__ == "__main__":
    main()
