"""How good a run's samples were at each of its checkpoints.

    unmask train fashion-mar --data fashion-mnist --out runs/mar
        --training.save-every 500 --training.keep 20
    python benchmarks/learning_curve.py runs/mar runs/emigm [--count 300] [--report DIR]

Each row: averaged weights of a checkpoint, the recipe's present plan, class accuracy by the shipped
classifier. With a constant learning rate a checkpoint at step k is what a run of k steps ends with.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from common import parsed, parser, publish

from unmask.evaluate.classifier import load_fashion_classifier
from unmask.evaluate.scores import class_accuracy
from unmask.files.serial import read_yaml
from unmask.generation import generate
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.state import read_checkpoint

HEADER = ("recipe", "step", "seconds", "class accuracy")


def accuracy(recipe: Recipe, checkpoint: Path, count: int) -> float:
    """Share of the checkpoint's samples in which the classifier sees the class asked for."""
    model = recipe.network.build()
    weights = read_checkpoint(checkpoint).weights
    model.load_state_dict(weights.get("ema", weights["model"]))
    pipeline = Pipeline(recipe, model.requires_grad_(False), load_tokenizer(recipe.tokenizer))
    labels = [seed % model.classes for seed in range(count)]
    classifier = load_fashion_classifier()
    made = generate(pipeline, labels, seeds=range(count), batch_size=50)
    logits = torch.cat([classifier.logits(to_uint8(batch.pixels)) for batch in made])
    return class_accuracy(logits, torch.tensor(labels))


def seconds_at(run: Path, step: int) -> float:
    """Wall time of the run up to a step, by its log."""
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf8").splitlines())
    return next(line["seconds"] for line in lines if line["step"] == step)


def main() -> None:
    """Sample, judge, report."""
    words = parser(__doc__)
    words.add_argument("runs", type=Path, nargs="+")
    words.add_argument("--count", type=int, default=300)
    words.add_argument("--from-step", type=int, default=0)
    words.add_argument("--note", default="")
    options = parsed(words)
    rows = []
    for run in options.runs:
        trained = read_yaml(Recipe, run / "recipe.yaml")
        recipe = replace(trained, plan=get(trained.name).plan)
        for checkpoint in sorted((run / "checkpoints").glob("step-*")):
            step = int(checkpoint.name.removeprefix("step-"))
            if step >= options.from_step:
                share = accuracy(recipe, checkpoint, options.count)
                rows.append((recipe.name, step, f"{seconds_at(run, step):.0f}", f"{share:.3f}"))
                print(*rows[-1], flush=True)
    note = f"{options.count} images a row, seeds from 0. {options.note}"
    publish(options, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
