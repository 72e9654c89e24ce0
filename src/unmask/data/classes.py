"""Names of the classes, and how a person may refer to one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from unmask.errors import InputError, did_you_mean

CLASSES_FILE = "classes.json"


def class_index(class_names: Sequence[str], asked: str) -> int:
    """The class that a person means.

    Args:
        class_names: of the data or model, in label order.
        asked: a name in any letter case ("Bag"), or an index ("8"); a name wins over an index.

    Returns:
        The label, in [0, len(class_names)).

    Raises:
        InputError: neither a name nor an index in range.
    """
    folded = [name.casefold() for name in class_names]
    if asked in class_names:
        return class_names.index(asked)
    if asked.casefold() in folded:
        return folded.index(asked.casefold())
    if not class_names:
        raise InputError(f"class {asked!r} asked for, but there are no classes; leave it out")
    if asked.isdecimal():
        if int(asked) < len(class_names):
            return int(asked)
        raise InputError(f"class {asked} is out of range; use 0 to {len(class_names) - 1}")
    raise InputError(f"unknown class {asked!r}; {did_you_mean(asked, class_names)}")


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
