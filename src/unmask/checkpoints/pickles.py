"""PyTorch's pickles, read as plain weights: what they name is never run."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from unmask.errors import InputError


class Ignored:
    """Stands for a class that a checkpoint names beside its weights; it keeps nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Ignored:
        """Any arguments will do."""
        return super().__new__(cls)

    def __setstate__(self, state: object) -> None:
        """Any state will do."""


def _empty_dict(*args: object) -> dict:
    return {}


# Names of harmless things in the checkpoints of trainings (options, paths, counters), by module.
PATHS = "Path PosixPath PurePosixPath WindowsPath PureWindowsPath"
BESIDE_WEIGHTS = {
    "argparse": "Namespace",
    "types": "SimpleNamespace",
    "typing": "Any Dict List Optional Union",
    "datetime": "datetime date time timedelta timezone",
    "decimal": "Decimal",
    "uuid": "UUID",
    "pathlib": f"{PATHS} PurePath",
    "pathlib._local": PATHS,
    "builtins": "bool int float complex str bytes bytearray range slice list tuple dict set "
    "frozenset object",
    "__builtin__": "bool int float long str unicode list tuple dict",
    "_codecs": "encode",
    "collections": "deque namedtuple",
    "numpy": "ndarray dtype float64 float32 float16 int64 int32 bool_",
    "numpy.core.multiarray": "scalar _reconstruct",
    "numpy._core.multiarray": "scalar _reconstruct",
    "numpy.dtypes": "BoolDType Int8DType Int16DType Int32DType Int64DType UInt8DType Float16DType "
    "Float32DType Float64DType StrDType",
    "omegaconf.base": "ContainerMetadata Metadata SCMode",
    "omegaconf.listconfig": "ListConfig",
    "omegaconf.dictconfig": "DictConfig",
    "omegaconf.nodes": "AnyNode StringNode IntegerNode FloatNode BooleanNode BytesNode PathNode "
    "EnumNode",
    "pytorch_lightning.callbacks.model_checkpoint": "ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping": "EarlyStopping",
    "pytorch_lightning.utilities.parsing": "AttributeDict",
    "lightning.pytorch.callbacks.model_checkpoint": "ModelCheckpoint",
    "lightning.fabric.utilities.data": "AttributeDict",
}
# Mappings that may hold weights, read as plain ones.
MAPPINGS = (
    *("collections.defaultdict", "easydict.EasyDict", "addict.addict.Dict"),
    *("ml_collections.config_dict.config_dict.ConfigDict", "yacs.config.CfgNode"),
)
Named = Callable | tuple[Callable, str]
STAND_INS: list[tuple[Callable, str]] = [
    *(
        (Ignored, f"{module}.{name}")
        for module, names in BESIDE_WEIGHTS.items()
        for name in names.split()
    ),
    *((_empty_dict, name) for name in MAPPINGS),
]


def load_pickle(path: Path, *, zipped: bool, allowed: Sequence[Named] = STAND_INS) -> Any:
    """What a checkpoint holds: containers, numbers and tensors, and :class:`Ignored` objects.

    Args:
        path: a file of ``torch.save``.
        zipped: whether it is of the present form, whose tensors are then mapped, not read.
        allowed: what may be built beside tensors, in place of :data:`STAND_INS`.

    Raises:
        InputError: when it is damaged, or needs more than PyTorch's ``weights_only`` allows or
            ``allowed`` has, naming it.
    """
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(allowed)):
            warnings.simplefilter("ignore")
            return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damaged bytes make an unpickler raise anything
        raise InputError(f"{path} {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """A line of ours: PyTorch's own advises to switch this safety off."""
    text = str(error)
    refused = re.search(r"GLOBAL (\S+)", text) or re.search(r"module (\S+) is blocked", text)
    if refused is not None:
        return (
            f"cannot be read as plain weights: it wants {refused[1]!a}; save the state dict "
            "alone, by torch.save(model.state_dict(), FILE), or as safetensors"
        )
    if re.search(r"[Cc]an only|unrecognized function|Unsupported|persistent id", text):
        return (
            "cannot be read as plain weights; save the state dict alone, by "
            "torch.save(model.state_dict(), FILE), or as safetensors"
        )
    return "is damaged, cut off or no checkpoint of PyTorch; download or copy it again"
