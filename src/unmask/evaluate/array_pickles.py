"""Pickles of NumPy arrays and plain containers, such as EDM2's statistics; nothing else is run."""

from __future__ import annotations

import codecs
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason

FROM_BUFFER: Callable = np.zeros(1).__reduce_ex__(5)[0]  # type: ignore[assignment]


def _empty(*_: object) -> np.ndarray:
    """Where a pickled array begins, whatever size the pickle asks for; its state gives the rest."""
    return np.ndarray((0,), np.int8)


# By NumPy 1's names of its modules and by NumPy 2's.
KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _empty for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): FROM_BUFFER for core in ("core", "_core")},
}


class _Arrays(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle means, if an array is made of it."""
        if (module, name) not in KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is no array")
        return KNOWN[module, name]


def read_arrays(path: Path) -> Any:
    """The dicts, lists and arrays of a pickle.

    Raises:
        InputError: a file that is damaged, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            return _Arrays(file).load()
    except (*DAMAGE, MemoryError) as error:
        raise InputError(
            f"{path} is no pickle of arrays alone ({reason(error)}); save its mu and sigma with "
            "numpy.savez"
        ) from error
