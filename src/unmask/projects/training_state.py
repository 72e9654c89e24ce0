"""What the source projects keep of a training beside the weights, as it lies in their files."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unmask.checkpoints.file_kinds import kind_of
from unmask.checkpoints.pickles import STAND_INS, Named, load_pickle
from unmask.errors import InputError
from unmask.files.damage import reason
from unmask.files.json_files import read_json
from unmask.projects.foreign import read_config, run_config, step_number
from unmask.projects.project import Tensors

STRANGE = (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError)
MOMENTS = ("exp_avg", "exp_avg_sq")
ADAPTER = ("cls_anchor_gen", "decoders", "top_down_transform")  # what UnlockMGM trains
MAGE_FROZEN = re.compile(r"vqgan\..*|(decoder_)?pos_embed|token_emb\.position_ids")
STEPS = ("step*", "ckpt/step*", "checkpoint-*")  # folders in a run
STATES, OPTIMIZER, CHECKPOINT = "training_states.pt", "optimizer.bin", "checkpoint-last.pth"
ALLOWED: list[Named] = [argparse.Namespace, *(n for n in STAND_INS if n[1] != "argparse.Namespace")]


class TrainingState(NamedTuple):
    """A source's training as it was read.

    Args:
        file: File of the optimiser, named in errors.
        weights: Raw weights by the source's keys, in the order in which its modules hold them.
        optimizer: State dict of its optimiser.
        settings: Options of its script or content of its configuration; empty where they are lost.
        settings_file: File of the settings; None without one.
        averages: Averaged weights by the source's keys; None without an average.
        average: What is stored of the average beside its weights, such as its decay.
        sizes: Configuration of the network; empty where the settings hold it, or the shapes tell.
        updates: Updates that the average has seen; None means one for each step.
        scaler: State of the loss scaling; empty without float16.
        steps: Optimiser steps done; None where the source counts epochs.
        epochs: Whole epochs done; None where the source counts steps.
    """

    file: Path
    weights: Tensors
    optimizer: Mapping[str, Any]
    settings: Mapping[str, Any]
    settings_file: Path | None
    averages: Tensors | None = None
    average: Mapping[str, Any] = {}
    sizes: Mapping[str, Any] = {}
    updates: int | None = None
    scaler: Mapping[str, Any] = {}
    steps: int | None = None
    epochs: int | None = None


def read_training(source: Path) -> TrainingState:
    """Read the training that a source project would go on with.

    Args:
        source: a run, step folder or ``training_states.pt`` of maskgit-pytorch; a
            ``checkpoint-last.pth`` of MAR, eMIGM or MAGE, or its folder; an accelerate folder of
            UnlockMGM (``checkpoint-STEP``), or the run around it.

    Raises:
        InputError: when there is none, a file is damaged, or it holds weights alone.
    """
    if not source.exists():
        raise InputError(f"there is no {source}; name a run or a checkpoint of a source project")
    folder = source if source.is_dir() else source.parent
    if source.is_dir() or source.name in (STATES, OPTIMIZER):
        steps = [p for within in STEPS for p in sorted(folder.glob(within), key=step_number)]
        for place in (folder, *reversed(steps)):
            for name, read in READERS.items():
                if (place / name).is_file():
                    with expected(place / name):
                        return read(place / name)
        raise InputError(
            f"{source} holds neither {STATES} (maskgit-pytorch) nor {CHECKPOINT} (MAR, eMIGM, "
            f"MAGE) nor {OPTIMIZER} (UnlockMGM); name a checkpoint with its optimiser"
        )
    with expected(source):
        return _read_checkpoint(source)


@contextmanager
def expected(file: object) -> Iterator[None]:
    """Turn whatever goes wrong with values that a project would not write into one line.

    Args:
        file: that holds them.

    Raises:
        InputError: in its place.
    """
    try:
        yield
    except InputError:
        raise
    except STRANGE as error:
        said = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{file} is not what its project writes ({said}); copy it anew") from None


def _load(file: Path) -> dict[str, Any]:
    loaded = load_pickle(file, zipped=kind_of(file) == "zip", allowed=ALLOWED)
    if not isinstance(loaded, dict):
        raise InputError(f"{file} holds a {type(loaded).__name__}, not a training")
    return loaded


def _dense(tensors: Any) -> dict[str, Tensor]:
    """Weights without their gradients; TypeError where something else stands among them."""
    for name, tensor in tensors.items():
        if not (isinstance(tensor, Tensor) and tensor.layout is torch.strided):
            raise TypeError(f"{name!r} is no tensor")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _read_states(file: Path) -> TrainingState:
    """A step of maskgit-pytorch; the average lists its weights in the order of the model's."""
    told, weights = _load(file), _dense(_load(file.with_name("model.pt"))["model"])
    average = dict(told["ema"])
    shadow = average.pop("shadow_params")
    if [t.shape for t in shadow] != [t.shape for t in weights.values()]:
        raise InputError(f"{file}: its average is of other weights than model.pt beside it")
    return TrainingState(
        file,
        weights,
        told["optimizer"],
        *run_config(file),
        averages=_dense(dict(zip(weights, shadow, strict=True))),
        average=average,
        updates=int(average["num_updates"]),
        scaler=told["scaler"],
        steps=int(told["step"]) + 1,
    )


