"""Checkpoints of other projects: recognised, translated, and checked against their network."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import yaml
from torch import Tensor

from unmask.checkpoints.find_state import State
from unmask.checkpoints.names import Table, pick, to_own
from unmask.checkpoints.store import check_state, is_ours, single
from unmask.checkpoints.tensor_files import read_weights
from unmask.checkpoints.write_tensors import halved
from unmask.errors import InputError
from unmask.files.json_files import read_json
from unmask.networks.any import AnyNetwork
from unmask.nn.skeleton import skeleton
from unmask.projects import mage, mar, maskgit_jax, maskgit_pytorch, unlockmgm

Kind = Literal["maskgit-pytorch", "unlockmgm", "maskgit-jax", "mage", "mar", "emigm"]

TABLES: dict[str, Table] = {
    "maskgit-pytorch": maskgit_pytorch.TABLE,
    "unlockmgm": unlockmgm.TABLE,
    "maskgit-jax": maskgit_jax.TABLE,
    "mage": mage.TABLE,
    "mar": mar.TABLE,
    "emigm": mar.TABLE,
}
PUBLISHED = {**unlockmgm.PUBLISHED, **maskgit_jax.PUBLISHED, **mage.PUBLISHED, **mar.PUBLISHED}

# A key that only this kind has.
SIGNATURES = {
    "pos_emb": "maskgit-pytorch",
    "embed.word_embeddings.weight": "unlockmgm",
    "params/Embed_0/word_embeddings/embedding": "maskgit-jax",
    "mlm_layer.fc.weight": "mage",
    "diffusion_pos_embed_learned": "mar",
}
CLASSIFIER = "token_emb.word_embeddings.weight"  # of MAGE's encoder, if its mlm_layer is not there
# Patterns of other systems, the more telling first.
OTHERS = {
    r"diffloss\.": "MAR or eMIGM",
    r"params/(encoder|decoder|quantizer)/": "a MaskGIT tokenizer (JAX)",
    r"quantize\.embedding\.": "a VQGAN tokenizer",
    r"post_quant_conv\.": "an autoencoder",
    r"(backbone|cls_token|patch_embed)\b": "a vision transformer",
}

STEP_FILES = ("model_ema.pt", "model.pt")  # of a step of maskgit-pytorch, averaged weights first
STEP_FOLDERS = ("ema_model", "unwrapped_model")  # of a step of UnlockMGM, likewise


class Foreign(NamedTuple):
    """A translated checkpoint."""

    network: AnyNetwork
    """Sizes; ``network.build()`` takes the state."""
    state: dict[str, Tensor]
    """By our names, float32 unless asked for in float16, strictly filling the network."""
    details: dict[str, str]
    """What was read: ``kind`` and ``file``, and where there are any ``taken`` (the entries and
    prefixes inside the file), ``aside`` (other weights in it) and ``unknown`` keys."""
    tokenizer: Mapping[str, Tensor] = MappingProxyType({})
    """Of the same file, by its own keys; empty where there is none."""
    config: Mapping[str, Any] = MappingProxyType({})
    """What the source's configuration says, of the file ``details["config"]``."""


class _Raw(NamedTuple):
    """A checkpoint as it lies on disk."""

    state: Mapping[str, Tensor]
    file: Path
    config: dict[str, Any]
    config_file: Path | None
    found: State


