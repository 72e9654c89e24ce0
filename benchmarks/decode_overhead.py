"""What decoding costs beyond the network calls it makes.

    python benchmarks/decode_overhead.py [--recipe fashion-maskgit] [--batch-size 64] [--report DIR]

Both sides run in turn in one process: the decode loop, and bare calls of trunk and output layer on
batches of the same shapes, guidance doubled alike. Prints medians, the median of paired ratios, and
tensor operations counted by the profiler.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from common import paired, parsed, parser, publish

from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws, keyed_generator
from unmask.nn.model import MaskedModel, initialize
from unmask.recipes import get
from unmask.types import Canvas

LIMIT = 1.10


@torch.inference_mode()
def bare_calls(model: MaskedModel, labels: torch.Tensor, plan: Plan) -> None:
    """The network alone: trunk on the (doubled) batch, output layer on the tokens still masked."""
    batch = len(labels)
    start = torch.ones(batch, model.length, dtype=torch.bool)
    remaining = plan.counts.table(plan.steps, 0, start, Draws([0]))[:, 0].tolist()
    before = [model.length, *remaining[:-1]]
    scales = plan.guidance.table(torch.tensor(remaining)[:, None], plan.steps, model.length)
    canvas = blank_canvas(batch, model.length)
    doubled = Canvas(torch.cat([canvas.tokens] * 2), torch.cat([canvas.masked] * 2))
    both = torch.cat([labels, labels])
    for masked, scale in zip(before, scales["null"][:, 0].tolist(), strict=True):
        guided = scale != 1
        hidden = model.hidden(doubled if guided else canvas, both if guided else labels).tokens
        model.head.code_logits(hidden[:, :masked])


def full_decode(model: MaskedModel, labels: torch.Tensor, plan: Plan) -> None:
    """The decode loop to its end."""
    draws = Draws(list(range(len(labels))))
    for _ in decode(model, labels, plan, draws, blank_canvas(len(labels), model.length)):
        pass


def operations(call: Callable[[], None]) -> int:
    """Tensor operations that one call dispatches, those inside others not counted."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(
        event.name.startswith("aten::") and event.cpu_parent is None for event in profile.events()
    )


def main() -> None:
    """Measure and print."""
    words = parser(__doc__)
    words.add_argument("--recipe", default="fashion-maskgit")
    words.add_argument("--batch-size", type=int, default=64)
    words.add_argument("--rounds", type=int, default=11)
    options = parsed(words)
    recipe = get(options.recipe)
    model = recipe.network.build()
    initialize(model, keyed_generator("benchmark"))
    model.eval()
    labels = torch.arange(options.batch_size) % max(1, recipe.network.classes)
    full = lambda: full_decode(model, labels, recipe.plan)  # noqa: E731
    bare = lambda: bare_calls(model, labels, recipe.plan)  # noqa: E731
    full(), bare()
    full_time, bare_time, ratio = paired(full, bare, rounds=options.rounds)
    rows = [
        ("decode loop", f"{full_time * 1e3:.1f}", str(operations(full))),
        ("bare network calls", f"{bare_time * 1e3:.1f}", str(operations(bare))),
    ]
    header = ("what", "ms, median", "operations")
    note = (
        f"{recipe.name}, batch {options.batch_size}, {recipe.plan.steps} steps, guidance "
        f"{recipe.plan.guidance.scale}; median of {options.rounds} paired time ratios: "
        f"{ratio:.3f} (limit {LIMIT})."
    )
    publish(options, rows, header=header, note=note)
    sys.exit(ratio > LIMIT)


if __name__ == "__main__":
    main()
