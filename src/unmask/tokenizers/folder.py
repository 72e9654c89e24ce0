"""A tokenizer on disk: model.safetensors and a config.json that says how to build it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from unmask.checkpoints.locate import EXPORT, check_path, find_folder
from unmask.checkpoints.store import WEIGHTS, Saved, entry, load_weights, save_together
from unmask.errors import InputError, did_you_mean
from unmask.files.serial import from_dict, to_dict
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer, ConvVQ, ConvVQTokenizer
from unmask.tokenizers.dc_ae import DCAE, DCAETokenizer
from unmask.tokenizers.image_tokenizer import filled
from unmask.tokenizers.latent_tokenizer import LatentTokenizer
from unmask.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANTokenizer
from unmask.tokenizers.patches import Patches, PatchTokenizer, named_patches
from unmask.tokenizers.published import (
    PUBLISHED,
    PUBLISHED_LATENTS,
    check_efficientvit,
    holds_latents,
    load_published,
    load_published_latents,
    published_name,
    weights_file,
)
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import KLVAE, VQGAN, KLVAETokenizer, VQGANTokenizer

FORMAT = "unmask-tokenizer"
AnyTokenizer = VQTokenizer | LatentTokenizer
Kind = type[VQTokenizer] | type[LatentTokenizer]
Wanted = TypeVar("Wanted", VQTokenizer, LatentTokenizer)
FAMILIES: dict[str, tuple[type[Any], Kind]] = {
    made.family: (sizes, made)
    for sizes, made in (
        (ConvVQ, ConvVQTokenizer),
        (MaskGITVQGAN, MaskGITVQGANTokenizer),
        (VQGAN, VQGANTokenizer),
        (ConvKL, ConvKLTokenizer),
        (KLVAE, KLVAETokenizer),
        (DCAE, DCAETokenizer),
        (Patches, PatchTokenizer),
    )
}
"""Sizes and tokenizer by the name in ``config.json``; a new family adds its pair."""


def save_tokenizer(tokenizer: AnyTokenizer, folder: Path, *, half: bool = False) -> None:
    """Write a folder that the loaders read; ``half`` stores float16."""
    save_together(saved_tokenizer(tokenizer, folder), half=half)


def saved_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> Saved:
    """What a folder of a tokenizer will hold."""
    network = to_dict(tokenizer.config)
    config = {"format": FORMAT, "family": tokenizer.family, "network": network}
    return Saved(folder, tokenizer.state_dict(), config)


def load_any_tokenizer(name: str | Path) -> AnyTokenizer:
    """A tokenizer of codes or of latents in evaluation mode, frozen.

    Args:
        name: a folder or run of this library, a shipped name, a hub repository in this library's
            form, ``patches-<pixels>-grey`` or ``-rgb``, or anything that
            :func:`unmask.tokenizers.published.load_published` or
            :func:`unmask.tokenizers.published.load_published_latents` takes.

    Raises:
        InputError: when there is none.
    """
    return _find(name)[1]()


def load_tokenizer(name: str | Path) -> VQTokenizer:
    """A tokenizer of codes; otherwise as :func:`load_any_tokenizer`.

    Raises:
        InputError: when there is none, or it makes latents.
    """
    return _load(name, VQTokenizer, PUBLISHED)


def load_latent_tokenizer(name: str | Path) -> LatentTokenizer:
    """A tokenizer of continuous latents; otherwise as :func:`load_any_tokenizer`.

    Raises:
        InputError: when there is none, or it makes codes.
    """
    return _load(name, LatentTokenizer, PUBLISHED_LATENTS)


def _load(name: str | Path, wanted: type[Wanted], published: dict[str, Any]) -> Wanted:
    kind, load = _find(name)
    if not issubclass(kind, wanted):
        raise InputError(
            f"{name} makes {kind.makes}, wanted is a tokenizer of {wanted.makes}; "
            f"published: {', '.join(published)}"
        )
    return load()


def _find(name: str | Path) -> tuple[Kind, Callable[[], Any]]:
    """What a name leads to: its kind, and how to load it. What is saved here goes first."""
    path = Path(name)
    check_path(path)
    text = published_name(name)
    if not any((path / at / WEIGHTS).is_file() for at in (".", EXPORT)):
        if text in PUBLISHED:
            return VQTokenizer, partial(load_published, text)
        if text in PUBLISHED_LATENTS:
            return LatentTokenizer, partial(load_published_latents, text)
        if (patches := named_patches(text)) is not None:
            return PatchTokenizer, lambda: PatchTokenizer(patches).eval()
        if weights_file(path) is not None:
            if holds_latents(path):
                return LatentTokenizer, partial(load_published_latents, path)
            return VQTokenizer, partial(load_published, path)
    return _find_saved(name)


def _find_saved(name: str | Path) -> tuple[Kind, Callable[[], Any]]:
    try:
        path = find_folder(name)
    except InputError as error:
        if Path(name).exists():
            raise
        known = ", ".join((*PUBLISHED, *PUBLISHED_LATENTS))
        raise InputError(f"{error}; published: {known}; also patches-8-rgb and the like") from None
    check_efficientvit(path)
    state, config = load_weights(path)
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path} holds no tokenizer (its config.json says {config.get('format')!r}); "
            "train one with: unmask tokenizer train fashion-vq --data IMAGES --out FOLDER"
        )
    family = str(config.get("family", ConvVQTokenizer.family))
    if family not in FAMILIES:
        raise InputError(f"{path}: unknown family {family!r}; {did_you_mean(family, FAMILIES)}")
    sizes, tokenizer_class = FAMILIES[family]
    network = from_dict(sizes, entry(config, "network", dict, path), str(path / "config.json"))
    return tokenizer_class, partial(filled, partial(tokenizer_class, network), state, str(path))
