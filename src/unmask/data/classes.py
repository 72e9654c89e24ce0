"""Names of the classes, and how a person may refer to one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import SupportsIndex

from unmask.draws import as_integer
from unmask.errors import InputError, did_you_mean

CLASSES_FILE = "classes.json"
Classes = SupportsIndex | str | Iterable[SupportsIndex | str]
"""One class or several: integers are labels, strings are names."""

DIGITS = 18  # of a label in words; no data set has more classes than these can count


def class_index(class_names: Sequence[str], asked: SupportsIndex | str) -> int:
    """The class that a person means.

    Args:
        class_names: of the data or model, in label order.
        asked: an integer of any integer type, which is a label whatever the classes are called; or
            a string: a name in any letter case and Unicode form ("Bag"), else, where no class is
            called so, a label in digits ("8").

    Returns:
        The label, in [0, len(class_names)).

    Raises:
        InputError: neither a name nor a label in range.
    """
    if not class_names:
        raise InputError(f"class {str(asked)!r} asked for, but there are no classes; leave it out")
    if not isinstance(asked, str):
        return _in_range(as_integer(asked, "class"), len(class_names))
    if asked in class_names:
        return class_names.index(asked)
    folded = [_folded(name) for name in class_names]
    if _folded(asked) in folded:
        return folded.index(_folded(asked))
    if asked.isdecimal():
        return _in_range(int(asked[:DIGITS]), len(class_names))
    raise InputError(f"unknown class {asked!r}; {did_you_mean(asked, class_names)}")


def class_labels(class_names: Sequence[str], classes: Classes) -> list[int]:
    """Labels of the classes that a person means, one or several; see :func:`class_index`.

    Raises:
        InputError: for a class that does not exist.
    """
    if isinstance(classes, str):
        return [class_index(class_names, classes)]
    if isinstance(classes, SupportsIndex) and not getattr(classes, "ndim", 0):  # a number alone
        return [class_index(class_names, classes)]
    if not isinstance(classes, Iterable):
        raise InputError(f"classes={classes!r}; give labels or names")
    return [class_index(class_names, name) for name in classes]


def _in_range(label: int, count: int) -> int:
    if not 0 <= label < count:
        raise InputError(f"class {label} is out of range; use 0 to {count - 1}")
    return label


def _folded(name: str) -> str:
    """Without letter case, and with letters and their accents joined."""
    return unicodedata.normalize("NFC", name).casefold()


def read_class_names(folder: Path) -> tuple[str, ...]:
    """The list in ``folder/classes.json``, in label order; empty when there is no such file.

    Raises:
        InputError: the file is not a JSON list of strings.
    """
    file = folder / CLASSES_FILE
    if not file.exists():
        return ()
    try:
        names = json.loads(file.read_text(encoding="utf8"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON ({error}); write a list of names") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{file} must hold a JSON list of strings, one a class in label order")
    return tuple(names)


def names_for(labels: Sequence[int | None], names: Sequence[str], *, where: str) -> tuple[str, ...]:
    """Class names that cover ``labels``.

    Args:
        labels: one an image.
        names: known names in label order; empty makes names of the numbers.
        where: the data set, for messages.

    Returns:
        Empty when no image has a label.

    Raises:
        InputError: some images have a label and some do not, or a label has no name.
    """
    if all(label is None for label in labels):
        return ()
    numbers = [label for label in labels if label is not None]
    if len(numbers) < len(labels):
        bare = len(labels) - len(numbers)
        raise InputError(
            f"{bare} of {len(labels)} images of {where} lack a label; label all or none"
        )
    if min(numbers) < 0:
        raise InputError(f"{where} has the label {min(numbers)}; labels must start at 0")
    if names and max(numbers) >= len(names):
        raise InputError(
            f"{where} has the label {max(numbers)} but only {len(names)} class names; "
            f"add the missing names to {CLASSES_FILE}"
        )
    return tuple(names) or tuple(str(i) for i in range(max(numbers) + 1))
