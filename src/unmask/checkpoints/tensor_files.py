"""Files of tensors that other projects publish: safetensors, torch pickles, flax msgpack."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from unmask.checkpoints.file_kinds import kind_of
from unmask.checkpoints.find_state import State, find_state
from unmask.checkpoints.flax import decode_flax, flatten
from unmask.checkpoints.lazy import LazyTensors
from unmask.checkpoints.pickles import load_pickle
from unmask.errors import InputError
from unmask.files.damage import reason


def read_tensors(path: Path, marks: Collection[str] = ()) -> Mapping[str, Tensor]:
    """The tensors of a file by its own names, "/" between the parts of a flax tree.

    Args:
        path: of any form; its content tells, not its ending.
        marks: names, one of which is in every state dict that is wanted; see
            :func:`unmask.checkpoints.find_state.find_state`.

    Raises:
        InputError: when the file is damaged or holds anything else. Pickles are read as plain
            weights: one that wants to run code is refused.
    """
    return read_weights(path, marks).tensors


def read_weights(path: Path, marks: Collection[str] = ()) -> State:
    """The tensors of a file, which of its state dicts they are, and what was left aside.

    Arguments and errors are those of :func:`read_tensors`.

    The tensors are read when they are asked for; only legacy pickles are read at once.
    """
    kind, separator = kind_of(path), "."
    loaded: object
    if kind == "safetensors":
        loaded = _map_safetensors(path)
    elif kind == "msgpack":
        loaded, separator = _map_flax(path), "/"
    else:
        loaded = load_pickle(path, zipped=kind == "zip")
        if not isinstance(loaded, (dict, list)):
            raise InputError(f"{path} holds a {type(loaded).__name__}, not a state dict")
    state = find_state(loaded, marks, separator=separator)
    return state._replace(tensors=LazyTensors(state.tensors, path, maps=kind != "pickle"))


def _map_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # its errors are Rust's, and differ from version to version
        raise InputError(f"{path} is damaged: {reason(error)}; download or copy it again") from None


def _map_flax(path: Path) -> dict[str, Tensor]:
    with path.open("rb") as file:
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    leaves = flatten(decode_flax(view, str(path)))
    return {key: leaf for key, leaf in leaves.items() if isinstance(leaf, Tensor)}
