"""Checkpoints of a run: one folder a step, there whole or not at all.

``checkpoints/step-0001000/`` holds ``model.safetensors``, ``ema.safetensors`` (with an average),
``state.pt``, ``config.json`` and, written last, ``manifest.json`` with the size and the BLAKE2 hash
of each. A folder is built aside under a hidden name and renamed, so a kill leaves nothing under a
step's name that is not complete.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from unmask import durable

MANIFEST = "manifest.json"
STEP_FOLDER = re.compile(r"step-(\d{7,})")


class Checkpoint(NamedTuple):
    """What is needed to continue a run."""

    step: int
    """Optimiser steps done."""
    weights: dict[str, dict[str, Tensor]]
    """State dicts by file stem: "model" and, with an average, "ema"."""
    state: dict[str, object]
    """Optimiser, scaler, counters: tensors and plain values only."""
    config: dict[str, object]
    """The run's resolved configuration."""


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return directory / f"step-{step:07d}"


def write_checkpoint(directory: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Save a checkpoint, then remove older ones.

    Args:
        directory: the run's ``checkpoints`` folder, made when missing.
        checkpoint: what to save.
        keep: how many to leave, this one included; folders of later steps are not counted.

    Returns:
        The new folder.

    Raises:
        InputError: if the disk is full or refuses; older checkpoints are whole, nothing is left
            of the new one.
    """
    final = checkpoint_path(directory, checkpoint.step)
    aside = final.with_name(f".{final.name}{durable.ASIDE}")
    newest = max(step_folders(directory), default=None)
    intact = f"{step_folders(directory)[newest]} is whole" if newest else "nothing was lost"
    with durable.explained(final, intact):
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(directory)
            _build(aside, checkpoint)
            if final.exists():  # it did not verify, or the run would have continued from it
                durable.remove_folder(final)
            durable.move(aside, final)
        except OSError:
            if aside.exists():
                durable.remove_folder(aside)
            raise
        durable.sync_folder(directory)
        _prune(directory, checkpoint.step, keep)
    return final


def _build(folder: Path, checkpoint: Checkpoint) -> None:
    folder.mkdir()
    files = {f"{k}.safetensors": _tensor_bytes(v) for k, v in checkpoint.weights.items()}
    files["state.pt"] = _state_bytes({"step": checkpoint.step, **checkpoint.state})
    files["config.json"] = _json_bytes(checkpoint.config)
    for name, data in files.items():
        durable.write_file(folder / name, data)
    hashes = {name: _entry(len(data), hashlib.blake2b(data)) for name, data in files.items()}
    durable.write_file(folder / MANIFEST, _json_bytes({"step": checkpoint.step, "files": hashes}))
    durable.sync_folder(folder)


def _tensor_bytes(state: Mapping[str, Tensor]) -> bytes:
    # tied weights share memory, which the format refuses: each name gets its own copy
    return to_safetensors({k: v.detach().cpu().contiguous().clone() for k, v in state.items()})


def _state_bytes(state: Mapping[str, object]) -> bytes:
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def _json_bytes(value: object) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _entry(size: int, digest: hashlib.blake2b) -> dict[str, object]:
    return {"bytes": size, "blake2b": digest.hexdigest()}


def step_folders(directory: Path) -> dict[int, Path]:
    """Folders named after steps, by step, complete or not."""
    if not directory.is_dir():
        return {}
    found = ((STEP_FOLDER.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in found if match}


def _clear_leftovers(directory: Path) -> None:
    for path in directory.glob(f".*{durable.ASIDE}"):
        durable.remove_folder(path)


def _prune(directory: Path, step: int, keep: int) -> None:
    older = sorted((s for s in step_folders(directory) if s < step), reverse=True)
    for stale in older[keep - 1 :]:
        durable.remove_folder(checkpoint_path(directory, stale))


def is_complete(folder: Path) -> bool:
    """Whether every file of a checkpoint is there with the size and hash of its manifest."""
    try:
        stated = json.loads((folder / MANIFEST).read_bytes())
        return stated == {"step": int(folder.name[len("step-") :]), "files": _hashes(folder)}
    except (OSError, ValueError):  # missing, cut off or not JSON
        return False


def _hashes(folder: Path) -> dict[str, dict[str, object]]:
    files = (path for path in folder.iterdir() if path.name != MANIFEST)
    return {path.name: _entry(path.stat().st_size, _digest(path)) for path in files}


def _digest(path: Path) -> hashlib.blake2b:
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest


def latest(directory: Path) -> Path | None:
    """The newest complete checkpoint of a ``checkpoints`` folder; nothing is removed."""
    folders = step_folders(directory)
    newest_first = (folders[step] for step in sorted(folders, reverse=True))
    return next((folder for folder in newest_first if is_complete(folder)), None)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Load a complete checkpoint, tensors on the CPU and nothing but tensors and plain values."""
    weights = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
    config = json.loads((folder / "config.json").read_bytes())
    return Checkpoint(state.pop("step"), weights, state, config)
