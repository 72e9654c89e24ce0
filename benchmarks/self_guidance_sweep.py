"""What self-guidance does to fidelity and variety on Fashion-MNIST, beside guidance by class.

    python benchmarks/self_guidance_sweep.py --rows FILE [--model fashion-selfguidance]
        [--steps 8] [--temperatures 4.5 8 2 16] [--count 300]
        [--final-count 1000] [--final-seeds 10000 20000 30000] [--report DIR]

First every guidance at every temperature, once. Then each kind of guidance at its own best (the
lowest Fréchet distance at its number of steps) with more images, several times, from seeds that
the choice has not seen. Scores as of FashionScores. Each row is appended to FILE as soon as it
is known, and a second run goes on from there.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from common import FashionScores, parsed, parser, publish

from unmask.evaluate.classifier import load_fashion_classifier
from unmask.evaluate.generated import generated_batches
from unmask.evaluate.options import EvaluationOptions
from unmask.guidance import Guidance
from unmask.pipeline import Pipeline, load
from unmask.plan_changes import PlanChanges
from unmask.show import Table

GUIDANCE = {
    "none": Guidance(),
    "self 2": Guidance(weak="self", scale=2.0),
    "null 2": Guidance(scale=2.0, ramp="revealed"),  # as fashion-maskgit is shipped
    "self 3": Guidance(weak="self", scale=3.0),
    "self 1.5": Guidance(weak="self", scale=1.5),
    "null 2, self 2": Guidance(scale=2.0, self_scale=2.0, ramp="revealed"),
}
PASSES = {"none": 1, "self": 2, "null": 2, "both": 3}
SCORES = ("fd", "class accuracy", "precision", "recall")


class Cell(NamedTuple):
    """One plan, and which images are made by it."""

    guidance: str
    steps: int
    temperature: float
    count: int
    seed: int

    @property
    def kind(self) -> str:
        """One of ``PASSES``."""
        return "both" if "," in self.guidance else self.guidance.partition(" ")[0]


class Scores(NamedTuple):
    """In the order of ``SCORES``."""

    fd: float
    accuracy: float
    precision: float
    recall: float


class Bench:
    """Scores of cells, remembered in a file."""

    def __init__(self, pipeline: Pipeline, file: Path) -> None:
        self.pipeline = pipeline
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {Cell(*cell): Scores(*scores) for cell, scores in map(json.loads, lines)}

    @cached_property
    def judge(self) -> FashionScores:
        """Made when something must be measured."""
        return FashionScores(2000)

    def scores(self, cell: Cell) -> Scores:
        """From the file, or measured and appended to it."""
        if cell not in self.known:
            changes = PlanChanges(steps=cell.steps, temperature=cell.temperature)
            plan = changes.applied(self.pipeline.plan)
            plan = replace(plan, guidance=GUIDANCE[cell.guidance])
            how = EvaluationOptions(count=cell.count, seed=cell.seed)
            row = self.judge(generated_batches(self.pipeline, how, plan=plan))
            assert row.class_accuracy is not None, "all samples have labels"
            assert row.precision is not None, "there are real images"
            assert row.recall is not None, "there are real images"
            self.known[cell] = Scores(row.fd, row.class_accuracy, row.precision, row.recall)
            with self.file.open("a") as out:
                out.write(json.dumps([cell, self.known[cell]]) + "\n")
            print(*cell, *(f"{score:.4g}" for score in self.known[cell]), sep="\t", flush=True)
        return self.known[cell]


def best(bench: Bench, cells: Iterable[Cell]) -> dict[str, Cell]:
    """By kind of guidance, the cell of the lowest distance."""
    found: dict[str, Cell] = {}
    for cell in cells:
        if cell.kind not in found or bench.scores(cell).fd < bench.scores(found[cell.kind]).fd:
            found[cell.kind] = cell
    return found


def final_row(bench: Bench, cell: Cell, seeds: list[int], count: int) -> list[str]:
    """Mean and standard deviation over the seeds."""
    found = [bench.scores(cell._replace(count=count, seed=seed)) for seed in seeds]
    columns = list(zip(*found, strict=True))
    spread = [statistics.stdev(c) if len(c) > 1 else 0.0 for c in columns]
    return [
        cell.guidance,
        str(cell.steps),
        str(cell.steps * PASSES[cell.kind]),
        f"{cell.temperature:g}",
        *(
            f"{statistics.fmean(c):.{digits}f} ± {s:.{digits}f}"
            for c, s, digits in zip(columns, spread, (2, 3, 3, 3), strict=True)
        ),
    ]


def main() -> None:
    """Sweep, choose, repeat and print."""
    words = parser(__doc__)
    words.add_argument("--rows", type=Path, required=True)
    words.add_argument("--model", default="fashion-selfguidance")
    words.add_argument("--steps", type=int, nargs="+", default=[8])
    words.add_argument("--temperatures", type=float, nargs="+", default=[4.5, 8.0, 2.0, 16.0])
    words.add_argument("--count", type=int, default=300)
    words.add_argument("--final-count", type=int, default=1000)
    words.add_argument("--final-seeds", type=int, nargs="+", default=[10_000, 20_000, 30_000])
    options = parsed(words)
    bench = Bench(load(options.model), options.rows)
    cells = [
        Cell(name, steps, temperature, options.count, 0)
        for steps, name, temperature in itertools.product(
            options.steps, GUIDANCE, options.temperatures
        )
    ]
    sweep = [[c.guidance, c.steps, f"{c.temperature:g}", *bench.scores(c)] for c in cells]
    chosen = [
        cell
        for steps in options.steps
        for cell in best(bench, (cell for cell in cells if cell.steps == steps)).values()
    ]
    final = [final_row(bench, cell, options.final_seeds, options.final_count) for cell in chosen]
    header = ["guidance", "steps", "passes", "temperature", *SCORES]
    note = (
        f"The best of each kind and number of steps by Fréchet distance, {options.final_count:,} "
        f"images from each of the seeds {options.final_seeds}, mean ± standard deviation:\n\n"
        f"{Table(titles=header, rows=final).markdown()}\n\n"
        f"The sweep above it: {options.model}, {options.count} images a row from seed 0. "
        "Distances of EfficientNet-lite0 features at 128 px (not FID) against the 2,000 embedded "
        "held-out images; fewer images give larger distances, so the tables do not compare. "
        "Passes are those of the network an image, a guided step counted as two, with both three. "
        "Scales of the null class, and of both, rise with the share of revealed tokens; others are "
        "constant. "
        f"Class accuracy by: {load_fashion_classifier().describe()}."
    )
    sweep_header = ["guidance", "steps", "temperature", *SCORES]
    publish(options, sweep, header=sweep_header, note=note)


if __name__ == "__main__":
    main()
