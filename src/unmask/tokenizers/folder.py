"""A tokenizer on disk: model.safetensors and a config.json that says how to build it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from unmask.checkpoints.locate import EXPORT, find_folder
from unmask.checkpoints.store import WEIGHTS, load_state, load_weights, save_weights
from unmask.errors import InputError, did_you_mean
from unmask.recipes.serial import from_dict, to_dict
from unmask.tokenizers.conv_vq import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANTokenizer
from unmask.tokenizers.published import PUBLISHED, is_published, load_published
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import VQGAN, VQGANTokenizer

FORMAT = "unmask-tokenizer"
FAMILIES: dict[str, tuple[type[Any], type[Any]]] = {
    cls.family: (config, cls)
    for config, cls in (
        (ConvVQ, ConvVQTokenizer),
        (MaskGITVQGAN, MaskGITVQGANTokenizer),
        (VQGAN, VQGANTokenizer),
    )
}
"""Sizes and tokenizer by the name in ``config.json``; a new family adds its pair."""


def save_tokenizer(tokenizer: VQTokenizer, folder: Path, *, half: bool = False) -> None:
    """Write a folder that :func:`load_tokenizer` reads; ``half`` stores float16."""
    network = to_dict(tokenizer.config)
    config = {"format": FORMAT, "family": tokenizer.family, "network": network}
    save_weights(folder, tokenizer.state_dict(), config, half=half)


def load_tokenizer(name: str | Path) -> VQTokenizer:
    """A tokenizer in evaluation mode, frozen.

    Args:
        name: a folder or run of this library, a shipped name, a hub repository in this library's
            form, or anything that :func:`unmask.tokenizers.published.load_published` takes.

    Raises:
        InputError: when there is none.
    """
    saved_here = any((Path(name) / at / WEIGHTS).is_file() for at in (".", EXPORT))
    if not saved_here and is_published(name):
        return load_published(name)
    path = _find(name)
    state, config = load_weights(path)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path} holds no tokenizer (its config.json says {config.get('format')!r}); "
            "train one with: unmask tokenizer fashion-vq --data IMAGES --out FOLDER"
        )
    family = config.get("family", ConvVQTokenizer.family)
    if family not in FAMILIES:
        raise InputError(f"{path}: unknown family {family!r}; {did_you_mean(family, FAMILIES)}")
    sizes, tokenizer_class = FAMILIES[family]
    network = from_dict(sizes, config["network"], str(path / "config.json"))
    with torch.device("meta"):
        tokenizer = tokenizer_class(network)
    load_state(tokenizer, state)
    return tokenizer.eval().requires_grad_(False)


def _find(name: str | Path) -> Path:
    try:
        return find_folder(name)
    except InputError as error:
        if Path(name).exists():
            raise
        raise InputError(f"{error}; published: {', '.join(PUBLISHED)}") from None
