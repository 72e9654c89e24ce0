"""A tokenizer on disk: model.safetensors and a config.json that says how to build it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from unmask.checkpoints.locate import EXPORT, find_folder
from unmask.checkpoints.store import WEIGHTS, load_state, load_weights, save_weights
from unmask.errors import InputError, did_you_mean
from unmask.recipes.serial import from_dict, to_dict
from unmask.tokenizers.conv_vq import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.kl_vae import KLVAE, KLVAETokenizer
from unmask.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANTokenizer
from unmask.tokenizers.published import PUBLISHED, is_published, load_published, weights_file
from unmask.tokenizers.published_latents import PUBLISHED_LATENTS, load_published_latents
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import VQGAN, VQGANTokenizer

FORMAT = "unmask-tokenizer"
FAMILIES: dict[str, tuple[type[Any], type[VQTokenizer]]] = {
    ConvVQTokenizer.family: (ConvVQ, ConvVQTokenizer),
    MaskGITVQGANTokenizer.family: (MaskGITVQGAN, MaskGITVQGANTokenizer),
    VQGANTokenizer.family: (VQGAN, VQGANTokenizer),
}
"""Sizes and tokenizer of codes by the name in ``config.json``; a new family adds its pair."""
LATENT_FAMILIES: dict[str, tuple[type[Any], type[KLVAETokenizer]]] = {
    KLVAETokenizer.family: (KLVAE, KLVAETokenizer),
}
"""The same for continuous latents."""
Loaded = TypeVar("Loaded", bound=nn.Module)


def save_tokenizer(
    tokenizer: VQTokenizer | KLVAETokenizer, folder: Path, *, half: bool = False
) -> None:
    """Write a folder that the loader of its kind reads; ``half`` stores float16."""
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
    known = f"published: {', '.join(PUBLISHED)}"
    if not _is_saved(name):
        if str(name) in PUBLISHED_LATENTS:
            raise InputError(f"{name} makes latents, wanted is a tokenizer of codes; {known}")
        if is_published(name):
            return load_published(name)
    return _load_saved(_find(name, known), FAMILIES, known)


def load_latent_tokenizer(name: str | Path) -> KLVAETokenizer:
    """A tokenizer of continuous latents in evaluation mode, frozen.

    Args:
        name: as of :func:`load_tokenizer`; foreign weights as of
            :func:`unmask.tokenizers.published_latents.load_published_latents`.

    Raises:
        InputError: when there is none.
    """
    known = f"published: {', '.join(PUBLISHED_LATENTS)}"
    if not _is_saved(name):
        if str(name) in PUBLISHED:
            raise InputError(f"{name} makes codes, wanted is a tokenizer of latents; {known}")
        if str(name) in PUBLISHED_LATENTS or weights_file(Path(name)) is not None:
            return load_published_latents(name)
    return _load_saved(_find(name, known), LATENT_FAMILIES, known)


def _is_saved(name: str | Path) -> bool:
    return any((Path(name) / at / WEIGHTS).is_file() for at in (".", EXPORT))


def _load_saved(
    path: Path, families: Mapping[str, tuple[type[Any], type[Loaded]]], known: str
) -> Loaded:
    state, config = load_weights(path)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path} holds no tokenizer (its config.json says {config.get('format')!r}); "
            "train one with: unmask tokenizer fashion-vq --data IMAGES --out FOLDER"
        )
    family = config.get("family", ConvVQTokenizer.family)
    if family in (FAMILIES.keys() | LATENT_FAMILIES.keys()) - families.keys():
        made = "codes" if family in FAMILIES else "latents"
        raise InputError(f"{path} makes {made}, which do not fit here; {known}")
    if family not in families:
        raise InputError(f"{path}: unknown family {family!r}; {did_you_mean(family, families)}")
    sizes, tokenizer_class = families[family]
    network = from_dict(sizes, config["network"], str(path / "config.json"))
    with torch.device("meta"):
        tokenizer = tokenizer_class(network)
    load_state(tokenizer, state)
    return tokenizer.eval().requires_grad_(False)


def _find(name: str | Path, known: str) -> Path:
    try:
        return find_folder(name)
    except InputError as error:
        if Path(name).exists():
            raise
        raise InputError(f"{error}; {known}") from None
