"""What the shipped fashion-mage knows of classes, and how good its samples are.

    python benchmarks/fashion_mage.py [--epochs 40] [--count 500] [--report DIR]

A linear probe on mean-pooled features of the embedded training images of Fashion-MNIST, judged on
the held-out ones, beside the same encoder at random initialisation and raw pixels; and
unconditional samples at three temperatures, with the floors.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from common import parsed, parser, publish

from unmask.cli import main as unmask
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate import EvaluationOptions, Generated, RealImages, evaluate
from unmask.pipeline import load
from unmask.plan_changes import PlanChanges
from unmask.show import Table

MODEL, DATA = "fashion-mage", "fashion-mnist"
TEMPERATURES = (2.0, 4.5, 8.0)
CACHE = "cache build --tokenizer fashion-vq --image-size 28 --no-flip"
PROBE = "--crop none --no-flip --warmup-epochs 2 --base-lr 1"
FEATURES = {MODEL: "", "the same encoder at random initialisation": "--baseline random"}


def run(*words: str | Path) -> None:
    """A command of the library."""
    status = unmask([str(part) for word in words for part in str(word).split()])
    assert status == 0, words


def probed(place: Path, name: str, epochs: int, *more: str | Path) -> list[object]:
    """A row: accuracy at the end, and at best."""
    out = place / name.replace(" ", "-")
    run("probe", MODEL, "--data", DATA, PROBE, "--epochs", str(epochs), "--out", out, *more)
    lines = map(json.loads, (out / "accuracy.jsonl").read_text(encoding="utf8").splitlines())
    found = [line["accuracy"] for line in lines]
    return [name, found[-1], max(found)]


def sampled(options: argparse.Namespace) -> Table:
    """Scores at every temperature, and the floors."""
    pipeline, how = load(MODEL), EvaluationOptions(count=options.count)
    real = RealImages(
        *(open_source(DATA, split=side) for side in ("train", "val")),
        Transform(size=28, crop="none", channels=1),
    )
    rows = []
    for temperature in TEMPERATURES:
        plan = PlanChanges(temperature=temperature).applied(pipeline.plan)
        made, *floors = evaluate(Generated.of_pipeline(pipeline, how, plan), real, options=how).rows
        rows.append([f"{temperature:g}", made.fd, made.precision, made.recall])
    rows += [[floor.name, floor.fd, floor.precision, floor.recall] for floor in floors]
    return Table(titles=["temperature", "fd", "precision", "recall"], rows=rows)


def main() -> None:
    """Probe, sample, report."""
    words = parser(__doc__)
    words.add_argument("--epochs", type=int, default=40)
    words.add_argument("--count", type=int, default=500)
    options = parsed(words)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        run(CACHE, "--data", DATA, "--out", place / "codes")
        codes = ("--no-embedding-dropout", "--cache", place / "codes")
        rows = [
            probed(place, what, options.epochs, *codes, more) for what, more in FEATURES.items()
        ]
        rows.append(probed(place, "raw pixels", options.epochs, "--baseline", "pixels"))
    note = (
        "The shipped weights are the averaged ones after 2,000 of the recipe's 4,000 steps, where "
        "the run was stopped, on the 60,000 images of the original, without labels. Probe: "
        f"`unmask probe {MODEL} --data {DATA} {PROBE} --epochs {options.epochs}`, of encoders with "
        f"`--no-embedding-dropout` on a cache of `unmask {CACHE}`.\n\n"
        f"Unconditional samples, {options.count} by seeds from 0; Fréchet distance of "
        f"EfficientNet-lite0 features, not FID:\n\n{sampled(options).markdown()}"
    )
    publish(options, rows, header=["features", "accuracy at the end", "at best"], note=note)


if __name__ == "__main__":
    main()
