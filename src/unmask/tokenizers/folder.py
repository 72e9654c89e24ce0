"""A tokenizer on disk: model.safetensors and a config.json that says how to build it."""

from __future__ import annotations

from pathlib import Path

import torch

from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.store import load_state, load_weights, save_weights
from unmask.errors import InputError
from unmask.recipes.serial import from_dict, to_dict
from unmask.tokenizers.conv_vq import ConvVQ, ConvVQTokenizer


def save_tokenizer(tokenizer: ConvVQTokenizer, folder: Path, *, half: bool = False) -> None:
    """Write a folder that :func:`load_tokenizer` reads; ``half`` stores float16."""
    config = {"format": "unmask-tokenizer", "network": to_dict(tokenizer.config)}
    save_weights(folder, tokenizer.state_dict(), config, half=half)


def load_tokenizer(folder: str | Path) -> ConvVQTokenizer:
    """The tokenizer of a folder, run or shipped name, in evaluation mode, frozen.

    Raises:
        InputError: when the folder holds no tokenizer.
    """
    path = find_folder(folder)
    state, config = load_weights(path)
    if config.get("format") != "unmask-tokenizer":
        raise InputError(
            f"{path} holds no tokenizer (its config.json says {config.get('format')!r}); "
            "train one with: unmask tokenizer fashion-vq --data IMAGES --out FOLDER"
        )
    network = from_dict(ConvVQ, config["network"], str(path / "config.json"))
    with torch.device("meta"):
        tokenizer = ConvVQTokenizer(network)
    load_state(tokenizer, state)
    return tokenizer.eval().requires_grad_(False)
