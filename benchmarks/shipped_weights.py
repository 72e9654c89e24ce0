"""Scores of the shipped fashion-maskgit over several seeds, with the floors, and how it was made.

python benchmarks/shipped_weights.py [--seeds 0 10000 20000] [--report DIR]
"""

from __future__ import annotations

import statistics
from dataclasses import replace

from common import parsed, parser, publish

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate import EvaluationOptions, Generated, RealImages, evaluate
from unmask.pipeline import load

MADE_BY = """\
Made from the 60,000 images of the full Fashion-MNIST training set (the package embeds 8,000 of
them), on one CPU thread:

```text
unmask tokenizer train fashion-vq --data FASHION_MNIST --out runs/vq \\
    --training.steps 3000 --training.seed 1
unmask train fashion-maskgit --data FASHION_MNIST --tokenizer runs/vq --out runs/maskgit \\
    --training.steps 5000 --training.batch-size 64 --training.ema.decay 0.999
python examples/ship_weights.py runs/vq runs/maskgit
```
"""


def main() -> None:
    """Judge each seed's 2,000 images against the embedded held-out ones."""
    words = parser(__doc__)
    words.add_argument("--model", default="fashion-maskgit")
    words.add_argument("--seeds", type=int, nargs="+", default=[0, 10_000, 20_000])
    options = parsed(words)
    pipeline = load(options.model)
    train, held_out = (open_source("fashion-mnist", split=s) for s in ("train", "val"))
    transform = Transform(size=28, crop="none", channels=1)
    rows, last = [], None
    for seed in options.seeds:
        how = EvaluationOptions(classifier="fashion", seed=seed)
        made = Generated.of_pipeline(pipeline, how, pipeline.plan)
        if seed != options.seeds[-1]:
            made = replace(made, tokenizer=None)  # its floor is the same for all
        last = evaluate(made, RealImages(train, held_out, transform), options=how)
        row = last.rows[0]
        rows.append([made.seeds, row.fd, row.precision, row.recall, row.class_accuracy])
        print(*rows[-1], sep="\t", flush=True)
    assert last is not None, "at least one seed"
    if len(rows) > 1:
        columns = list(zip(*rows, strict=True))[1:]
        rows.append(["mean", *(statistics.fmean(column) for column in columns)])
        rows.append(["standard deviation", *(statistics.stdev(column) for column in columns)])
    header = ["seeds", "fd", "precision", "recall", "class accuracy"]
    note = f"Plan: `{pipeline.plan}`\n\n```text\n{last.table()}\n```\n\n{MADE_BY}"
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
