"""Finished images of a set that is still being made, so that a killed command goes on from them.

Images have numbers. Whoever makes some of them puts them where they wait, whole or not there; what
is there is not made again, whichever process made it, and in batches of whatever size.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from torch import Tensor

from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason
from unmask.files.durable import clear_leftovers, output
from unmask.pictures import to_pil, write_png

PART = re.compile(r"(\d{9})-(\d{9})\.npy")
END_OF_PNG = b"IEND\xaeB`\x82"
WRITERS = 4  # threads that write while the next images are made, and batches that wait for them


class Parts(ABC):
    """Finished images in a folder."""

    folder: Path

    @abstractmethod
    def missing(self, count: int) -> list[int]:
        """Numbers below ``count`` of the images that are not there, ascending."""

    @abstractmethod
    def keep(self, numbers: Sequence[int], values: Tensor) -> None:
        """Put finished images there.

        Args:
            numbers: ascending.
            values: on the CPU, one a number along the first axis.

        Raises:
            InputError: the disk is full or refuses.
        """

    @contextmanager
    def writing(self) -> Iterator[Callable[[Sequence[int], Tensor], None]]:
        """:meth:`keep` in the background, of a few batches at a time.

        Yields:
            A function that waits only where writing is slower than what is written; it raises what
            an earlier call has met.
        """
        waiting = deque[Future[None]]()

        def later(numbers: Sequence[int], values: Tensor) -> None:
            """Hand a batch on."""
            while waiting and (len(waiting) >= WRITERS or waiting[0].done()):
                waiting.popleft().result()
            waiting.append(pool.submit(self.keep, numbers, values))

        with ThreadPoolExecutor(WRITERS) as pool:
            yield later
            for written in waiting:
                written.result()


@dataclass(frozen=True)
class Arrays(Parts):
    """An array for consecutive images, in a file named by the first number and the one behind."""

    folder: Path

    def spans(self) -> list[tuple[range, Path]]:
        """Numbers of each file, in their order."""
        found = ((PART.fullmatch(path.name), path) for path in self.folder.glob("*.npy"))
        spans = [(range(int(named[1]), int(named[2])), path) for named, path in found if named]
        return sorted(spans, key=lambda span: span[0].start)

    def missing(self, count: int) -> list[int]:
        """Numbers that no file has."""
        there = {number for span, _ in self.spans() for number in span}
        return [number for number in range(count) if number not in there]

    def keep(self, numbers: Sequence[int], values: Tensor) -> None:
        """Write a file for each run of consecutive numbers."""
        runs = groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])
        for run in (list(pairs) for _, pairs in runs):
            (first, start), (last, end) = run[0], run[-1]
            place = self.folder / f"{start:09d}-{end + 1:09d}.npy"
            with output(place, "finished images are whole") as aside, aside.open("wb") as file:
                np.save(file, values[first : last + 1].numpy(), allow_pickle=False)

    def read(self) -> Iterator[np.ndarray]:
        """All images, file by file.

        Raises:
            InputError: naming a file that is damaged.
        """
        done = 0
        for span, path in self.spans():
            try:
                values = np.load(path, allow_pickle=False)[max(0, done - span.start) :]
            except DAMAGE as error:
                raise InputError(
                    f"{path} is damaged ({reason(error)}); delete it and start again, which makes "
                    "its images anew"
                ) from None
            done = max(done, span.stop)
            yield values


@dataclass(frozen=True)
class Pictures(Parts):
    """A PNG file for each image.

    Args:
        names: Path of each image in the folder, by its number.
    """

    folder: Path
    names: Sequence[str]

    def missing(self, count: int) -> list[int]:
        """Numbers whose file is not there or, after a failure of the power, not whole."""
        for folder in {(self.folder / name).parent for name in self.names}:
            clear_leftovers(folder)
        return [n for n, name in enumerate(self.names) if not _is_whole(self.folder / name)]

    def keep(self, numbers: Sequence[int], values: Tensor) -> None:
        """Write ``(B, C, H, W)`` uint8 images as files, each by its name."""
        for number, image in zip(numbers, values, strict=True):
            write_png(to_pil(image), self.folder / self.names[number], one_of_many=True)


def _is_whole(path: Path) -> bool:
    """Whether a PNG file is there to its end."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - len(END_OF_PNG)))
        return file.read() == END_OF_PNG