def load_foreign(
    path: Path,
    kind: Kind | None = None,
    *,
    heads: int | None = None,
    classes: int = 1000,
    grid: tuple[int, int] | None = None,
    half: bool = False,
) -> Foreign:
    """Read a checkpoint of maskgit-pytorch, UnlockMGM, the original MaskGIT, MAGE, MAR or eMIGM.

    Args:
        path: a maskgit-pytorch run, one of its ``ckpt/step*`` folders or files (averaged weights
            are preferred); a folder of UnlockMGM; a flax msgpack file; a MAGE or MAGE-C file; or
            a MAR or eMIGM checkpoint (averaged weights too); or, of the last three, the folder of
            ``checkpoint-last.pth``.
        kind: what it must be; None recognises it. An eMIGM whose mask token is not tied to the
            null class looks like MAR unless called "emigm".
        heads: attention heads, where a maskgit-pytorch run has no ``config-*.yaml`` or a MAGE
            (its encoder), MAR or eMIGM is of no published width.
        classes: N of a flax file, whose shapes do not tell codes from classes.
        grid: rows and columns of tokens of an image, which no file tells; None means square.
        half: floats in float16 instead of float32, to be saved so.

    Raises:
        InputError: when the path does not exist (naming where a published file is to be had), is
            of another system, or does not fill its network exactly.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(_absent(path))
    raw = _read_folder(path) if path.is_dir() else _read_file(path)
    found = recognise(raw.state, str(raw.file))
    if (kind, found) == ("emigm", "mar"):
        found = "emigm"
    if kind is not None and found != kind:
        raise InputError(f"{raw.file} looks like {found}, not {kind}")
    details = {"kind": found, "file": str(raw.file)} | _told(raw.found)
    tokenizer: Mapping[str, Tensor] = {}
    if found == "mage":
        raw, tokenizer, unknown = _mage_parts(raw)
        details |= {"unknown": ", ".join(unknown)} if unknown else {}
    state = to_own(raw.state, TABLES[found], str(raw.file), cast=halved if half else single)
    if found in ("mar", "emigm"):
        state = mar.settle_tie(state)
        pair = None if heads is None else (heads, heads)
        network: AnyNetwork = mar.network_of(state, heads=pair, grid=grid, origin=str(raw.file))
    elif found == "mage":
        network = mage.network_of(state, str(raw.file), heads=heads, grid=grid)
    else:
        network = _network(found, raw, heads=heads, classes=classes, grid=grid)
    with skeleton():
        wanted = network.build().state_dict()
    check_state(wanted, state, str(raw.file))
    if raw.config_file is not None:
        details["config"] = str(raw.config_file)
    return Foreign(network, state, details, tokenizer, raw.config)


def _told(found: State) -> dict[str, str]:
    """Which weights of a file were taken, and which left aside, in words."""
    told = {"taken": found.taken, "aside": ", ".join(found.aside)}
    if found.empty:
        told["empty"] = ", ".join(found.empty)
    return {what: said for what, said in told.items() if said}


def _mage_parts(raw: _Raw) -> tuple[_Raw, Mapping[str, Tensor], list[str]]:
    """Network, tokenizer, and the keys of neither, which MAGE-C's files may have."""
    state, tokenizer = mage.split_tokenizer(raw.state)
    unknown = mage.extra_keys(state)
    kept = pick(state, {key: key for key in state if key not in unknown})
    return raw._replace(state=kept), tokenizer, unknown


def holds_network(file: Path) -> bool:
    """Whether a file holds a network of a kind that is known here.

    Raises:
        InputError: when it cannot be read.
    """
    return not SIGNATURES.keys().isdisjoint(read_weights(file, SIGNATURES).tensors)


def recognise(state: Mapping[str, Tensor], origin: str) -> str:
    """The kind of a state dict by its keys.

    Raises:
        InputError: for another system's, naming what it looks like.
    """
    for key, kind in SIGNATURES.items():
        if key in state:
            tied = kind == "mar" and "mask_token" in state and state["mask_token"].ndim == 2
            return "emigm" if tied else kind
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
    if path.name in PUBLISHED:
        return f"{path} does not exist; download it from {PUBLISHED[path.name]} to that place"
    places: dict[str, list[str]] = {}
    for name, where in PUBLISHED.items():
        places.setdefault(where, []).append(name)
    published = "; ".join(f"{', '.join(names)}: {where}" for where, names in places.items())
    return f"{path} does not exist; published files to download: {published}"


