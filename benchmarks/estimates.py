"""Memory and operations of published trainings, counted on tensors without memory."""

from __future__ import annotations

from common import parsed, parser, publish

from unmask.estimate import GPUS, estimate
from unmask.recipes import get

NAMES = (
    *("maskgit-pytorch-imagenet256", "maskgit-unlockmgm-imagenet256", "mage-base", "mage-large"),
    *("mar-base", "mar-large", "mar-huge", "emigm-large-256", "emigm-large-512"),
)
TOGETHER = 8  # images of the micro-batch of which activations are stated
PUBLISHED = {"mar-large": (400, 31, 32)}  # epochs, hours and H100 (MAR's README)
PLANNED_EPOCHS = 800  # of its recipe
GPUS_USED = 8
NOTE = (
    "State: weights, gradients, AdamW's moments, average, and buckets of exchange, in float32. "
    f"Activations at {TOGETHER} images, in the recipe's precision. Operations forward and backward "
    "of matrix products and attention."
)


def main() -> None:
    """Count and print."""
    words = parser(__doc__)
    words.add_argument("--names", nargs="+", default=list(NAMES))
    options = parsed(words)
    rows, notes, h100 = [], [NOTE], GPUS["h100"]
    for name in options.names:
        recipe = get(name)
        counted = estimate(recipe)
        fit = counted.fit(GPUS_USED, h100.memory)
        kept, recomputed = (
            round(found.activations.of(TOGETHER) / TOGETHER / 1e6)
            for found in (counted.kept, counted.recomputed)
        )
        rows.append((
            name, round(counted.parameters / 1e6, 1),
            round(sum(counted.on(GPUS_USED).values()) / 1e9, 1), kept, recomputed,
            round(counted.kept.flop / 1e9, 1),
            f"{fit.accumulate} x {fit.images}{' recomputed' * fit.recompute}",
            round(fit.memory / 1e9, 1),
        ))  # fmt: skip
        if name in PUBLISHED:
            epochs, hours, gpus = PUBLISHED[name]
            work = recipe.training.steps * recipe.training.batch_size * counted.kept.flop
            peak = hours * 3600 * gpus * h100.bf16
            share = work * epochs / PLANNED_EPOCHS / peak
            notes.append(
                f"{name} was trained {epochs} epochs in {hours} hours on {gpus} H100 (MAR's "
                f"README): a utilisation of {share:.1%}."
            )
    header = (
        "recipe", "parameters, M", "state a GPU, GB", "activations an image, MB", "recomputed, MB",
        "GFLOP an image", f"micro-batches on {GPUS_USED} H100", "memory, GB",
    )  # fmt: skip
    publish(options, rows, header=header, note="\n\n".join(notes))


if __name__ == "__main__":
    main()
