"""Put trained runs into the package, as float16, under the names of their recipes.

    unmask tokenizer train fashion-kl --data FASHION_MNIST --out runs/kl
    unmask train fashion-mar --data FASHION_MNIST --out runs/mar
    python examples/ship_weights.py runs/kl runs/mar

A run that was stopped is shipped as of its last checkpoint. The exact commands behind the shipped
weights stand in the reports in benchmarks/reports.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from unmask.assets import HERE
from unmask.data.classes import read_class_names
from unmask.data.source import EMBEDDED
from unmask.files.serial import read_yaml
from unmask.pipeline import Pipeline, load
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.tokenizers.folder import load_any_tokenizer, save_tokenizer
from unmask.train.generator import export


def ship_tokenizer(run: Path, name: str, out: Path) -> None:
    """The tokenizer of a finished run."""
    save_tokenizer(load_any_tokenizer(run), out / name, half=True)


def ship_generator(run: Path, out: Path) -> None:
    """The generator of a run, with the plan and results that its recipe has by now."""
    recipe = read_yaml(Recipe, run / "recipe.yaml")
    names = read_class_names(EMBEDDED["fashion-mnist"]) if recipe.network.classes else ()
    pipeline: Pipeline = load(export(recipe, run, load_any_tokenizer(recipe.tokenizer), names))
    ours = get(recipe.name)
    pipeline.recipe = replace(
        pipeline.recipe, plan=ours.plan, plans=ours.plans, results=ours.results
    )
    pipeline.save_pretrained(out / recipe.name, half=True)


def main() -> None:
    """Copy, in half precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=HERE / "weights")
    options = parser.parse_args()
    for run in options.runs:
        name = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf8"))["name"]
        if name in TOKENIZER_RECIPES:
            ship_tokenizer(run, name, options.out)
        else:
            ship_generator(run, options.out)
    for file in sorted(options.out.rglob("*.safetensors")):
        file.chmod(0o644)
        print(f"{file.relative_to(options.out)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
