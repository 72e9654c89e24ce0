"""Names of a data set's classes."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from unmask.errors import InputError, did_you_mean
from unmask.files.json_files import read_json

CLASSES_FILE = "classes.json"
MOST_CLASSES = 1_000_000  # a label beyond is no class: a hash, a time, an identity
Found = int | str | None  # how a file tells a class: by number, by name, or not at all


def class_name(text: str) -> str:
    """A class name in the one spelling of Unicode (NFC) that all comparisons use."""
    return unicodedata.normalize("NFC", text)


def check_class_names(names: object, where: str) -> tuple[str, ...]:
    """A list of names as it was found, in label order.

    Args:
        names: what lies there.
        where: the file, for messages.

    Returns:
        The names, in NFC.

    Raises:
        InputError: no list of strings, more than :data:`MOST_CLASSES`, or one name twice.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{where} must hold a list of strings, one a class in label order")
    if len(names) > MOST_CLASSES:
        raise InputError(f"{where} names {len(names):,} classes; the limit is {MOST_CLASSES:,}")
    normal = tuple(map(class_name, names))
    if twice := [name for name, count in Counter(normal).items() if count > 1]:
        first = normal.index(twice[0])
        again = normal.index(twice[0], first + 1)
        raise InputError(
            f"{where} names the classes {first} and {again} both {twice[0]!r}; "
            "give each class a name of its own"
        )
    return normal


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The list in ``folder/classes.json``, in label order; empty when there is no such file.

    Raises:
        InputError: the file is not a JSON list of different strings.
    """
    file = folder / CLASSES_FILE
    return check_class_names(read_json(file), str(file)) if file.exists() else ()


def folder_classes(place: Path, folders: Sequence[str]) -> tuple[tuple[str, ...], dict[str, int]]:
    """Names of classes that are folders, in label order, and the label of each folder.

    Without a ``classes.json`` in ``place`` a label is the rank of the folder's name. A list there
    that has all the folders' names gives their order; another list of their number names them in
    alphabetical order; an object gives each folder a name.

    Args:
        place: where ``classes.json`` may lie.
        folders: in alphabetical order.

    Raises:
        InputError: a file of names that do not fit the folders.
    """
    file, ranks = place / CLASSES_FILE, {folder: rank for rank, folder in enumerate(folders)}
    if not file.exists():
        return tuple(folders), ranks
    found = read_json(file)
    if isinstance(found, dict):
        named = {class_name(folder): name for folder, name in found.items()}
        if lacking := [folder for folder in folders if folder not in named]:
            raise InputError(f"{file} gives no name to the class folder {lacking[0]!r}; add it")
        return check_class_names([named[folder] for folder in folders], str(file)), ranks
    names = check_class_names(found, str(file))
    if set(folders) <= set(names):
        return names, {name: rank for rank, name in enumerate(names)}
    if len(names) != len(folders):
        strange = next(folder for folder in folders if folder not in names)
        raise InputError(
            f"{file} names {len(names)} classes, and there are {len(folders)} class folders, of "
            f"which it lacks {strange!r}; list all of them, or a name for each"
        )
    return names, ranks


class JoinedClasses(NamedTuple):
    """Labels of a data set's parts, joined.

    Args:
        names: Names of the classes in label order; empty if nothing is labelled.
        labels: Labels of each part's images; None throughout in a part without labels.
        notes: Sentences on classes without images and on labels that count as none.
    """

    names: tuple[str, ...]
    labels: list[list[int | None]]
    notes: list[str]


def join_classes(
    parts: Sequence[Sequence[Found]], names: Sequence[str], *, where: str
) -> JoinedClasses:
    """Labels as they were found, as numbers of the same classes in every part.

    A number is a label. A name is looked up in ``names``; without them the classes are the names
    that occur, sorted. A part whose labels are all -1, as test sides on the hub are, has none.

    Args:
        parts: of each side of the data set, what was found of each image.
        names: known names in label order; empty makes names of the labels.
        where: the data set, for messages.

    Raises:
        InputError: some images of a part have a label and some do not, numbers and names are mixed,
            or a label is negative, too large, or without a name.
    """
    notes: list[str] = []
    parts = [_labelled(part, notes, where) for part in parts]
    words, numbers = _told(parts, where)
    names = names or words
    ranks = {name: rank for rank, name in enumerate(names)}
    if unknown := [word for word in words if word not in ranks]:
        raise InputError(
            f"{where} has the class {unknown[0]!r}, which {CLASSES_FILE} does not name; "
            f"{did_you_mean(unknown[0], names)}"
        )
    every = _names_for(numbers, names, where) if numbers else tuple(names if words else ())
    if empty := len(every) - len(words) - len(numbers):
        notes.append(f"{empty} of the {len(every)} classes have no image")
    return JoinedClasses(
        every, [[ranks[k] if isinstance(k, str) else k for k in part] for part in parts], notes
    )


def _told(parts: Sequence[Sequence[Found]], where: str) -> tuple[list[str], list[int]]:
    """The names that occur, sorted, or the numbers; never both."""
    given = set(chain.from_iterable(parts))
    words = sorted(label for label in given if isinstance(label, str))
    numbers = [label for label in given if isinstance(label, int)]
    if words and numbers:
        raise InputError(
            f"{where} has the label {numbers[0]} and the label {words[0]!r}; "
            "write numbers only, or names only"
        )
    return words, numbers


def _labelled(part: Sequence[Found], notes: list[str], where: str) -> Sequence[Found]:
    """The labels of one part, all or none."""
    lacking = sum(label is None for label in part)
    if 0 < lacking < len(part):
        raise InputError(
            f"{lacking} of {len(part)} images of {where} lack a label; label all or none"
        )
    if not part or any(label != -1 for label in part):
        return part
    notes.append(f"{len(part)} images are labelled -1 throughout, which counts as unlabelled")
    return [None] * len(part)


def _names_for(numbers: Sequence[int], names: Sequence[str], where: str) -> tuple[str, ...]:
    """Class names that cover labels; without names the numbers themselves."""
    low, high = min(numbers), max(numbers)
    if low < 0:
        raise InputError(
            f"{where} has the label {low} beside others; labels must start at 0, and only a side "
            "whose labels are all -1 counts as unlabelled"
        )
    if names and high >= len(names):
        raise InputError(
            f"{where} has the label {high} but only {len(names)} class names; add the missing "
            f"names to {CLASSES_FILE}"
        )
    if high >= MOST_CLASSES:
        raise InputError(
            f"{where} has the label {high}; labels are numbers of classes, from 0 to "
            f"{MOST_CLASSES - 1:,}"
        )
    return tuple(names) or tuple(map(str, range(high + 1)))
