"""Sets of images at numbered positions, from which any process can read any part."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.image_batch import Batches, ImageBatch, as_batches
from unmask.evaluate.image_sets import ImageSet


def check_shape(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse images of another shape than those they are compared with.

    Raises:
        InputError: naming the set and both shapes.
    """
    if found != wanted:
        raise InputError(
            f"the set {name!r} has images of shape {found}, wanted is {wanted} (channels, height, "
            "width) throughout; resize or convert them"
        )


@dataclass(frozen=True, kw_only=True)
class NumberedSet:
    """Images at numbered positions, some of which may turn out unreadable.

    Args:
        name: Name of the set in reports and in the names of its files.
        between: Batches of the images at positions ``[start, stop)``; start is a multiple of a
            chunk.
        positions: Number of positions; None where nobody knows it, and the set is read once, from
            its start.
        wanted: Images at most; None means all.
        shape: Channels, height and width that every image must have; None checks nothing.
        skipped: Unreadable images so far; ``between`` adds to it.
    """

    name: str
    between: Callable[[int, int], Iterable[Tensor | ImageBatch]]
    positions: int | None
    wanted: int | None = None
    shape: tuple[int, ...] | None = None
    skipped: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, name: str, source: Batches | ImageSet) -> NumberedSet:
        """Files, or batches of images that are read once; the first one is read at once.

        Raises:
            InputError: when there are no images.
        """
        if isinstance(source, ImageSet):
            return cls(
                name=name,
                between=source.between,
                positions=len(source),
                shape=source.shape,
                skipped=source.skipped,
            )
        batches = (batch for batch in as_batches(source) if len(batch.images))
        first = next(batches, None)
        if first is None:
            raise InputError(f"the set {name!r} holds no images; give at least 2")
        return cls(
            name=name,
            between=lambda start, stop: chain([first], batches),
            positions=None,
            shape=tuple(first.images.shape[1:]),
        )

    @property
    def expected(self) -> int | None:
        """Images if all wanted positions are readable; None where nobody knows."""
        known = [number for number in (self.positions, self.wanted) if number is not None]
        return None if self.positions is None else min(known)

    def read(self, start: int, stop: int) -> Iterator[ImageBatch]:
        """Batches of the images at positions ``[start, stop)``, each checked.

        Raises:
            InputError: for images of another shape, or no uint8.
        """
        for batch in as_batches(self.between(start, stop)):
            if self.shape is not None:
                check_shape(self.name, tuple(batch.images.shape[1:]), self.shape)
            yield batch
