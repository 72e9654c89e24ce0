"""A tokenizer by its name, and as a folder: model.safetensors and a config.json that builds it."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from unmask.checkpoints.locate import EXPORT, check_path, find_folder
from unmask.checkpoints.store import WEIGHTS, Saved, entry, load_weights, save_together
from unmask.errors import InputError, did_you_mean
from unmask.files.serial import from_dict, to_dict
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, filled

FORMAT = "unmask-tokenizer"
FIRST = "conv_vq"  # the family of a folder that names none
FAMILIES: dict[str, str] = {
    "conv_vq": "unmask.tokenizers.conv_stack.ConvVQ",
    "maskgit_vqgan": "unmask.tokenizers.vqgan.MaskGITVQGAN",
    "vqgan": "unmask.tokenizers.vqgan.VQGAN",
    "conv_kl": "unmask.tokenizers.conv_stack.ConvKL",
    "kl_vae": "unmask.tokenizers.vqgan.KLVAE",
    "dc_ae": "unmask.tokenizers.dc_ae.DCAE",
    "patches": "unmask.tokenizers.patches.Patches",
}
"""Class of the sizes by the family's name in ``config.json``, imported when a folder is opened."""


def save_tokenizer(tokenizer: ImageTokenizer, folder: Path, *, half: bool = False) -> None:
    """Write a folder that :func:`load_tokenizer` reads; ``half`` stores float16."""
    save_together(saved_tokenizer(tokenizer, folder), half=half)


def saved_tokenizer(tokenizer: ImageTokenizer, folder: Path) -> Saved:
    """What a folder of a tokenizer will hold."""
    network = to_dict(tokenizer.config)
    config = {"format": FORMAT, "family": tokenizer.family, "network": network}
    return Saved(folder, tokenizer.state_dict(), config)


def load_tokenizer(name: str | Path) -> ImageTokenizer:
    """A tokenizer in evaluation mode, frozen. What is saved at a place goes before its name.

    Args:
        name: a folder or run of this library, a shipped name, a hub repository in this library's
            form, ``patches-<pixels>-grey`` or ``-rgb``, or anything that
            :func:`unmask.tokenizers.published.load_published` takes.

    Raises:
        InputError: when there is none.
    """
    path = Path(name)
    check_path(path)
    if not any((path / at / WEIGHTS).is_file() for at in (".", EXPORT)):
        from unmask.tokenizers.patches import named_patches
        from unmask.tokenizers.published import PUBLISHED, load_published, published_name
        from unmask.tokenizers.published import weights_file as file_of

        if published_name(name) in PUBLISHED:
            return load_published(name)
        if (patches := named_patches(str(name))) is not None:
            return patches.build().eval()
        if file_of(path) is not None:
            return load_published(path)
    return _load_saved(name)


def _load_saved(name: str | Path) -> ImageTokenizer:
    try:
        path = find_folder(name)
    except InputError as error:
        if Path(name).exists():
            raise
        from unmask.tokenizers.published import PUBLISHED

        known = ", ".join(PUBLISHED)
        raise InputError(f"{error}; published: {known}; also patches-8-rgb and the like") from None
    try:
        state, config = load_weights(path)
    except InputError:
        from unmask.tokenizers.published import check_efficientvit

        check_efficientvit(path)
        raise
    if config.get("format") != FORMAT:
        raise InputError(
            f"{path} holds no tokenizer (its config.json says {config.get('format')!r}); "
            "train one with: unmask tokenizer train fashion-vq --data IMAGES --out FOLDER"
        )
    sizes = _family(str(config.get("family", FIRST)), path)
    network = from_dict(sizes, entry(config, "network", dict, path), str(path / "config.json"))
    return filled(network.build, state, str(path))


def _family(name: str, origin: Path) -> type[ImageConfig]:
    """The class of a family's sizes."""
    if name not in FAMILIES:
        raise InputError(f"{origin}: unknown family {name!r}; {did_you_mean(name, FAMILIES)}")
    module, _, sizes = FAMILIES[name].rpartition(".")
    return getattr(import_module(module), sizes)
