"""Put trained runs into the package, as float16, under the names of their recipes.

    unmask tokenizer train fashion-kl --data FASHION_MNIST --out runs/kl
    unmask train fashion-mar --data FASHION_MNIST --out runs/mar
    python examples/ship_weights.py runs/kl runs/mar

Runs are shipped when they are complete. The exact commands behind the shipped weights stand in the
reports in benchmarks/reports.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import yaml

from unmask.assets import HERE
from unmask.pipeline import Pipeline, load
from unmask.recipes import get
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer


def ship_tokenizer(run: Path, name: str, out: Path) -> None:
    """The tokenizer of a finished run."""
    save_tokenizer(load_tokenizer(run), out / name, half=True)


def ship_generator(run: Path, out: Path) -> None:
    """The generator of a run, with the plan and results that its recipe has by now."""
    pipeline: Pipeline = load(run)
    ours = get(pipeline.recipe.name)
    pipeline.recipe = replace(
        pipeline.recipe, plan=ours.plan, plans=ours.plans, results=ours.results
    )
    pipeline.save_pretrained(out / ours.name, half=True)


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
