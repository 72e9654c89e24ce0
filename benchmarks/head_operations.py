"""Tensor operations of a diffusion head: its network alone, a denoising step, a whole draw.

    python benchmarks/head_operations.py [--depth 3 6 8 12] [--report DIR]

Exact counts, not timings: operations that compute or copy, views left out, of a small head (the
width changes nothing). "network" is one call of the head with its embeddings of time and condition,
as in training; a draw embeds the condition and all times once.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from common import operations, parsed, parser, publish

from unmask.draws import Draws, keyed_generator
from unmask.nn.diffusion import DiffusionDraw, DiffusionHead
from unmask.types import Reading

LIMIT = 1.10
EVALUATIONS = 14  # of DPM-Solver, as published for 64 and 128 steps


@torch.no_grad()
def measure(depth: int, guided: bool) -> tuple[int, float, int]:
    """Operations of the network, of one ancestral step, and of a draw by DPM-Solver."""
    head = DiffusionHead(16, 32, width=32, depth=depth)
    head.initialize(keyed_generator("benchmark"))
    z = torch.randn(2, 3, 32, generator=keyed_generator("features"))
    weak, scales = ((z,), (torch.full((2,), 3.0),)) if guided else ((), ())

    def draw(options: DiffusionDraw) -> Callable[[], object]:
        where = torch.arange(3).expand(2, -1)
        reading = Reading(z, where, 3, 0, weak, scales)
        return lambda: head.draw(reading, options, Draws([0, 1]))

    x, times = torch.zeros(6, 16), torch.full((6,), 500.0)
    network = operations(lambda: head.predict_at(x, times, z.flatten(0, 1)))
    short, long = (operations(draw(DiffusionDraw(respacing=f"ddim{n}"))) for n in (10, 50))
    solver = operations(draw(DiffusionDraw(solver="dpm-solver", respacing=str(EVALUATIONS))))
    return network, (long - short) / 40, solver


def main() -> None:
    """Count and print."""
    words = parser(__doc__)
    words.add_argument("--depth", type=int, nargs="+", default=[3, 6, 8, 12])
    options = parsed(words)
    rows: list[tuple[object, ...]] = []
    for depth in options.depth:
        for guided in (False, True):
            network, step, solver = measure(depth, guided)
            ratios = (step / network, solver / (EVALUATIONS * network))
            rows.append((depth, "yes" if guided else "no", network, step, solver, *ratios))
    header = ("blocks", "guided", "network", "ddpm step", f"dpm-solver draw, {EVALUATIONS}",
              "step / network", "draw / networks")  # fmt: skip
    note = (
        "Operations that compute or copy; views are not counted. The published code issues 155 a "
        "guided ancestral step for 88 of its network (6 blocks), and 3,280 a guided draw of 8 "
        f"evaluations for 696 of its network. Limit of both ratios: {LIMIT}."
    )
    publish(options, rows, header=header, note=note)
    sys.exit(any(max(row[-2:]) > LIMIT for row in rows))  # type: ignore[type-var]


if __name__ == "__main__":
    main()
