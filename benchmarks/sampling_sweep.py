"""How steps, guidance and choice temperature trade fidelity against variety on Fashion-MNIST.

    python benchmarks/sampling_sweep.py MODEL [--count 2000] [--steps 8 12] [--scales 1 2 3]
        [--temperatures 2 4.5 8] [--seeds 0] [--report DIR]

Each row: Fréchet distance of EfficientNet-lite0 features at 128 px against the embedded held-out
images (not FID), class accuracy by the shipped classifier, precision and recall.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from dataclasses import replace
from pathlib import Path

import torch
from report import markdown_table, write_report

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.decode import Plan
from unmask.evaluate.classifier import load_fashion_classifier
from unmask.evaluate.features import EfficientNetLite0
from unmask.evaluate.frechet import RunningStatistics
from unmask.evaluate.generated import generated_batches
from unmask.evaluate.image_sets import ImageBatch
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import real_batches
from unmask.evaluate.reference import Moments
from unmask.evaluate.scores import Manifold, class_accuracy, manifold_overlap
from unmask.pipeline import Pipeline, load
from unmask.plan_changes import PlanChanges


class Judge:
    """Features of the held-out images, computed once."""

    def __init__(self, count: int) -> None:
        self.extractor = EfficientNetLite0(resize=128)
        self.classifier = load_fashion_classifier()
        held_out = open_source("fashion-mnist", split="val")
        transform = Transform(size=28, crop="none", channels=1)
        self.reference = self.features(list(real_batches(held_out, transform, count=count)))
        self.manifold = Manifold(self.reference)

    def features(self, batches: list[ImageBatch]) -> torch.Tensor:
        """``(N, F)``."""
        return torch.cat([self.extractor(batch.images).pooled for batch in batches])

    def scores(self, batches: list[ImageBatch]) -> tuple[float, float, float, float]:
        """Fréchet distance, class accuracy, precision, recall."""
        found = self.features(batches)
        sides = []
        for side in (self.reference, found):
            sides.append(RunningStatistics(side.shape[1]))
            sides[-1].update(side)
        mine, theirs = map(Moments.of, sides)
        overlap = manifold_overlap(self.manifold, Manifold(found))
        logits = torch.cat([self.classifier.logits(batch.images) for batch in batches])
        labels = torch.cat([batch.labels for batch in batches if batch.labels is not None])
        accuracy = class_accuracy(logits, labels)
        return mine.distance(theirs), accuracy, overlap.precision, overlap.recall


def one_row(
    judge: Judge, pipeline: Pipeline, plan: Plan, seeds: list[int], how: EvaluationOptions
) -> list[str]:
    """Means over the seeds, with the spread of the Fréchet distance if there are several."""
    found = [
        judge.scores(list(generated_batches(pipeline, replace(how, seed=seed), plan=plan)))
        for seed in seeds
    ]
    distance, *others = (statistics.fmean(column) for column in zip(*found, strict=True))
    spread = f" ± {statistics.stdev(f[0] for f in found):.1f}" if len(found) > 1 else ""
    return [f"{distance:.1f}{spread}", *(f"{value:.3f}" for value in others)]


def main() -> None:
    """Sweep and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 12])
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.0, 3.0])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[2.0, 4.5, 8.0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    pipeline, judge = load(options.model), Judge(options.count)
    rows = []
    for choice in itertools.product(options.steps, options.scales, options.temperatures):
        steps, scale, temperature = choice
        changes = PlanChanges(steps=steps, guidance_scale=scale, temperature=temperature)
        plan = changes.applied(pipeline.plan)
        how = EvaluationOptions(count=options.count)
        rows.append(
            [f"{value:g}" for value in choice] + one_row(judge, pipeline, plan, options.seeds, how)
        )
        print(*rows[-1], sep="\t", flush=True)
    header = ["steps", "guidance", "temperature", "fd", "class accuracy", "precision", "recall"]
    note = (
        f"{options.model}, {options.count} images a row, seeds from {options.seeds}; "
        f"{judge.classifier.describe()}."
    )
    print(markdown_table(header, rows), note, sep="\n\n")
    if options.report:
        write_report(options.report, "sampling_sweep", rows=rows, header=header, note=note)


if __name__ == "__main__":
    main()
