"""Make the Fashion-MNIST classifier that ships with unmask (about 4 minutes on two cores).

    python examples/train_fashion_classifier.py --data DIR --out fashion_classifier.safetensors

DIR holds the four gzipped IDX files of Fashion-MNIST. The classifier sees the 60,000 training
images only; the accuracy stored with its weights is that on the 10,000 test images.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor

from unmask.data.idx import read_idx
from unmask.evaluate.classifier import load_classifier, train_classifier, with_test_accuracy


def read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Images ``(N, 1, 28, 28)`` uint8 and labels ``(N,)`` int64 of "train" or "t10k"."""
    images = read_idx(folder / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{split}-labels-idx1-ubyte.gz", "labels")
    return torch.tensor(images)[:, None], torch.tensor(labels).long()


def main() -> None:
    """Train, test, write, read back and test again as it will be used."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    images, labels = read_split(options.data, "train")
    trained = train_classifier(images, labels, classes=10, name="Fashion-MNIST classifier")
    date = datetime.now(UTC).date().isoformat()
    trained = replace(trained, note=f"trained on the 60,000 Fashion-MNIST training images, {date}")
    test = read_split(options.data, "t10k")
    trained.save(options.out)
    rounded = with_test_accuracy(
        load_classifier(options.out), *test
    )  # the float16 weights are what ships
    rounded.save(options.out)
    print(f"accuracy on {rounded.tested_on} test images: {rounded.accuracy:.4f}")


if __name__ == "__main__":
    main()
