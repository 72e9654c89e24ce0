"""Our own format: a folder with ``model.safetensors`` and ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unmask.checkpoints.write_tensors import HALF, halved, write_tensors
from unmask.errors import InputError
from unmask.files.durable import outputs
from unmask.files.folders import check_readable
from unmask.files.json_files import parse_json

Entry = TypeVar("Entry")
WEIGHTS, CONFIG = "model.safetensors", "config.json"
EMBEDDED = "config"  # metadata: the text of config.json
TIED = "tied "  # metadata: "tied <name>" -> the name under which the tensor is stored


class Saved(NamedTuple):
    """A network's weights and configuration, and the folder they go to.

    Args:
        folder: Folder to write, made when missing; a model in it is replaced, other files stay.
        state: Tensors by our names; those that share memory are stored once.
        config: Values that JSON can hold, enough to build the network again.
    """

    folder: Path
    state: Mapping[str, Tensor]
    config: Mapping[str, Any]


def save_together(*models: Saved, half: bool = False) -> None:
    """Write models; whatever happens, each folder then holds all of the old one or of the new.

    The config also stands inside ``model.safetensors``, whose renaming into place is the one
    moment that counts; ``config.json`` is the copy that people read. All models are written before
    the first of them takes its name.

    Args:
        models: in the order in which they take their names; errors name the last one's folder.
        half: store floats in float16, half the size; they are widened when loaded.

    Raises:
        InputError: when a weight does not fit float16, or the disk refuses.
    """
    untied = [_without_ties(model.state) for model in models]
    if half:
        for tensors, _ in untied:
            for name, tensor in tensors.items():
                halved(name, tensor)  # raises before anything is written
    files = [model.folder / name for model in models for name in (WEIGHTS, CONFIG)]
    named = models[-1].folder
    with outputs(*files, named=named, intact="a model there is whole") as asides:
        for model, (tensors, tied), weights, copy in zip(
            models, untied, asides[::2], asides[1::2], strict=True
        ):
            text = json.dumps(model.config, indent=2) + "\n"
            metadata = {EMBEDDED: text} | {TIED + name: kept for name, kept in tied.items()}
            write_tensors(weights, tensors, metadata, half=half)
            copy.write_text(text, encoding="utf8")


def load_weights(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a model that :func:`save_together` wrote.

    Returns:
        The state by our names, half floats widened to float32 and tied names filled in; the config.

    Raises:
        InputError: when a file is missing, not to be read by this user, or damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise InputError(f"{folder} holds no {WEIGHTS}; give the folder of a saved model")
    state, metadata = _read(path)
    if EMBEDDED not in metadata:
        raise InputError(f"{path} was not saved by unmask: it holds no config")
    config = parse_json(metadata[EMBEDDED], f"the config in {path}")
    if not isinstance(config, dict):
        raise InputError(f"the config in {path} is no mapping; copy or save the model again")
    for key, kept in metadata.items():
        if key.startswith(TIED):
            if kept not in state:
                raise InputError(f"{path} is damaged: it holds no {kept!r}; copy it again")
            state[key[len(TIED) :]] = state[kept]
    return state, config


def is_ours(folder: Path) -> bool:
    """Whether weights of this library's form lie in a folder, by what their header says."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return EMBEDDED in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def entry(config: Mapping[str, Any], key: str, kind: type[Entry], origin: object) -> Entry:
    """A value of a saved config.

    Args:
        config: as :func:`load_weights` gives it.
        key: its name.
        kind: its type; a bool is no int here.
        origin: folder, named in errors.

    Raises:
        InputError: when it is missing or of another type.
    """
    value = config.get(key)
    if type(value) is not kind:
        found = "nothing" if value is None else f"a {type(value).__name__}"
        raise InputError(
            f"{origin}: its config has {found} where {key!r} should be a {kind.__name__}; "
            "copy or save it again"
        )
    return value


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    check_readable(path)
    try:
        with safe_open(path, framework="pt") as file:
            state: dict[str, Tensor] = {}
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_tensor(name)
                state[name] = tensor.float() if tensor.dtype in HALF else tensor
            return state, file.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged: {error}; copy or save it again") from None


def single(name: str, tensor: Tensor) -> Tensor:
    """A tensor as networks hold it: any floats as float32, anything else as it is."""
    return tensor.float() if tensor.is_floating_point() else tensor


def check_state(
    wanted: Mapping[str, Tensor], state: Mapping[str, Tensor], origin: str = "the weights"
) -> None:
    """Refuse a state dict that does not fill a network exactly.

    Args:
        wanted: the network's own state dict (the meta device will do).
        state: what is to be loaded.
        origin: file, named in errors.

    Raises:
        InputError: naming the parameters that are missing or unknown, or the one whose shape
            differs with both shapes.
    """
    missing = [name for name in wanted if name not in state]
    unknown = [name for name in state if name not in wanted]
    for what, names in (("do not fill", missing), ("hold an unknown", unknown)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(f"{origin} {what} {names[0]!r}{more}; is it of another network?")
    for name, tensor in wanted.items():
        if state[name].shape != tensor.shape:
            found, need = tuple(state[name].shape), tuple(tensor.shape)
            raise InputError(f"{origin}: {name!r} has shape {found}, the network needs {need}")


def load_state(model: nn.Module, state: Mapping[str, Tensor], origin: str = "the weights") -> None:
    """Fill a network from a state dict, strictly; see :func:`check_state`.

    Args:
        model: where it lies on the meta device it takes the tensors of ``state`` themselves, also
            in half precision, in which it can be saved and not run.
        state: by our names.
        origin: file, named in errors.

    Raises:
        InputError: also when two names share one parameter in the network but differ in ``state``.
    """
    wanted = model.state_dict(keep_vars=True)
    check_state(wanted, state, origin)
    ties = _ties(wanted)
    for name, kept in ties.items():
        if not torch.equal(state[kept], state[name]):
            raise InputError(
                f"{origin}: {name!r} differs from {kept!r}, which the network ties to it; "
                "build it without tied embeddings"
            )
    on_meta = any(tensor.is_meta for tensor in wanted.values())
    typed = {
        name: state[name] if on_meta and state[name].dtype in HALF else state[name].to(like.dtype)
        for name, like in wanted.items()
    }
    model.load_state_dict(typed, assign=on_meta)
    for name, kept in ties.items():  # assigning parts what was tied
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, model.get_parameter(kept))


def _ties(named: Mapping[str, Tensor]) -> dict[str, str]:
    """Names of a parameter that has another name before, and that one."""
    first: dict[int, str] = {}
    names = {name: first.setdefault(id(tensor), name) for name, tensor in named.items()}
    return {name: kept for name, kept in names.items() if name != kept}


def _without_ties(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors to store, and for names that share one of them the name that is stored."""
    stored: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    first: dict[tuple[int, torch.Size, tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        kept = first.setdefault(key, name) if tensor.numel() else name
        if kept != name:
            tied[name] = kept
        else:
            stored[name] = tensor
    return stored, tied
