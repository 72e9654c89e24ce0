"""Sampling MAR-B: what the loop costs beyond the network calls that it needs, and how fast it is.

    python benchmarks/mar_sampling.py [--count-only] [--device cuda] [--dtype bf16]
        [--compile | --graphs] [--batch-size 2] [--report DIR]

The last 16 steps of a 64-step plan, 25 head steps, guidance 2.9 in all of them, random weights. One
side is the decode loop; the other calls the trunk once a step and the head once for each of its 25
steps on tensors of the same shapes, condition and times embedded once a step, and nothing else: no
choice of positions, no noise, no solver, no guidance. Operations are those that compute or copy
(views are not), exact and counted on a network of MAR-B's depths that is one head wide; times are
medians of interleaved pairs at full width. --graphs is torch.compile's "reduce-overhead".
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from common import operations, paired, parsed, parser, publish
from torch import Tensor

from unmask.counts import Counts, FixedCounts
from unmask.decode import Plan, decode
from unmask.draws import Draws, keyed_generator
from unmask.guidance import Guidance
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.model import MaskedModel, initialize
from unmask.orders import RandomOrder
from unmask.recipes import get
from unmask.types import Canvas

LIMIT = 1.10
STEPS, LAST = 64, 16
HEAD_STEPS = "ddim25"
DTYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Tail(Counts):
    """The last steps of a plan that began with nothing known."""

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        """See :class:`unmask.counts.Counts`."""
        whole = torch.ones_like(masked)
        return FixedCounts(least=1).table(steps, 0, whole, draws)[first_step:]


@dataclass(frozen=True)
class Case:
    """What both sides compute on."""

    model: MaskedModel
    canvas: Canvas
    labels: Tensor
    plan: Plan
    device: torch.device
    dtype: torch.dtype | None

    def precision(self) -> torch.autocast | nullcontext:
        """Autocast, if asked for."""
        if self.dtype is None:
            return nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    def loop(self) -> None:
        """The decode loop."""
        draws = Draws(range(len(self.labels)), device=self.device)
        with self.precision():
            for _ in decode(self.model, self.labels, self.plan, draws, self.canvas):
                pass

    @torch.inference_mode()
    def bare(self) -> None:
        """The network calls that it makes, and nothing else."""
        with self.precision():
            for canvas, labels, read in self._trunk_calls():
                self._head_calls(self.model.hidden(canvas, labels, read).tokens)

    def _head_calls(self, features: Tensor) -> None:
        head, stages = self.model.head, self.plan.draw.stages()
        known = head.condition(features.unflatten(0, (2, -1)).flatten(1, 2))  # (2, B N, w)
        times = head.embed_times(self._times(len(stages)))
        x = features.new_zeros(known.shape[1], head.channels, dtype=torch.float32)
        for stage, time_ in zip(stages, times, strict=True):
            outputs = head.channels * (2 if stage.spread else 1)
            head.predict(x, known + time_, outputs=outputs)

    def _times(self, count: int) -> Tensor:
        return torch.zeros(count, device=self.device)

    def _trunk_calls(self) -> Iterator[tuple[Canvas, Tensor, Tensor]]:
        """Doubled batches with as many known positions, and as many read, as the plan has."""
        length, batch = self.model.length, 2 * len(self.labels)
        masked = self.canvas.masked
        ends = self.plan.counts.table(STEPS, STEPS - LAST, masked.cpu(), Draws([0]))[:, 0].tolist()
        before = int(masked[0].sum())
        for after in [*ends[:-1], 0]:
            where = torch.arange(length, device=self.device).expand(batch, -1)
            canvas = Canvas(self.canvas.tokens.repeat(2, 1, 1), where < before, where[:, before:])
            yield canvas, self.labels.repeat(2), where[:, : before - after]
            before = after


def case_of(network: LatentNetwork, options: argparse.Namespace, *, device: str) -> Case:
    """Random weights, and a canvas as the plan's first 48 steps leave it."""
    model = network.build().eval()
    initialize(model, keyed_generator("benchmark"))
    plan = Plan(
        steps=STEPS,
        first_step=STEPS - LAST,
        counts=Tail(),  # type: ignore[arg-type]
        order=RandomOrder(),
        guidance=Guidance(scale=2.9),
        draw=DiffusionDraw(respacing=HEAD_STEPS),
    )
    size, length = options.batch_size, model.length
    blank = torch.ones(size, length, dtype=torch.bool)
    hidden = int(FixedCounts(least=1).table(STEPS, 0, blank, Draws([0]))[STEPS - LAST - 1, 0])
    score = torch.rand(size, length, generator=keyed_generator("canvas"))
    masked = score.argsort(1) < hidden
    tokens = torch.randn(size, length, network.channels, generator=keyed_generator("tokens"))
    where = torch.device(device)
    return Case(
        model.to(where),
        Canvas(tokens.to(where), masked.to(where)),
        torch.arange(size, device=where),
        plan,
        where,
        DTYPES[options.dtype],
    )


