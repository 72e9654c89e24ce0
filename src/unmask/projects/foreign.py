"""Checkpoints of other projects: recognised, translated, and checked against their network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Unpack

from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import check_state, is_ours, single
from unmask.checkpoints.tensor_files import read_weights
from unmask.checkpoints.write_tensors import halved
from unmask.errors import InputError
from unmask.files.json_files import read_json
from unmask.files.serial import load_yaml
from unmask.memory import skeleton
from unmask.networks.network import Network
from unmask.projects import mage, mar, maskgit_jax, maskgit_pytorch, unlockmgm
from unmask.projects.project import Checkpoint, Project, Stated, Tensors

Kind = Literal["maskgit-pytorch", "unlockmgm", "maskgit-jax", "mage", "mar", "emigm"]

PROJECTS: dict[str, Project] = {
    project.name: project
    for project in (
        maskgit_pytorch.PROJECT,
        unlockmgm.PROJECT,
        maskgit_jax.PROJECT,
        mage.PROJECT,
        mar.MAR,
        mar.EMIGM,
    )
}
"""Every source of generators by name; a file is the first one's that it fits."""
MARKS = {project.mark for project in PROJECTS.values()}

CLASSIFIER = "token_emb.word_embeddings.weight"  # of MAGE's encoder, if its mlm_layer is not there
# Patterns of other systems, the more telling first.
OTHERS = {
    r"diffloss\.": "MAR or eMIGM",
    r"params/(encoder|decoder|quantizer)/": "a MaskGIT tokenizer (JAX)",
    r"quantize\.embedding\.": "a VQGAN tokenizer",
    r"post_quant_conv\.": "an autoencoder",
    r"(backbone|cls_token|patch_embed)\b": "a vision transformer",
}

FILES = ("pytorch_model.bin", "checkpoint-last.pth")  # that name the folder around them
# In a step of maskgit-pytorch and of UnlockMGM, averaged weights first.
STEP_FILES = ("model_ema.pt", "model.pt")
STEP_FOLDERS = ("ema_model", "unwrapped_model")


class Foreign(NamedTuple):
    """A translated checkpoint.

    Args:
        network: Sizes of the network; what its ``build()`` makes takes the state.
        state: Tensors by our names, float32 unless asked for in float16, strictly filling the
            network.
        details: What was read, in words: ``kind``, ``file``, and where there are any ``taken``
            (entries and prefixes inside the file), ``aside`` (other weights in it), ``empty``
            (averages without weights), ``unknown`` (keys of no part) and ``config`` (file of
            settings).
        tokenizer: Tokenizer of the same file by its own keys; empty where there is none.
        config: Content of the source's configuration, of the file ``details["config"]``.
    """

    network: Network
    state: dict[str, Tensor]
    details: dict[str, str]
    tokenizer: Mapping[str, Tensor] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})


