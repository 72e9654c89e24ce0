"""Tensors of a file that are read one at a time, when they are asked for."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from unmask.errors import InputError


class LazyTensors(Mapping[str, Tensor]):
    """Tensors of a file by name; each is read anew whenever it is asked for, as a copy.

    What was read is handed back to the system, so that nothing is in memory twice, and nobody
    depends on the file any more.

    Args:
        views: the tensors, which nobody writes to.
        path: the file in whose memory map they lie, which somebody else has made.
        maps: False where they are in memory already; they are then handed out as they are.
    """

    def __init__(self, views: Mapping[str, Tensor], path: Path, *, maps: bool = True) -> None:
        self._views, self._path, self._maps = dict(views), path, maps
        starts = [view.untyped_storage().data_ptr() for view in views.values()]
        spans = _spans_of(path) if maps else []
        self._spans = [s for s in spans if any(s[0] <= start < s[1] for start in starts)]
        self._release()

    def __getitem__(self, name: str) -> Tensor:
        return self.derive([name], lambda tensors: tensors[0])

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __contains__(self, name: object) -> bool:
        return name in self._views  # without reading it, as Mapping's own would

    def derive(self, names: Sequence[str], make: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """What is made of some of them, without a copy of each on the way.

        Raises:
            InputError: for one that claims to be larger than what is stored of it.
        """
        views = [self._checked(name) for name in names]
        made = make(views)
        places = {view.untyped_storage().data_ptr() for view in views}
        if self._maps and made.untyped_storage().data_ptr() in places:
            made = made.clone()
        self._release()
        return made

    def picked(self, names: Mapping[str, str]) -> LazyTensors:
        """Some of them under other names: from the new name to the one here."""
        views = {new: self._views[name] for new, name in names.items()}
        return LazyTensors(views, self._path, maps=self._maps)

    def _release(self) -> None:
        """Tell the system that the map's pages are not needed now; they can be read again."""
        for low, high in self._spans:
            ctypes.CDLL(None).madvise(
                *(ctypes.c_void_p(low), ctypes.c_size_t(high - low)),
                ctypes.c_int(mmap.MADV_DONTNEED),
            )

    def _checked(self, name: str) -> Tensor:
        view = self._views[name].detach()
        room = view.untyped_storage().nbytes()
        if view.numel() * view.element_size() > room:
            raise InputError(
                f"{self._path} is damaged: {name!r} of shape {tuple(view.shape)} has {room} bytes"
            )
        return view


def derive(
    state: Mapping[str, Tensor], names: Sequence[str], make: Callable[[Sequence[Tensor]], Tensor]
) -> Tensor:
    """What is made of some tensors; lazy ones are not copied on the way."""
    if isinstance(state, LazyTensors):
        return state.derive(names, make)
    return make([state[name] for name in names])


def _spans_of(path: Path) -> list[tuple[int, int]]:
    """Addresses of this process's maps of a file, as Linux tells them; elsewhere none."""
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    wanted = os.fsencode(os.path.realpath(path))
    spans = []
    for line in lines:
        span, *_, name = line.split(maxsplit=5)
        if name == wanted:
            low, high = span.split(b"-")
            spans.append((int(low, 16), int(high, 16)))
    return spans