def compiled(case: Case, *, graphs: bool) -> Case:
    """Both sides call the same compiled trunk and head; each step has shapes of its own."""
    torch._dynamo.config.recompile_limit = 4 * LAST
    how = {"mode": "reduce-overhead"} if graphs else {"dynamic": True}
    model = case.model
    model.trunk = torch.compile(model.trunk, **how)
    model.head.predict = torch.compile(model.head.predict, **how)  # type: ignore[method-assign]
    return case


def main() -> None:
    """Count, time and print."""
    words = parser(__doc__)
    words.add_argument("--recipe", default="mar-base")
    words.add_argument("--batch-size", type=int, default=2)
    words.add_argument("--device", default="cpu")
    words.add_argument("--dtype", choices=list(DTYPES), default="float32")
    words.add_argument("--compile", action="store_true")
    words.add_argument("--graphs", action="store_true")
    words.add_argument("--count-only", action="store_true")
    words.add_argument("--rounds", type=int, default=5)
    options = parsed(words)
    network = get(options.recipe).network
    narrow = replace(network, width=network.heads, decoder_width=network.decoder_heads,
                     head_width=8, classes=options.batch_size)  # fmt: skip
    small = case_of(narrow, argparse.Namespace(**{**vars(options), "dtype": "float32"}),
                    device="cpu")  # fmt: skip
    small.loop(), small.bare()
    counts = operations(small.loop), operations(small.bare)
    ratios = {"operations": counts[0] / counts[1]}
    rows: list[list[object]] = [["decode loop", counts[0]], ["bare network calls", counts[1]]]
    header = ["what", "operations"]
    images = ""
    if not options.count_only:
        case = case_of(network, options, device=options.device)
        if options.compile or options.graphs:
            case = compiled(case, graphs=options.graphs)
        for _ in range(2):  # caches, kernels, graphs
            case.loop(), case.bare()
        *medians, ratios["time"] = paired(
            case.loop, case.bare, rounds=options.rounds, device=case.device
        )
        rows = [[*row, median * 1e3] for row, median in zip(rows, medians, strict=True)]
        header.append("ms, median")
        images = f" {options.batch_size / medians[0]:.3g} images a second through these steps."
    way = "CUDA graphs" if options.graphs else "compiled" if options.compile else "eager"
    note = (
        f"{options.recipe}, batch {options.batch_size}, the last {LAST} of {STEPS} steps, "
        f"{HEAD_STEPS} head steps, guided; {options.device}, {options.dtype}, {way}."
        + "".join(f" Ratio of {name}: {ratio:.3f}." for name, ratio in ratios.items())
        + f" Limit {LIMIT}.{images}"
    )
    publish(options, rows, header=header, note=note)
    sys.exit(max(ratios.values()) > LIMIT)


if __name__ == "__main__":
    main()
