"""Small tokenizers that this library trains itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from unmask.errors import InputError, did_you_mean
from unmask.recipes.recipe import Result
from unmask.recipes.serial import read_yaml
from unmask.tokenizers.conv_vq import ConvVQ
from unmask.tokenizers.tokenizer import square_grid
from unmask.tokenizers.vq_objective import VQLoss
from unmask.train.settings import Ema, Training


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe:
    """Everything that decides a trained tokenizer besides the images."""

    name: str
    """What the command line calls it."""
    summary: str
    """One line for the list of recipes."""
    image_size: int
    """Pixels a side."""
    crop: Literal["center", "random", "none"] = "center"
    """How training images get square: ADM centre or random crop, or must be square already."""
    flip: bool = True
    """Whether mirrored images are images too."""
    network: ConvVQ
    """Sizes of encoder, codebook and decoder."""
    loss: VQLoss = field(default_factory=VQLoss)
    """What is minimised."""
    training: Training
    """Optimiser, schedule, precision."""
    results: tuple[Result, ...] = ()
    """Measured scores."""

    def __post_init__(self) -> None:
        """Reject an image size that the network cannot tile."""
        square_grid(self.image_size, self.network.stride)

    @property
    def channels(self) -> int:
        """Image channels, 1 or 3."""
        return self.network.image_channels

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return square_grid(self.image_size, self.network.stride)


FASHION_VQ = TokenizerRecipe(
    name="fashion-vq",
    summary="28x28 grey, 7x7 tokens of 256 codes; a minute on two CPU cores",
    image_size=28,
    crop="none",
    flip=False,
    network=ConvVQ(image_channels=1, widths=(16, 32, 64), blocks=(0, 0, 1), codes=256, code_dim=8),
    loss=VQLoss(l1=1.0, l2=2.0),
    training=Training(
        steps=1200,
        batch_size=32,
        lr=4e-3,
        schedule="cosine",
        warmup_steps=50,
        ema=None,
    ),
)

SMALL_VQ_64 = TokenizerRecipe(
    name="small-vq-64",
    summary="64x64 colour, 8x8 tokens of 1024 codes",
    image_size=64,
    network=ConvVQ(widths=(32, 64, 128, 128), blocks=(0, 1, 1, 2), codes=1024, code_dim=16),
    training=Training(
        steps=20_000,
        batch_size=64,
        lr=1e-3,
        schedule="cosine",
        warmup_steps=500,
        clip_grad_norm=1.0,
        ema=Ema(decay=0.999),
    ),
)

SMALL_VQ_128 = TokenizerRecipe(
    name="small-vq-128",
    summary="128x128 colour, 16x16 tokens of 1024 codes; wants a GPU",
    image_size=128,
    network=ConvVQ(widths=(64, 128, 128, 256), blocks=(1, 1, 2, 2), codes=1024, code_dim=16),
    loss=VQLoss(perceptual=0.1),
    training=Training(
        steps=100_000,
        batch_size=64,
        lr=4e-4,
        schedule="cosine",
        warmup_steps=1000,
        clip_grad_norm=1.0,
        ema=Ema(decay=0.999),
    ),
)

TOKENIZER_RECIPES: dict[str, TokenizerRecipe] = {
    recipe.name: recipe for recipe in (FASHION_VQ, SMALL_VQ_64, SMALL_VQ_128)
}


def get_tokenizer_recipe(name: str | Path) -> TokenizerRecipe:
    """The tokenizer recipe of that name, or the one in that YAML file.

    Raises:
        InputError: for a name that is neither.
    """
    if str(name) in TOKENIZER_RECIPES:
        return TOKENIZER_RECIPES[str(name)]
    if str(name).endswith((".yaml", ".yml")):
        return read_yaml(TokenizerRecipe, Path(name))
    known = did_you_mean(str(name), TOKENIZER_RECIPES)
    raise InputError(f"unknown tokenizer recipe {str(name)!r}; {known}")