def _read_checkpoint(file: Path) -> TrainingState:
    """A file of MAR, eMIGM or MAGE, whose scripts save at the end of epochs."""
    told = _load(file)
    if missing := {"model", "optimizer", "epoch"} - told.keys():
        raise InputError(
            f"{file} holds no {' and no '.join(sorted(missing))}, so there is no training to take "
            "over: unmask convert makes a model of its weights, and unmask train --base MODEL "
            "starts from that"
        )
    args = told.get("args")
    return TrainingState(
        file,
        _dense(told["model"]),
        told["optimizer"],
        vars(args) if isinstance(args, argparse.Namespace) else {},
        file if isinstance(args, argparse.Namespace) else None,
        averages=_dense(told["model_ema"]) if told.get("model_ema") else None,
        scaler=told.get("scaler") or {},
        epochs=int(told["epoch"]) + 1,
    )


def _read_accelerate(file: Path) -> TrainingState:
    """A folder of UnlockMGM; what accelerate itself stores of the model has lost its order."""
    folder = file.parent
    weights = _dense(_load(folder / "unwrapped_model" / "pytorch_model.bin"))
    averaged, average = folder / "ema_model" / "pytorch_model.bin", {}
    if averaged.is_file():
        average = read_config(averaged.with_name("config.json"))
    metadata: Any = read_json(folder / "metadata.json")
    scaler = folder / "scaler.pt"
    return TrainingState(
        file,
        weights,
        _load(file),
        *run_config(file),
        averages=_dense(_load(averaged)) if averaged.is_file() else None,
        average=average,
        sizes=read_config(folder / "unwrapped_model" / "config.json"),
        updates=int(average["optimization_step"]) if average else None,
        scaler=_load(scaler) if scaler.is_file() else {},
        steps=int(metadata["global_step"]),
    )


READERS = {STATES: _read_states, CHECKPOINT: _read_checkpoint, OPTIMIZER: _read_accelerate}


def _by_decay(weights: Tensors) -> list[list[str]]:
    """Groups of timm and MAR: what does not decay first."""
    tied = {"mask_token"} if "fake_latent" in weights and weights["mask_token"].ndim == 2 else set()
    names = [n for n in weights if n not in tied and not MAGE_FROZEN.fullmatch(n)]
    spared = [
        n for n in names if weights[n].ndim == 1 or n.endswith(".bias") or n.startswith("diffloss.")
    ]
    return [spared, [name for name in names if name not in set(spared)]]


GROUPS: dict[str, Callable[[Tensors], list[list[str]]]] = {
    "maskgit-pytorch": lambda weights: [list(weights)],
    "unlockmgm": lambda weights: [[n for n in weights if n.partition(".")[0] in ADAPTER]],
    **dict.fromkeys(("mar", "emigm", "mage"), _by_decay),
}
"""Keys of the parameters in each group of an optimiser, in its order, by the project's name."""


class Moments(NamedTuple):
    """What AdamW remembers of the parameters that it has updated.

    Args:
        step: Updates, without those that a loss scaler left out.
        averages: Both moments, float32, by their names in AdamW's state and the source's keys.
    """

    step: int
    averages: dict[str, dict[str, Tensor]]


def moments(state: TrainingState, project: str) -> Moments:
    """What the optimiser of a training remembers.

    Args:
        state: as it was read.
        project: name of the project, a key of :data:`GROUPS`.

    Raises:
        InputError: the optimiser has other parameters than the network, or is no AdamW.
    """
    groups, listed = GROUPS[project](state.weights), state.optimizer["param_groups"]
    counts, wanted = [len(g["params"]) for g in listed], list(map(len, groups))
    if counts != wanted:
        raise InputError(
            f"its optimiser has groups of {counts} parameters, and the weights of {project} make "
            f"groups of {wanted}; was another part of the network trained?"
        )
    steps: set[int] = set()
    found: dict[str, dict[str, Tensor]] = {part: {} for part in MOMENTS}
    for group, names in zip(listed, groups, strict=True):
        for number, name in zip(group["params"], names, strict=True):
            if number in state.optimizer["state"]:  # what has no gradient has no moments
                kept = {"step": group.get("step"), **state.optimizer["state"][number]}
                steps.add(int(kept.pop("step")))
                for part, values in _adamw(name, kept, state.weights[name]).items():
                    found[part][name] = values
    if len(steps) != 1:
        raise InputError(f"its optimiser has done {sorted(steps) or 'no'} steps, not one number")
    return Moments(steps.pop(), found)


def _adamw(name: str, kept: Mapping[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    if kept.keys() != set(MOMENTS):
        raise InputError(f"its optimiser keeps {', '.join(sorted(kept))} of {name!r}: no AdamW")
    if any(values.shape != weight.shape for values in kept.values()):
        raise InputError(f"the moments of {name!r} have another shape than its weight")
    return {part: kept[part].float() for part in MOMENTS}
