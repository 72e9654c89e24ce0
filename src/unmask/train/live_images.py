"""Training from images that are encoded anew in every step, as random crops demand."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from unmask.data.build_cache import source_hash
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.objectives.masked import LocatedBatch
from unmask.objectives.substitution import SubstitutionBatch
from unmask.pictures import to_float
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.train.run import averaged_of


class LiveImages:
    """Images that are read like a cache of codes: every random crop is a view.

    What it hands out are pixels; :class:`EncodeFirst` makes codes of them on the device.

    Args:
        source: the images.
        transform: what is cut out of them; view v of an image is cut with random numbers of its
            own.
        grid: (h, w) tokens of a crop.
    """

    views = 1 << 62
    channels = 0  # of latents

    def __init__(self, source: ImageSource, transform: Transform, grid: tuple[int, int]) -> None:
        self.source, self.transform, self.grid = source, transform, grid
        self.length = grid[0] * grid[1]
        self.class_names, self.source_hash = source.class_names, source_hash(source)
        labels = [source.label(row) for row in range(len(source))]
        self.labels = torch.tensor([-1 if label is None else label for label in labels])

    def __len__(self) -> int:
        """N, images."""
        return len(self.source)

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(n, C, H, W)`` uint8 crops of ``(n,)`` images in ``(n,)`` views; noise is not used."""
        pairs = zip(rows.tolist(), views.tolist(), strict=True)
        return torch.stack([self._crop(row, view) for row, view in pairs])

    def _crop(self, row: int, view: int) -> Tensor:
        """A crop of the image, or of the next one of its class that can be read."""
        for candidate in chain(range(row, len(self)), range(row)):
            if self.labels[candidate] == self.labels[row]:
                try:
                    image = self.source.image(candidate)
                except UnreadableImageError:
                    continue
                return self.transform(image, keyed_generator("view", view))
        raise InputError(f"no image like {self.source.key(row)} can be read")


def live_images(recipe: Recipe, source: ImageSource, tokenizer: ImageTokenizer) -> LiveImages:
    """The images of a recipe that cuts them at random.

    Raises:
        InputError: the tokenizer makes latents, which are read from caches only.
    """
    if tokenizer.space[0] != "codes":
        raise InputError(
            f"crop={recipe.crop!r} encodes images in every step, which latents are not made for; "
            "give --crop center, or --cache"
        )
    transform = Transform(
        size=recipe.image_size,
        crop=recipe.crop,
        resample="bilinear",  # MAGE's pre-training
        flip=recipe.flip,
        channels=tokenizer.image_channels,
    )
    return LiveImages(source, transform, tokenizer.grid(recipe.image_size))


class EncodeFirst(nn.Module):
    """An objective whose batches hold images: a frozen tokenizer makes codes of them first.

    It computes in the precision of the training, as MAGE's did.

    Args:
        objective: takes batches of codes.
        tokenizer: of codes; it is frozen.
    """

    def __init__(self, objective: nn.Module, tokenizer: ImageTokenizer) -> None:
        super().__init__()
        self.objective = objective
        self.tokenizer = tokenizer.requires_grad_(False)

    @property
    def averaged(self) -> nn.Module:
        """The network that learns; see :class:`unmask.train.run.Objective`."""
        return averaged_of(self.objective)

    def train(self, mode: bool = True) -> EncodeFirst:
        """Set the mode; the tokenizer stays in evaluation."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, batch: LocatedBatch | SubstitutionBatch) -> dict[str, Tensor]:
        """The objective's figures.

        Args:
            batch: its tokens are ``(B, C, H, W)`` uint8 images.
        """
        codes = self.tokenizer.encode(to_float(batch.batch.tokens))  # (B, L)
        return self.objective(batch._replace(batch=batch.batch._replace(tokens=codes)))
