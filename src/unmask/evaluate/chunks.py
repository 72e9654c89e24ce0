"""Features of sets of images in a folder, chunk by chunk, by any number of processes.

A chunk is a fixed range of a set's images, measured in fixed batches, and a file that is whole or
not there. Who computes it, and when, leaves no trace; and one process folds the chunks into totals
in their order. So many processes give the numbers of one, and a killed evaluation goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open

from unmask.checkpoints.write_tensors import write_tensors
from unmask.errors import InputError
from unmask.evaluate.classifier import TrainedClassifier
from unmask.evaluate.features import FeatureExtractor
from unmask.evaluate.measure import Measured, limited, measure
from unmask.evaluate.numbered_set import NumberedSet
from unmask.files.durable import output
from unmask.files.folders import claim
from unmask.files.json_files import read_json
from unmask.machine.processes import by_main, check_shared, launched, meet
from unmask.show import Bar

T = TypeVar("T")
SETTINGS = "settings.json"
FEW = 32  # processes, for which chunks are long enough to generate many images at once
COARSE, FINE = 4, 1  # batches in a chunk, for few processes and for more
CHUNK, FILES = "batches a chunk", "sizes of real images"  # settings that older folders lack


class Chunks:
    """A folder of measured chunks.

    Args:
        folder: new, or of the same evaluation; None keeps nothing.
        settings: everything that decides a feature.
        networks: what measures images: a feature network, and perhaps a classifier.
        batch_size: images a batch.

    Raises:
        InputError: when the folder holds another evaluation, naming what differs, or other files.
    """

    def __init__(
        self,
        folder: Path | None,
        settings: Mapping[str, str],
        networks: tuple[FeatureExtractor, TrainedClassifier | None],
        *,
        batch_size: int,
    ) -> None:
        self.folder, self.networks = folder, networks
        self._on_images: Callable[[int], None] = lambda count: None
        batches = 1
        if folder is not None:
            batches = by_main(lambda: _claimed(folder, settings))
            check_shared(folder / SETTINGS)
        self.size = batches * batch_size
        if folder is not None:
            check_shared(folder / SETTINGS)

    @contextmanager
    def bar(self, total: int | None) -> Iterator[None]:
        """Show how many of so many images are measured, on the main process."""
        with Bar("measuring", total, shown=launched().is_main_process) as shown:
            self._on_images = shown.advance
            yield

    @property
    def shared(self) -> bool:
        """Whether all processes of the launcher work on it."""
        return self.folder is not None and launched().num_processes > 1

    def by_main(self, work: Callable[[], T]) -> T:
        """What a process that works alone makes, or the main one for all."""
        return by_main(work) if self.shared else work()

    def fold(self, sets: Sequence[NumberedSet], make: Callable[[], T]) -> T:
        """What every process makes of the sets, after those that share a folder have measured."""
        state = launched()
        if self.folder is not None:
            todo = self.missing(sets, rank=state.process_index, processes=state.num_processes)
            with self.bar(self.size * len(todo)):
                self.compute(todo)
            meet()
        counts = [images.expected for images in sets]
        with self.bar(None if None in counts else sum(filter(None, counts))):
            return make()

    def missing(
        self, sets: Iterable[NumberedSet], *, rank: int = 0, processes: int = 1
    ) -> list[tuple[NumberedSet, int]]:
        """Set and number of the chunks that process ``rank`` still has to compute."""
        every = [
            (images, number)
            for images in sets
            for number in range(-(-self._known(images.expected, images) // self.size))
        ]
        return [chunk for chunk in every[rank::processes] if not self._file(*chunk).exists()]

    def compute(self, chunks: Iterable[tuple[NumberedSet, int]]) -> None:
        """Measure chunks into the folder.

        Raises:
            InputError: for images that cannot be measured, or a disk that refuses.
        """
        for images, number in chunks:
            self._write(images, number)

    def read(self, images: NumberedSet) -> Iterator[Measured]:
        """A whole set in order; what is not in the folder is measured now."""
        return limited(self._all(images), images.wanted)

    def _all(self, images: NumberedSet) -> Iterator[Measured]:
        if self.folder is None:
            yield from self._measured(images, 0, images.positions or 0)
            return
        # Past the wanted number of positions where some images could not be read.
        for number in range(-(-self._known(images.positions, images) // self.size)):
            if not self._file(images, number).exists():
                self._write(images, number)
            yield from _load(self._file(images, number), images.skipped)

    @staticmethod
    def _known(count: int | None, images: NumberedSet) -> int:
        if count is None:
            raise InputError(
                f"the set {images.name!r} can be read once only; give files or a system, or leave "
                "out the folder (work)"
            )
        return count

    def _measured(self, images: NumberedSet, start: int, stop: int) -> Iterator[Measured]:
        for found in measure(
            images.read(start, min(stop, images.positions or stop)), *self.networks
        ):
            self._on_images(len(found.pooled))
            yield found

    def _file(self, images: NumberedSet, number: int) -> Path:
        assert self.folder is not None, "there are no files without a folder"
        return self.folder / f"{images.name.replace(' ', '-')}-{number:05d}.safetensors"

    def _write(self, images: NumberedSet, number: int) -> None:
        before = len(images.skipped)
        start = number * self.size
        batches = list(self._measured(images, start, start + self.size))
        columns = dict(zip(Measured._fields, zip(*batches, strict=True), strict=False))
        tensors = {name: torch.cat(c) for name, c in columns.items() if c[0] is not None}
        facts = {
            "batches": json.dumps([len(batch.pooled) for batch in batches]),
            "skipped": json.dumps(images.skipped[before:]),
        }
        file = self._file(images, number)
        with output(file, "finished chunks are whole") as aside:
            write_tensors(aside, tensors, facts)


def _claimed(folder: Path, settings: Mapping[str, str]) -> int:
    """Make the folder this evaluation's; batches of its chunks, as they were when it was new."""
    held = folder / SETTINGS
    try:
        found = read_json(held) if held.exists() else None
    except InputError:  # which claiming it will say
        found = None
    batches = str(COARSE if launched().num_processes <= FEW else FINE)
    settings = {CHUNK: batches, **settings}
    if isinstance(found, dict):
        batches = str(found.get(CHUNK, COARSE))
        lacking = {CHUNK, FILES} - found.keys()
        settings = {name: fact for name, fact in settings.items() if name not in lacking}
        settings |= {CHUNK: batches} if CHUNK in found else {}
    claim(folder, settings, "evaluation", file=SETTINGS, option="--work")
    return int(batches) if batches.isdecimal() else FINE


def _load(file: Path, skipped: list[str]) -> Iterator[Measured]:
    try:
        with safe_open(file, framework="pt") as held:
            facts = held.metadata()
            columns = {name: held.get_tensor(name) for name in held.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{file} is damaged: {error}; delete it and start again") from None
    skipped += [name for name in json.loads(facts["skipped"]) if name not in skipped]
    start = 0
    for count in json.loads(facts["batches"]):
        yield Measured(**{name: column[start : start + count] for name, column in columns.items()})
        start += count
