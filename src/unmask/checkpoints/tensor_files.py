"""Files of tensors that other projects publish: safetensors, torch pickles, flax msgpack."""

from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.checkpoints.flax import decode_flax, flatten
from unmask.errors import InputError

# Lightning files of taming-transformers use this class as a key; an empty one of its name will do.
CALLBACK = type(
    "ModelCheckpoint", (), {"__module__": "pytorch_lightning.callbacks.model_checkpoint"}
)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by its own names, "/" between the parts of a flax tree.

    Pickles are read as plain weights: one that wants to run code is refused. A state dict may stand
    under "model_ema" (averaged weights, which are preferred), "model" or "state_dict".

    Raises:
        InputError: when the file is damaged or holds anything else.
    """
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    with path.open("rb") as file:
        zipped = file.read(2) == b"PK"
    if zipped or path.suffix in (".pt", ".pth", ".bin", ".ckpt"):
        return _read_pickle(path)
    leaves = flatten(decode_flax(path.read_bytes(), str(path)))
    return {key: leaf for key, leaf in leaves.items() if isinstance(leaf, Tensor)}


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        with torch.serialization.safe_globals([CALLBACK, argparse.Namespace]):
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"{path} cannot be read as plain weights: {reason}") from None
    for name in ("model_ema", "model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(name), dict):
            loaded = loaded[name]
    if not isinstance(loaded, dict):
        raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    return {key: value for key, value in loaded.items() if isinstance(value, Tensor)}
