"""Checkpoints of a run: one folder a step, there whole or not at all.

``checkpoints/step-0001000/`` holds ``model.safetensors``, ``ema.safetensors`` (with an average),
``state.pt``, ``config.json`` and, written last, ``manifest.json`` with the size and the BLAKE2 hash
of each. A folder is built aside under a hidden name and renamed, so a kill leaves nothing under a
step's name that is not complete. Files that no manifest lists count for nothing.
"""

from __future__ import annotations

import hashlib
import re
import warnings
import zipfile
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from unmask.checkpoints import streamed
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.json_files import read_json

MANIFEST, CONFIG, STATE = "manifest.json", "config.json", "state.pt"
NEEDED = frozenset({"model.safetensors", STATE, CONFIG})
LONGEST = 1 << 20  # bytes of a manifest, which has some 600
STEP_FOLDER = re.compile(r"step-(\d{7,})")


class Checkpoint(NamedTuple):
    """What is needed to continue a run.

    Args:
        step: Optimiser steps done.
        weights: State dicts by file stem: "model" and, with an average, "ema".
        state: Optimiser, scaler, counters: tensors and plain values only.
        config: The run's resolved configuration.
    """

    step: int
    weights: dict[str, dict[str, Tensor]]
    state: dict[str, object]
    config: dict[str, object]


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint after ``step`` steps lies."""
    return directory / f"step-{step:07d}"


def write_checkpoint(
    directory: Path,
    checkpoint: Checkpoint,
    *,
    keep: int | Literal["all"],
    regular: int = 1,
    lasting: int = 0,
    broken: Collection[int] = (),
) -> Path:
    """Save a checkpoint, then remove older ones; memory for one tensor is needed.

    Args:
        directory: the run's ``checkpoints`` folder, made when missing.
        checkpoint: what to save.
        keep: see :func:`stale_steps`; folders of later steps are not counted.
        regular: see there.
        lasting: see there.
        broken: steps of folders that are not whole; they are not counted, and removed with the
            others.

    Returns:
        The new folder.

    Raises:
        InputError: if the disk is full or refuses; older checkpoints are whole, nothing is left
            of the new one.
    """
    final = checkpoint_path(directory, checkpoint.step)
    intact = _intact(directory, broken)
    with durable.explained(final, intact):
        clear_leftovers(directory)
        with durable.output_folder(final, intact) as aside:
            _build(aside, checkpoint)
            if final.exists():  # it did not verify, or the run would have continued from it
                durable.remove_folder(final)
        upto = [s for s in step_folders(directory) if s <= checkpoint.step]
        whole = [s for s in upto if s not in broken or s == checkpoint.step]
        stale = stale_steps(whole, keep=keep, regular=regular, lasting=lasting)
        for step in [*(set(upto) - set(whole)), *stale]:
            durable.remove_folder(checkpoint_path(directory, step))
    return final


def _intact(directory: Path, broken: Collection[int]) -> str:
    folders = step_folders(directory)
    newest = max(folders.keys() - set(broken), default=None)
    return f"{folders[newest]} is whole" if newest is not None else "nothing was lost"


def stale_steps(
    steps: Iterable[int], *, keep: int | Literal["all"], regular: int, lasting: int
) -> list[int]:
    """Steps of checkpoints to be removed: neither the newest, nor regular ones before others.

    Args:
        steps: of the checkpoints that there are.
        keep: how many stay: the newest, then the newest regular ones, then others; "all" or 0 keeps
            every one.
        regular: those at multiples of it were saved because the recipe says so, others because a
            clock or a signal did; 0 for no such multiples.
        lasting: those at multiples of it stay in any case; 0 for none.
    """
    if keep in ("all", 0):
        return []
    newest_first = sorted(steps, reverse=True)
    own = [step for step in newest_first if regular and step % regular == 0]
    kept = list(dict.fromkeys([*newest_first[:1], *own, *newest_first]))[: int(keep)]
    last = [step for step in newest_first if lasting and step % lasting == 0]
    return [step for step in newest_first if step not in {*kept, *last}]


def _build(folder: Path, checkpoint: Checkpoint) -> None:
    weights = checkpoint.weights.items()
    fills = {f"{name}.safetensors": streamed.fill_tensors(state) for name, state in weights}
    fills[STATE] = streamed.fill_state({"step": checkpoint.step, **checkpoint.state})
    fills[CONFIG] = streamed.fill_json(checkpoint.config)
    with ThreadPoolExecutor(len(fills)) as pool:  # hashes and the disk leave Python's lock
        written = pool.map(streamed.write_hashed, map(folder.joinpath, fills), fills.values())
        files = dict(zip(fills, written, strict=True))
    manifest = {"step": checkpoint.step, "files": files}
    streamed.write_hashed(folder / MANIFEST, streamed.fill_json(manifest))


def step_folders(directory: Path) -> dict[int, Path]:
    """Folders named after steps, by step, complete or not."""
    if not directory.is_dir():
        return {}
    found = ((STEP_FOLDER.fullmatch(path.name), path) for path in directory.iterdir())
    return {int(match[1]): path for match, path in found if match}


def clear_leftovers(directory: Path) -> None:
    """Remove what a process that was killed was building or removing."""
    for path in directory.glob(f".step-*{durable.ASIDE}"):
        durable.remove_folder(path)


def _listed(folder: Path) -> dict[str, tuple[int, str]]:
    """Bytes and hash of each file of a manifest.

    Raises:
        InputError: there is none, or it lists something that no checkpoint has.
        OSError: it cannot be looked at.
    """
    path = folder / MANIFEST
    if path.stat().st_size > LONGEST:
        raise InputError(f"{MANIFEST} is too long")
    stated: Any = read_json(path)
    try:
        files = {name: (of["bytes"], of["blake2b"]) for name, of in stated["files"].items()}
        own = stated["step"] == _step_of(folder)
    except (KeyError, TypeError, AttributeError):
        files, own = {}, False
    plain = all(type(size) is int and type(digest) is str for size, digest in files.values())
    named = files.keys() >= NEEDED and all(name == Path(name).name for name in files)
    if not (own and plain and named):
        raise InputError(f"{MANIFEST} is not what a run writes")
    return files


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("step-"))


def fault(folder: Path) -> str:
    """Why a folder is no whole checkpoint; "" if it is one.

    Each file of its manifest must be there with its size and hash.
    """
    try:
        files = _listed(folder)
        for name, (wanted, _) in files.items():
            size = (folder / name).stat().st_size
            if size != wanted:
                return f"{name} has {size:,} bytes in place of {wanted:,}"
        damaged = (name for name, (_, digest) in files.items() if _differs(folder / name, digest))
        return next((f"{name} is damaged" for name in damaged), "")
    except InputError as error:
        return str(error)
    except OSError as error:
        name, missing = Path(error.filename or folder).name, isinstance(error, FileNotFoundError)
        return f"{name} " + ("is missing" if missing else f"cannot be read ({error.strerror})")


def _differs(path: Path, digest: str) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, hashlib.blake2b).hexdigest() != digest


def stored_config(directory: Path) -> dict[str, object] | None:
    """Configuration in the newest checkpoint that has a sound one; other files are not read."""
    folders = step_folders(directory)
    for step in sorted(folders, reverse=True):
        path = folders[step] / CONFIG
        try:
            if not _differs(path, _listed(folders[step])[CONFIG][1]):
                config = read_json(path)
                if isinstance(config, dict):
                    return config
        except (InputError, OSError):
            continue
    return None


def read_checkpoint(folder: Path) -> Checkpoint:
    """A complete checkpoint: tensors on the CPU, mapped from its files, and plain values.

    Raises:
        InputError: a file holds something else, whatever its manifest says.
    """
    weights: dict[str, dict[str, Tensor]] = {}
    for name in sorted(_listed(folder)):
        if name.endswith(".safetensors"):
            with _expected(name):
                weights[Path(name).stem] = load_file(folder / name)
    with _expected(STATE):
        state = _load_state(folder / STATE)
        if state.pop("step") != _step_of(folder):
            raise InputError(f"{STATE} is that of another step")
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise InputError(f"{CONFIG} holds no configuration")
    return Checkpoint(_step_of(folder), weights, state, config)


def _load_state(path: Path) -> dict[str, object]:
    with zipfile.ZipFile(path) as archive:  # torch writes nothing compressed: memory is bounded
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise InputError(f"{STATE} holds more than it is long")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of foreign pickles, which are refused in our words
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


@contextmanager
def _expected(name: str) -> Iterator[None]:
    """Turn whatever a reader makes of a hostile file into one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # readers raise all kinds, and torch's advice is the attack
        raise InputError(f"{name} is not what a run writes ({type(error).__name__})") from error