def _network(
    kind: str, raw: _Raw, *, heads: int | None, classes: int, grid: tuple[int, int] | None
) -> AnyNetwork:
    origin = str(raw.file)
    if kind == "maskgit-jax":
        return maskgit_jax.network_of(raw.state, classes=classes, grid=grid, origin=origin)
    if kind == "unlockmgm":
        if not raw.config:
            raise InputError(f"{raw.file.parent} has no config.json; put UnlockMGM's beside it")
        config = str(raw.file.parent / "config.json")
        return unlockmgm.network_of(raw.config, keys=raw.state, grid=grid, origin=config)
    heads = heads if heads is not None else _number(raw, "n_heads", int)
    dropout = _number(raw, "dropout", float) or 0.0
    return maskgit_pytorch.network_of(
        raw.state, heads=heads, dropout=dropout, grid=grid, origin=origin
    )


def _number(raw: _Raw, key: str, kind: type) -> Any:
    """A number of a run's configuration, or None."""
    found = _find_value(raw.config, key)
    if found is None or type(found) is kind or (type(found) is int and kind is float):
        return found
    raise InputError(f"{raw.config_file}: {key}={str(found)[:40]!r} is no number for it")


def _find_value(tree: Mapping[str, Any], key: str) -> Any:
    """The outermost value of ``key`` in nested maps, each of them looked at once, else None."""
    waiting, seen = [tree], {id(tree)}
    for branch in waiting:
        if branch.get(key) is not None:
            return branch[key]
        below = [v for v in branch.values() if isinstance(v, dict) and id(v) not in seen]
        waiting += below
        seen |= set(map(id, below))
    return None


def _read_folder(folder: Path) -> _Raw:
    if is_ours(folder):
        raise InputError(f"{folder} is a model in unmask's own format; no import is needed")
    for name in ("pytorch_model.bin", "checkpoint-last.pth"):
        if (folder / name).exists():
            return _read_file(folder / name)
    inside = folder / "ckpt" if (folder / "ckpt").is_dir() else folder
    steps = sorted(inside.glob("step*"), key=_step_number, reverse=True)
    for step in [folder, *steps]:
        if found := [step / name for name in STEP_FILES if (step / name).is_file()]:
            return _read_first(found)
    for name in STEP_FOLDERS:
        if (folder / name).is_dir():
            return _read_folder(folder / name)
    raise InputError(
        f"{folder} holds neither ckpt/step*/model_ema.pt (maskgit-pytorch) nor "
        "config.json with pytorch_model.bin (UnlockMGM) nor checkpoint-last.pth (MAGE, MAR, eMIGM)"
    )


def _read_first(files: list[Path]) -> _Raw:
    """The first file with weights; an average that was never taken is passed over."""
    raws = (_read_file(file) for file in files)
    first = next(raws)
    if first.state:
        return first
    second = next((raw for raw in raws if raw.state), first)
    return second._replace(found=second.found._replace(empty=(str(first.file),)))


def _step_number(folder: Path) -> int:
    digits = re.sub(r"\D", "", folder.name)
    return int(digits) if digits else -1


def _read_file(path: Path) -> _Raw:
    state, found = read_weights(path, SIGNATURES)
    if path.name == "pytorch_model.bin" or (path.parent / "config.json").is_file():
        beside = path.parent / "config.json"
        return _Raw(state, path, _read_config(beside), beside, found)
    return _Raw(state, path, *_run_config(path), found)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"{path} is missing; UnlockMGM's weights need the config.json beside them")
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no mapping of keys to values")
    return config


def _run_config(weights: Path) -> tuple[dict[str, Any], Path | None]:
    """The newest ``config-*.yaml`` beside the weights or in the run that they belong to."""
    for folder in list(weights.absolute().parents)[:3]:
        for path in sorted(folder.glob("config*.yaml"), reverse=True):
            try:
                config = yaml.safe_load(path.read_text(encoding="utf8"))
            except OSError as error:
                raise InputError(f"{path} cannot be read: {error.strerror}") from None
            except (yaml.YAMLError, ValueError, RecursionError) as error:
                reason = (str(error).splitlines() or ["it is nested too deeply"])[0]
                raise InputError(f"{path} is not YAML: {reason}") from None
            if isinstance(config, dict):
                return config, path
    return {}, None
