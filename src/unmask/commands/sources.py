"""Opening the images that a command was given, and saying what they are."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

from unmask.data.reader import Reader
from unmask.data.source import EMBEDDED, open_source, summary
from unmask.data.split import Split
from unmask.ranges import Place
from unmask.text import say

Images = Annotated[Place, tyro.conf.arg(metavar="IMAGES")]
"""Where images lie, or the name of a set that travels along."""
TrainingSide = Literal["train", "all"]
"""What is trained on: the side that is for it, or every image."""


def open_images(
    path: str, split: Split = "train", *, speaks: bool = True, counted: bool = True
) -> Reader:
    """The images of a side, after a word on how many, what is held out and what is not read.

    Args:
        path: where they lie, or the name of a set that travels along.
        split: which of them.
        speaks: whether this process says it.
        counted: whether the word has the numbers, which an outline has too.

    Raises:
        InputError: see :func:`unmask.data.source.open_source`.
    """
    source = open_source(path, split=split)
    if speaks:
        title = f"{path} ({split})" if path in EMBEDDED else ""
        say(*summary(source, title=title, counted=counted, split=split))
    return source
