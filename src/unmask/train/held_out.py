"""The loss of a generator on images that it is not trained on, always under the same masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from statistics import fmean

from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import Dataset

from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.machine.processes import gathered, launched, share
from unmask.pictures import to_float
from unmask.recipes.training import Training
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.latent_tokenizer import to_map
from unmask.train.live_images import LiveImages
from unmask.train.log import lines_of
from unmask.train.run import Figures
from unmask.train.run_folder import LOG

BATCH = 64  # images, whose masks are drawn together where the recipe does not say
MOST = 4096  # images, whose latents stay in memory


class HeldOutImages(LiveImages):
    """Held-out images as a cache of tokens; each batch is encoded once, where it is first read.

    Args:
        source: the images.
        transform: brings them to size without chance.
        tokenizer: encodes them, on this process's device.
    """

    views = 1

    def __init__(
        self, source: ImageSource, transform: Transform, tokenizer: ImageTokenizer
    ) -> None:
        super().__init__(source, transform, tokenizer.grid(transform.size))
        self.tokenizer = tokenizer
        kind, count = tokenizer.space
        self.channels = count if kind == "channels" else 0
        self._stored: dict[tuple[int, ...], Tensor] = {}

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(n, L)`` codes, or ``(n, L, C)`` latents drawn with noise of that shape."""
        key = tuple(rows.tolist())
        if key not in self._stored:
            images = to_float(super().tokens(rows, views)).to(launched().device)  # (n, C, H, W)
            self._stored[key] = self.tokenizer.to(launched().device).encode(images).cpu()
        placed = None if noise is None else to_map(noise, self.channels, self.grid)
        return self.tokenizer.tokens(self._stored[key], placed)


class HeldOutLoss:
    """The objective's loss of whole batches that never change, shared by all processes; a ``Look``.

    Its figure is eval/loss, of the averaged weights where there are any, and then eval/loss_raw of
    the others; as in the training, but without dropout.

    Args:
        objective: of batches of tokens.
        batches: ``batches[k]`` is the list of micro-batches of a whole batch.
        training: of the recipe.
        count: of batches.
    """

    def __init__(
        self, objective: nn.Module, batches: Dataset, training: Training, *, count: int
    ) -> None:
        self.objective, self.batches, self.count = objective, batches, count
        self.averages = training.ema is not None

    def __call__(self, folder: Path, step: int, averaged: bool) -> Figures:
        """The mean over all batches, in every process."""
        own = [self._loss(number) for number in share(self.count)]
        name = "eval/loss" if averaged or not self.averages else "eval/loss_raw"
        return {name: fmean(loss for part in gathered(own) for loss in part)}

    def _loss(self, number: int) -> float:
        parts = send_to_device(self.batches[number], launched().device)
        return float(sum(self.objective(part)["loss"] for part in parts))

    def missing(self, out: Path, step: int) -> bool:
        """Whether the log has no such loss of a step."""
        return not any("eval/loss" in line for line in lines_of(out / LOG, step))


def held_out_training(training: Training, images: int) -> tuple[Training, int]:
    """How batches of so many held-out images are drawn, and how many there are."""
    size = min(BATCH, images)
    settings = replace(
        training, batch_size=size, accumulate=1, micro_batch_size=None, normalize="global", seed=0
    )
    return settings, min(images, training.evaluate_images, MOST) // size or 1
