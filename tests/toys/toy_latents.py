"""Continuous systems small enough for every test: 4x4 tokens, 3 classes, random weights."""

from __future__ import annotations

from dataclasses import replace

import torch
from toy_system import NAMES

from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.guidance import Guidance
from unmask.masking import NormalMasking
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.model import MaskedModel
from unmask.orders import RandomOrder
from unmask.pipeline import Pipeline
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import Ema, Training
from unmask.tokenizers.folder import load_tokenizer

DROPS = LatentNetwork(
    channels=6,
    width=16,
    depth=2,
    heads=2,
    decoder_width=16,
    decoder_depth=2,
    decoder_heads=2,
    length=16,
    head_width=16,
    head_depth=2,
    classes=3,
    buffer=4,
)
NETWORKS = {
    "drops": DROPS,
    "full": replace(DROPS, drops=False),
    "tied": replace(DROPS, tied=True),
    "full tied": replace(DROPS, drops=False, tied=True),
}


def latent_model(network: LatentNetwork = DROPS) -> MaskedModel:
    """With weights large enough that every part matters."""
    model, generator = network.build(), keyed_generator("toy latents")
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        if name.endswith("norm.weight"):
            parameter.data += 1
    return model.eval()


LATENT_TOY = Recipe(
    name="toy-latents",
    summary="a toy",
    tokenizer="patches-4-rgb",
    image_size=16,
    network=replace(DROPS, channels=48),
    masking=NormalMasking(mean=1.0, std=0.25, least=0.7),
    training=Training(steps=4, batch_size=8, lr=1e-3, label_dropout=0.1, ema=Ema(decay=0.9)),
    plan=Plan(
        steps=4,
        order=RandomOrder(),
        guidance=Guidance(scale=2.0, ramp="revealed"),
        draw=DiffusionDraw(respacing="ddim10"),
    ),
)


def latent_pipeline(recipe: Recipe = LATENT_TOY) -> Pipeline:
    """Patches of pixels for latents."""
    names = NAMES[: recipe.network.classes]
    tokenizer = load_tokenizer(recipe.tokenizer)
    return Pipeline(recipe, latent_model(recipe.network), tokenizer, names)
