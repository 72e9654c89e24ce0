"""Operations of MAGE: of a training example, of a generation step, and of its attention.

    python benchmarks/mage_operations.py [--recipe mage-base] [--report DIR]

Counts, not timings. Multiplications and additions of matrix products are counted on the meta
device, for one image: with every saving, and in the plain form that the row names. Dispatched
operations (views left out) and the memory of one forward and backward pass are of the same number
of blocks at a small width, with attention written out and fused.
"""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from typing import Any

import torch
from common import operations, parsed, parser, products, publish
from torch import Tensor

from unmask.counts import FixedCounts
from unmask.decode import blank_canvas
from unmask.draws import Draws, keyed_generator
from unmask.masking import NormalMasking
from unmask.networks.mage import MageNetwork
from unmask.nn.block import Attention
from unmask.nn.categorical import CategoricalHead, FixedTableHead
from unmask.nn.model import MaskedModel, initialize
from unmask.objectives.masked import MaskedObjective, locate
from unmask.recipes import get
from unmask.types import MaskedBatch

HEADER = ("what", "plain", "here", "here / plain")


def positions(count: int) -> Tensor:
    """So many positions of one image; which ones changes no count."""
    return torch.zeros(1, count, dtype=torch.long, device="meta")


def pass_of(model: MaskedModel, kept: int | None, read: int | None, *, codes: bool) -> float:
    """One pass: positions that the encoder sees, positions read (None: all), logits of codes."""
    canvas = blank_canvas(1, model.length, "meta")
    canvas = canvas._replace(kept=None if kept is None else positions(kept))
    head = model.head
    assert isinstance(head, CategoricalHead)

    def run() -> Tensor:
        """Trunk and head."""
        hidden = model.hidden(canvas, None, None if read is None else positions(read))
        features = torch.cat([hidden.prefix, hidden.tokens], 1)
        return head.code_logits(features) if codes else head.logits(features)

    with torch.no_grad():
        return products(run) / 1e9


def training_rows(model: MaskedModel, masking: NormalMasking) -> list[tuple[object, ...]]:
    """Forward passes of an example that hides the mean number of tokens."""
    u = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    hidden = round(float((masking.ratio(u) * model.length).ceil().mean()))
    kept = model.length - math.ceil(masking.least * model.length)
    here = pass_of(model, kept, hidden, codes=True)
    plain = {
        "the encoder sees all": pass_of(model, None, hidden, codes=True),
        "last block and head at all positions": pass_of(model, kept, None, codes=True),
        "and logits of every row of the table": pass_of(model, kept, None, codes=False),
        "all three": pass_of(model, None, None, codes=False),
    }
    rows = [(f"training, {hidden} hidden: {k}", v, here, here / v) for k, v in plain.items()]
    whole, part = head_of(model, model.length + 1, codes=False), head_of(model, hidden, codes=True)
    return [*rows, ("head alone: every position and row", whole, part, part / whole)]


def head_of(model: MaskedModel, read: int, *, codes: bool) -> float:
    """The head at so many positions."""
    head = model.head
    assert isinstance(head, FixedTableHead)
    features = torch.zeros(1, read, head.dense.in_features, device="meta")
    with torch.no_grad():
        return products(lambda: (head.code_logits if codes else head.logits)(features)) / 1e9


def generation_row(model: MaskedModel, steps: int) -> tuple[object, ...]:
    """A whole generation; plainly, every step reads every position."""
    masked = blank_canvas(1, model.length).masked
    counts = FixedCounts(least=1).table(steps, 0, masked, Draws([0]))[:, 0].tolist()
    unknown = [model.length, *counts[:-1]]
    here = sum(pass_of(model, None, read, codes=True) for read in unknown)
    plain = steps * pass_of(model, None, None, codes=False)
    return (f"{steps} generation steps: all positions, all rows", plain, here, here / plain)


class WrittenOut(Attention):
    """Attention in single operations, as the published code has it."""

    def forward(self, x: Tensor, read: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        """See :class:`Attention`."""
        q, k, v = map(self.split, self._project(x, read))
        scores = (q @ k.transpose(-2, -1)) * q.shape[-1] ** -0.5
        scores = scores - scores.amax(-1, keepdim=True)
        probs = torch.dropout(scores.softmax(-1), self.dropout, self.training)
        return self.merge(probs @ v)


def example_of(network: MageNetwork, masking: NormalMasking, batch: int) -> MaskedBatch:
    """Random codes under a random mask."""
    stream = keyed_generator("example")
    tokens = torch.randint(network.codes, (batch, network.length), generator=stream)
    masks = masking.draw(batch, network.length, stream)
    return MaskedBatch(tokens, masks.masked, None, 1 / masks.masked.sum(), masks.kept)


def dispatched(network: MageNetwork, masking: NormalMasking, *, fused: bool) -> tuple[int, float]:
    """Operations of a forward and backward pass, and MB an image kept between the two."""
    model = network.build()
    initialize(model, keyed_generator("weights"))
    for module in model.modules():
        if isinstance(module, Attention) and not fused:
            module.__class__ = WrittenOut
    objective, batch, kept = MaskedObjective(model), 4, dict[int, int]()
    located = locate(example_of(network, masking, batch))

    def note(tensor: Tensor) -> Tensor:
        """Remember each memory once."""
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss = objective(located)["loss"]
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    size = sum(n for at, n in kept.items() if at not in weights) / batch / 1e6
    count = operations(lambda: objective(located)["loss"].backward())
    del loss
    return count, size


def attention_rows(network: MageNetwork, masking: NormalMasking) -> list[tuple[object, ...]]:
    """Written out and fused, at the same depth and a small width; evaluation without dropout."""
    sizes: dict[str, Any] = {
        "width": 24,
        "heads": 2,
        "decoder_width": 24,
        "decoder_heads": 2,
        "codes": 32,
    }
    small = replace(network, **sizes, dropout=0.0)
    plain, here = (dispatched(small, masking, fused=fused) for fused in (False, True))
    names = ("operations of a training pass", "MB an image kept for the backward pass, width 24")
    return [
        (f"{name}: attention written out", p, h, h / p)
        for name, p, h in zip(names, plain, here, strict=True)
    ]


def main() -> None:
    """Count and print."""
    words = parser(__doc__)
    words.add_argument("--recipe", default="mage-base")
    options = parsed(words)
    recipe = get(options.recipe)
    assert isinstance(recipe.network, MageNetwork), "a recipe of MAGE is needed"
    assert isinstance(recipe.masking, NormalMasking)
    with torch.device("meta"):
        model = recipe.network.build().eval()
    rows = [
        *training_rows(model, recipe.masking),
        generation_row(model, recipe.plan.steps),
        *attention_rows(recipe.network, recipe.masking),
    ]
    note = (
        f"Recipe {recipe.name}. The first six rows are 10^9 multiplications and additions of "
        "matrix products, for one image, without the tokenizer. Dropping half of the encoder's "
        "tokens is part of the published training; the other savings change no result. "
        "Written-out attention also keeps its probabilities, and in the published code their "
        "dropout."
    )
    publish(options, rows, header=HEADER, note=note)
    sys.exit(any(float(str(row[-1])) >= 1 for row in rows))


if __name__ == "__main__":
    main()