def load_foreign(
    path: Path, kind: Kind | None = None, *, half: bool = False, **stated: Unpack[Stated]
) -> Foreign:
    """Read a checkpoint of maskgit-pytorch, UnlockMGM, the original MaskGIT, MAGE, MAR or eMIGM.

    Args:
        path: a maskgit-pytorch run, one of its ``ckpt/step*`` folders or files (averaged weights
            are preferred); a folder of UnlockMGM; a flax msgpack file; a MAGE or MAGE-C file; or
            a MAR or eMIGM checkpoint (averaged weights too); or, of the last three, the folder of
            ``checkpoint-last.pth``.
        kind: what it must be; None recognises it. An eMIGM whose mask token is not tied to the
            null class looks like MAR unless called "emigm".
        half: floats in float16 instead of float32, to be saved so.
        stated: ``heads``, ``decoder_heads``, ``classes`` and ``grid``, where the files do not tell
            them; see :class:`unmask.projects.project.Checkpoint`.

    Raises:
        InputError: when the path does not exist (naming where a published file is to be had), is
            of another system, or does not fill its network exactly.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(_absent(path))
    raw = _read_folder(path) if path.is_dir() else _read_file(path)
    return translated(raw, recognise(raw.state, str(raw.file), kind), half=half, **stated)


def translated(
    raw: Checkpoint, project: Project, *, half: bool = False, **stated: Unpack[Stated]
) -> Foreign:
    """A checkpoint by our names, with the network that it fills.

    Args:
        raw: as it was read.
        project: that it is of.
        half: see :func:`load_foreign`, as for what it raises.
        stated: what the files do not tell.
    """
    origin = str(raw.file)
    parts = project.parts(raw.state)
    own = to_own(parts.network, project.rules, origin, cast=halved if half else single)
    own = project.settled(own)
    network = project.sizes(raw._replace(state=parts.network, own=own, **stated))
    with skeleton():
        wanted = network.build().state_dict()
    check_state(wanted, own, origin)
    details = {"kind": project.name, "file": origin, **raw.told}
    details |= {"unknown": ", ".join(parts.unknown), "config": str(raw.config_file or "")}
    said = {what: told for what, told in details.items() if told}
    return Foreign(network, own, said, parts.tokenizer, raw.config)


def holds_network(file: Path) -> bool:
    """Whether a file holds a network of a kind that is known here.

    Raises:
        InputError: when it cannot be read.
    """
    return not MARKS.isdisjoint(read_weights(file, MARKS).tensors)


def recognise(state: Tensors, origin: str, kind: Kind | None = None) -> Project:
    """The project of a state dict by its keys.

    Args:
        state: by the source's keys.
        origin: file, named in errors.
        kind: what it must be; None takes the first project that it fits.

    Raises:
        InputError: for another system's, naming what it looks like.
    """
    fitting = [p for p in PROJECTS.values() if p.mark in state and p.fits(state)]
    for project in fitting:
        if kind in (None, project.name):
            return project
    if fitting:
        raise InputError(f"{origin} looks like {fitting[0].name}, not {kind}")
    if CLASSIFIER in state:
        raise InputError(
            f"{origin} is a fine-tuned classifier of MAGE, which needs no conversion: "
            f"unmask finetune {origin} --data IMAGES"
        )
    for pattern, what in OTHERS.items():
        if any(re.search(rf"(^|[./]){pattern}", key) for key in state):
            raise InputError(f"{origin} looks like {what}, not a MaskGIT transformer")
    if state and all(key.isdecimal() for key in state):
        raise InputError(
            f"{origin} lists weights without their names, as an average of its own; give the file "
            "that names them (model_ema.pt of maskgit-pytorch)"
        )
    some = ", ".join(sorted(state)[:3]) or "nothing"
    raise InputError(f"{origin} is of no known project; it holds {some}")


def _absent(path: Path) -> str:
    published = {n: where for p in PROJECTS.values() for n, where in p.published.items()}
    if path.name in published:
        return f"{path} does not exist; download it from {published[path.name]} to that place"
    places: dict[str, list[str]] = {}
    for name, where in published.items():
        places.setdefault(where, []).append(name)
    known = "; ".join(f"{', '.join(names)}: {where}" for where, names in places.items())
    return f"{path} does not exist; published files to download: {known}"


def _read_folder(folder: Path) -> Checkpoint:
    if is_ours(folder):
        raise InputError(f"{folder} is a model in unmask's own format; no import is needed")
    inside = folder / "ckpt" if (folder / "ckpt").is_dir() else folder
    steps = sorted(inside.glob("step*"), key=step_number, reverse=True)
    places = [[folder / name] for name in FILES]
    places += [[step / name for name in STEP_FILES] for step in (folder, *steps)]
    places += [[folder / name / FILES[0]] for name in STEP_FOLDERS]
    for files in places:
        if found := [file for file in files if file.is_file()]:
            return _read_first(found)
    raise InputError(
        f"{folder} holds neither ckpt/step*/model_ema.pt (maskgit-pytorch) nor "
        "config.json with pytorch_model.bin (UnlockMGM) nor checkpoint-last.pth (MAGE, MAR, eMIGM)"
    )


def _read_first(files: list[Path]) -> Checkpoint:
    """The first file with weights; an average that was never taken is passed over."""
    read = map(_read_file, files)
    first = next(read)
    if first.state:
        return first
    second = next((raw for raw in read if raw.state), first)
    return second._replace(told={**second.told, "empty": str(first.file)})


def step_number(folder: Path) -> int:
    """The number in the name of a step's folder, -1 without one."""
    return int(re.sub(r"\D", "", folder.name) or -1)


def _read_file(path: Path) -> Checkpoint:
    found = read_weights(path, MARKS)
    told = {"taken": found.taken, "aside": ", ".join(found.aside), "empty": ", ".join(found.empty)}
    if (beside := path.parent / "config.json").is_file():
        return Checkpoint(found.tensors, path, told, read_config(beside), beside)
    return Checkpoint(found.tensors, path, told, *run_config(path))


def read_config(path: Path) -> dict[str, Any]:
    """A configuration in JSON.

    Raises:
        InputError: it is none.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no mapping of keys to values")
    return config


def run_config(weights: Path) -> tuple[dict[str, Any], Path | None]:
    """The newest ``config*.yaml`` beside the weights or in the run that they belong to.

    Raises:
        InputError: it cannot be read, or is no YAML.
    """
    for folder in list(weights.absolute().parents)[:3]:
        for path in sorted(folder.glob("config*.yaml"), reverse=True):
            if isinstance(config := load_yaml(path), dict):
                return config, path
    return {}, None
