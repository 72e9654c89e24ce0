"""Labels of ImageNet's validation images, which lie in one flat folder, from its development kit.

ILSVRC2012_devkit_t12.tar.gz holds them as ``data/ILSVRC2012_validation_ground_truth.txt``, line k
for ``ILSVRC2012_val_…k.JPEG``: a number of the kit's own, which ``data/meta.mat`` beside it turns
into the name of a class folder. A file of the same name with these names is read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from unmask.data.matlab import read_matlab
from unmask.errors import InputError

TRUTH, SYNSETS = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
PLACES = (".", "data", "ILSVRC2012_devkit_t12/data", "devkit/data")
NUMBER = re.compile(r"(\d{1,12})\.[^.]*$")  # of an image, at the end of its name


def find_truth(*folders: Path) -> Path | None:
    """The kit's file of labels in or below one of the folders, where people put it."""
    files = [folder / place / TRUTH for folder in folders for place in PLACES]
    return next((file for file in files if file.is_file()), None)


def read_truth(file: Path) -> list[str]:
    """Names of class folders, image by image.

    Raises:
        InputError: the file, or ``meta.mat`` beside it, is missing, damaged or does not fit.
    """
    try:
        lines = file.read_text("ascii").split()
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); fetch it again") from error
    if not all(map(str.isdecimal, lines)):
        return lines
    table = file.with_name(SYNSETS)
    if not table.is_file():
        raise InputError(f"{file} holds the kit's numbers, which {table} explains; copy that too")
    names = _names(table)
    unknown = next((line for line in lines if float(line) not in names), None)
    if unknown is not None:
        raise InputError(f"{file} holds the number {unknown}, which {table} does not; fetch both")
    return [names[float(line)] for line in lines]


def _names(table: Path) -> dict[float, str]:
    records = read_matlab(table).get("synsets")
    if not isinstance(records, list) or not all({"ILSVRC2012_ID", "WNID"} <= {*r} for r in records):
        raise InputError(f"{table} holds no synsets with ILSVRC2012_ID and WNID; fetch it again")
    pairs = [(record["ILSVRC2012_ID"], record["WNID"]) for record in records]
    return {
        number: name
        for number, name in pairs
        if isinstance(number, float) and name.__class__ is str
    }


def truth_labels(file: Path, images: list[str], ranks: Mapping[str, int]) -> list[int | None]:
    """Labels of images by the number in their names; None where training has no such class.

    Args:
        file: the kit's.
        images: paths that end in a number, from 1.
        ranks: label of each class folder.

    Raises:
        InputError: an image without a number, or beyond the file's last line.
    """
    names = read_truth(file)
    labels = []
    for image in images:
        found = NUMBER.search(image)
        if found is None or not 1 <= int(found[1]) <= len(names):
            raise InputError(
                f"{image} has no number from 1 to {len(names)} at the end of its name, by which "
                f"{file} would label it; move one of them away"
            )
        labels.append(ranks.get(names[int(found[1]) - 1]))
    return labels
