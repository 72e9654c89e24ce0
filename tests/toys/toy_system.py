"""A whole system small enough for every test: 16x16 pixels, 4x4 tokens of 16 codes, 3 classes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.guidance import Guidance
from unmask.masking import TrainMasking
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.pipeline import Pipeline
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import Ema, Training
from unmask.tokenizers.conv_stack import ConvVQ, ConvVQTokenizer

NAMES = ("cat", "Dog", "7")

NETWORK = MaskGITVitNetwork(codes=16, width=32, depth=2, heads=2, length=16, classes=3)
TOKENIZER = ConvVQ(widths=(8, 8, 8), blocks=(0, 0, 0), codes=16, code_dim=4)

TOY = Recipe(
    name="toy",
    summary="a toy",
    tokenizer="toy-vq",
    image_size=16,
    network=NETWORK,
    masking=TrainMasking(rounding="up"),
    training=Training(steps=4, batch_size=8, lr=1e-3, label_dropout=0.1, ema=Ema(decay=0.9)),
    plan=Plan(steps=5, guidance=Guidance(scale=2.0, ramp="revealed")),
)

UNCONDITIONAL = replace(
    TOY,
    network=replace(NETWORK, classes=0),
    training=replace(TOY.training, label_dropout=0.0),
    plan=Plan(steps=5),
)


def fill(module: nn.Module, key: str, deviation: float) -> None:
    """Weights of our own choice, so that nothing depends on torch's defaults."""
    generator = keyed_generator("toy", key)
    for name, parameter in module.named_parameters():
        if parameter.ndim > 1:
            parameter.data = torch.randn(parameter.shape, generator=generator) * deviation
        elif name.endswith("bias"):
            parameter.data.zero_()


def toy_tokenizer(key: str = "tokenizer") -> ConvVQTokenizer:
    """With random weights."""
    tokenizer = ConvVQTokenizer(TOKENIZER)
    fill(tokenizer, key, 0.3)
    return tokenizer.eval().requires_grad_(False)


def toy_pipeline(recipe: Recipe = TOY, *, pixels: bool = True, key: str = "model") -> Pipeline:
    """With random weights that prefer some codes clearly."""
    model = recipe.network.build()
    fill(model, key, 0.3)
    names = NAMES[: recipe.network.classes]
    return Pipeline(recipe, model, toy_tokenizer() if pixels else None, names)


def write_images(folder: Path, count: int = 36) -> Path:
    """Two classes that differ by where they are bright, of 16x16 pixels."""
    for index in range(count):
        noise = torch.rand(16, 16, 3, generator=keyed_generator("image", index)) * 60
        side, name = (slice(8), "left") if index % 2 else (slice(8, 16), "right")
        noise[:, side] += 150
        file = folder / name / f"{index:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.numpy().astype(np.uint8)).save(file)
    return folder
