"""MaskGIT, MAR and eMIGM on the same images: score against network evaluations and seconds.

    python benchmarks/small_systems.py [--count 500] [--seed 0] [--report DIR]

Every row samples shipped weights with one plan and scores them: Fréchet distance of
EfficientNet-lite0 features against the embedded held-out images (not FID), class accuracy by the
shipped classifier, precision and recall. Trunk evaluations count an image twice where guidance is
active; head evaluations are denoising steps a token, likewise.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from common import FashionScores, parsed, parser, publish

from unmask.decode import Plan
from unmask.draws import Draws
from unmask.evaluate.image_batch import ImageBatch
from unmask.generation import generate
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline, load
from unmask.recipes.recipe import Recipe

HEADER = (
    "model", "plan", "trunk evaluations", "head evaluations a token", "ms an image", "fd",
    "class accuracy", "precision", "recall",
)  # fmt: skip


def plans_of(recipe: Recipe) -> Iterator[tuple[str, Plan]]:
    """The recipe's plan and its fast one, and what is told beside them."""
    plan, name = recipe.plan, recipe.name
    yield f"its own: {plan.steps} steps", plan
    if name == "fashion-mar":
        yield "49 steps, one token each", replace(plan, steps=49)
        yield "8 steps", replace(plan, steps=8)
        yield "16 steps, respacing 25 (keeps t = 999)", redrawn(plan, "ddpm", "25")
        yield "8 steps, dpm-solver 8", replace(redrawn(plan, "dpm-solver", "8"), steps=8)
    if name == "fashion-emigm":
        quick = redrawn(plan, "dpm-solver", "8")
        yield "8 steps", replace(plan, steps=8)
        yield "16 steps, dpm-solver 8", quick
        yield "16 steps, dpm-solver 8, refresh 4", guided(quick, refresh=4)
        interval = replace(plan, guidance=Guidance(scale=3.0, interval=(0.1, 0.4)))
        yield "16 steps, guided from 0.4 to 0.1 only", interval
        yield "4 steps, dpm-solver 8", replace(quick, steps=4)
    fast = recipe.named_plan("fast")
    solver = f", dpm-solver {fast.draw.respacing}" if isinstance(fast.draw, DiffusionDraw) else ""
    yield f"--fast: {fast.steps} steps{solver}, refresh {fast.guidance.refresh}", fast


def guided(plan: Plan, *, refresh: int) -> Plan:
    """The weak branch evaluated less often."""
    return replace(plan, guidance=replace(plan.guidance, refresh=refresh))


def redrawn(plan: Plan, solver: str, respacing: str) -> Plan:
    """Another solver in the head."""
    return replace(plan, draw=DiffusionDraw(solver=solver, respacing=respacing))


def evaluations(plan: Plan, length: int) -> tuple[int, int]:
    """Passes of the trunk an image, and the most steps of the head a token."""
    counts = plan.counts.table(plan.steps, 0, torch.ones(1, length, dtype=torch.bool), Draws([0]))
    scales = plan.guidance.table(counts, plan.steps, length)
    guided = 0
    for table in scales.values():
        rows = (table[:, 0] != 1).tolist()
        guided += sum(rows) - plan.guidance.uses(rows).count("reuse")
    head = len(plan.draw.stages()) if isinstance(plan.draw, DiffusionDraw) else 1
    return plan.steps + guided, head * (2 if guided else 1)


def sample(pipeline: Pipeline, plan: Plan, seeds: range) -> tuple[list[ImageBatch], float]:
    """Images of every class in turn, and the seconds they took."""
    labels = [seed % pipeline.model.classes for seed in seeds]
    began = time.perf_counter()
    batches = [
        ImageBatch(to_uint8(made.pixels), made.class_labels)
        for made in generate(pipeline, labels, seeds=seeds, plan=plan, batch_size=50)
    ]
    return batches, time.perf_counter() - began


def main() -> None:
    """Sample, judge, report."""
    words = parser(__doc__)
    words.add_argument("--models", nargs="+", default=["maskgit", "mar", "emigm"])
    words.add_argument("--count", type=int, default=500)
    words.add_argument("--seed", type=int, default=0)
    options = parsed(words)
    scores, rows = FashionScores(options.count), []
    seeds = range(options.seed, options.seed + options.count)
    for name in (f"fashion-{model}" for model in options.models):
        pipeline = load(name)
        for what, plan in plans_of(pipeline.recipe):
            batches, seconds = sample(pipeline, plan, seeds)
            row = scores(batches)
            trunk, head = evaluations(plan, pipeline.model.length)
            rows.append(
                [name, what, trunk, head, f"{1000 * seconds / options.count:.0f}", f"{row.fd:.1f}",
                 f"{row.class_accuracy:.3f}", f"{row.precision:.3f}", f"{row.recall:.3f}"]
            )  # fmt: skip
            print(*rows[-1], sep=" | ", flush=True)
    note = f"{options.count} images a row, seeds from {options.seed}"
    publish(options, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
