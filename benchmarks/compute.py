"""Arithmetic of sampling: CPU seconds, tokens and class accuracy of bf16 beside float32.

    python benchmarks/compute.py [--images 300] [--pairs 3] [--report DIR]

Shipped systems make the same images in float32 and bf16, in turn, on one thread; time is the
process's CPU time of making tokens, without loading or decoding to pixels. Class accuracy is by
the shipped classifier. bf16 weights are ``load(dtype=)``.
"""

from __future__ import annotations

import statistics
import time

import torch
from common import parsed, parser, publish
from torch import Tensor

from unmask.evaluate.classifier import load_fashion_classifier
from unmask.generation import decoded
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline, load

SYSTEMS = ("fashion-maskgit", "fashion-mar")
HEADER = (
    "system", "arithmetic", "CPU ms an image", "times float32's speed", "lowest to highest pair",
    "class accuracy", "like float32",
)  # fmt: skip


def accuracy(pipeline: Pipeline, tokens: Tensor, labels: list[int]) -> float:
    """Share of the images whose class the classifier names."""
    pixels = decoded(pipeline.tokenizer, tokens, pipeline.model.grid)
    found = load_fashion_classifier().logits(to_uint8(pixels)).argmax(-1)
    return (found == torch.tensor(labels)).double().mean().item()


def likeness(found: Tensor, wanted: Tensor) -> str:
    """How near tokens are: the share of equal codes, or the mean difference of latents."""
    if found.dtype == torch.int64:
        return f"{(found == wanted).double().mean().item():.2f} of codes equal"
    return f"latents differ by {(found - wanted).abs().mean().item():.4f} in the mean"


def main() -> None:
    """Measure and print."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=300)
    words.add_argument("--pairs", type=int, default=3)
    options = parsed(words)
    torch.set_num_threads(1)
    rows = []
    for name in SYSTEMS:
        labels = [k % 10 for k in range(options.images)]
        plain, brain = load(name), load(name, dtype=torch.bfloat16)
        ways = {
            "float32": (plain, "float32"),
            "bf16": (plain, "bf16"),
            "bf16 weights": (brain, None),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        made: dict[str, Tensor] = {}
        for pipeline, compute in ways.values():  # what is read and allocated first
            pipeline.tokens(labels[:10], seeds=range(10), compute=compute)  # type: ignore[arg-type]
        for _ in range(options.pairs):
            for way, (pipeline, compute) in ways.items():
                how = {"seeds": range(options.images), "batch_size": 50, "compute": compute}
                start = time.process_time()
                made[way] = pipeline.tokens(labels, **how).tokens  # type: ignore[arg-type]
                seconds[way].append(time.process_time() - start)
        for way, times in seconds.items():
            ratios = [a / b for a, b in zip(seconds["float32"], times, strict=True)]
            rows.append(
                (
                    name,
                    way,
                    f"{1000 * statistics.median(times) / options.images:.1f}",
                    f"{statistics.median(ratios):.2f}",
                    f"{min(ratios):.2f} to {max(ratios):.2f}",
                    f"{accuracy(plain, made[way], labels):.3f}",
                    likeness(made[way], made["float32"]),
                )
            )
    note = (
        f"{options.images} images of each, ten classes in turn, seeds from 0, batches of 50, one "
        f'thread; medians of {options.pairs} interleaved rounds. bf16 is `compute="bf16"` '
        "(`--compute bf16`): matrix products alone are in bf16. bf16 weights are "
        "`load(dtype=torch.bfloat16)`: everything the network computes is."
    )
    publish(options, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
