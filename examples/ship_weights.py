"""Put a finished tokenizer run and generator run into the package, as float16.

    unmask tokenizer train fashion-vq --data FASHION_MNIST --out runs/vq --training.steps 3000
    unmask train fashion-maskgit --data FASHION_MNIST --tokenizer runs/vq --out runs/maskgit ...
    python examples/ship_weights.py --tokenizer runs/vq --generator runs/maskgit

The exact commands behind the shipped weights stand in benchmarks/reports/shipped_weights_*.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from unmask.assets import HERE
from unmask.data.classes import read_class_names
from unmask.data.embedded import fashion_mnist_10k
from unmask.pipeline import load
from unmask.recipes import get
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer


def main() -> None:
    """Copy, in half precision, under the recipes' names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--generator", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=HERE / "weights")
    options = parser.parse_args()
    pipeline = load(options.generator)
    plan = get(pipeline.recipe.name).plan  # chosen after training: benchmarks/sampling_sweep.py
    pipeline.recipe = replace(pipeline.recipe, tokenizer="fashion-vq", plan=plan)
    pipeline.class_names = read_class_names(fashion_mnist_10k())  # the original files have none
    save_tokenizer(load_tokenizer(options.tokenizer), options.out / "fashion-vq", half=True)
    pipeline.save_pretrained(options.out / pipeline.recipe.name, half=True)
    for file in sorted(options.out.rglob("*.safetensors")):
        file.chmod(0o644)
        print(f"{file.relative_to(options.out)}: {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
