"""Small tokenizers that this library trains itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from unmask.errors import pick
from unmask.files.serial import read_yaml
from unmask.image_size import ImageSize
from unmask.ranges import Name, Ranged
from unmask.recipes.training import Ema, Training
from unmask.results import Result, Text
from unmask.tokenizers.conv_stack import ConvKL, ConvVQ
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.objective import TokenizerLoss
from unmask.tokenizers.tokenizer import grid_of


@dataclass(frozen=True, kw_only=True)
class TokenizerRecipe(Ranged):
    """Everything that decides a trained tokenizer besides the images."""

    name: Name
    """Name of the recipe on the command line."""
    summary: Text
    """One line that describes the recipe in lists."""
    image_size: ImageSize
    """Size of the images in pixels: one number for a square, or height and width."""
    crop: Literal["center", "random", "none"] = "center"
    """How training images get their size: ADM's "center" or "random" crop; "none" takes images that
    have it already."""
    flip: bool = True
    """Mirror half of the training images at random."""
    network: ConvVQ | ConvKL
    """Sizes of the tokenizer's encoder, bottleneck and decoder."""
    loss: TokenizerLoss = field(default_factory=TokenizerLoss)
    """Terms of the loss and their weights."""
    training: Training
    """Optimiser, schedule, batches and precision of the training."""
    results: tuple[Result, ...] = ()
    """Measured scores, with their sources."""

    def __post_init__(self) -> None:
        """Reject an image size that the network cannot tile."""
        super().__post_init__()
        grid_of(self.image_size, self.network.stride)

    @property
    def channels(self) -> int:
        """Image channels, 1 or 3."""
        return self.network.image_channels

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return grid_of(self.image_size, self.network.stride)

    def build(self) -> ImageTokenizer:
        """The tokenizer with random weights."""
        return self.network.build()


FASHION_VQ = TokenizerRecipe(
    name="fashion-vq",
    summary="28x28 grey, 7x7 tokens of 256 codes; a minute on two CPU cores",
    image_size=28,
    crop="none",
    flip=False,
    network=ConvVQ(image_channels=1, widths=(16, 32, 64), blocks=(0, 0, 1), codes=256, code_dim=8),
    loss=TokenizerLoss(l1=1.0, l2=2.0),
    training=Training(steps=1200, batch_size=32, lr=4e-3, warmup_steps=50, ema=None),
)
FASHION_KL = replace(
    FASHION_VQ,
    name="fashion-kl",
    summary="28x28 grey, 7x7 tokens of 8 numbers; two minutes on two CPU cores",
    network=ConvKL(image_channels=1, widths=(16, 32, 64), blocks=(0, 0, 1), channels=8),
    loss=TokenizerLoss(l1=1.0, l2=2.0, kl=1e-4),
    training=replace(FASHION_VQ.training, steps=2400),
)
SMALL = Training(
    steps=20_000, batch_size=64, lr=1e-3, warmup_steps=500, clip_grad_norm=1.0, ema=Ema(decay=0.999)
)
SMALL_VQ_64 = TokenizerRecipe(
    name="small-vq-64",
    summary="64x64 colour, 8x8 tokens of 1024 codes",
    image_size=64,
    network=ConvVQ(widths=(32, 64, 128, 128), blocks=(0, 1, 1, 2), codes=1024, code_dim=16),
    training=SMALL,
)
SMALL_KL_64 = replace(
    SMALL_VQ_64,
    name="small-kl-64",
    summary="64x64 colour, 8x8 tokens of 16 numbers",
    network=ConvKL(widths=(32, 64, 128, 128), blocks=(0, 1, 1, 2), channels=16),
    loss=TokenizerLoss(kl=1e-4),
)
SMALL_VQ_128 = replace(
    SMALL_VQ_64,
    name="small-vq-128",
    summary="128x128 colour, 16x16 tokens of 1024 codes; wants a GPU",
    image_size=128,
    network=ConvVQ(widths=(64, 128, 128, 256), blocks=(1, 1, 2, 2), codes=1024, code_dim=16),
    loss=TokenizerLoss(perceptual=0.1),
    training=replace(SMALL, steps=100_000, lr=4e-4, warmup_steps=1000),
)

TOKENIZER_RECIPES: dict[str, TokenizerRecipe] = {
    recipe.name: recipe
    for recipe in (FASHION_VQ, FASHION_KL, SMALL_VQ_64, SMALL_KL_64, SMALL_VQ_128)
}


def get_tokenizer_recipe(name: str | Path) -> TokenizerRecipe:
    """The tokenizer recipe of that name, or the one in that YAML file.

    Raises:
        InputError: for a name that is neither.
    """
    if str(name) not in TOKENIZER_RECIPES and str(name).endswith((".yaml", ".yml")):
        return read_yaml(TokenizerRecipe, Path(name))
    return pick(TOKENIZER_RECIPES, str(name), "tokenizer recipe")
