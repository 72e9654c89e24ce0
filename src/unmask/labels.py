"""How a person may refer to a class: by label or by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import SupportsIndex

from unmask.draws import as_integer
from unmask.errors import InputError, unknown

NULL = "none"  # what people call the class of no class
Classes = SupportsIndex | str | Iterable[SupportsIndex | str]
"""One class or several: integers are labels, strings are names."""

DIGITS = 18  # of a label in words; no data set has more classes than these can count


def class_index(
    class_names: Sequence[str], asked: SupportsIndex | str, null: int | None = None
) -> int:
    """The class that a person means.

    Args:
        class_names: of the data or model, in label order.
        asked: an integer of any integer type, which is a label whatever the classes are called; or
            a string: a name in any letter case and Unicode form ("Bag"), else, where no class is
            called so, a label in digits ("8"), or "none" for the null class.
        null: label of the null class, which a generator has beside those of the data; None if
            there is none.

    Returns:
        The label, in [0, len(class_names)), or ``null``.

    Raises:
        InputError: neither a name nor a label in range.
    """
    if not class_names:
        raise InputError(f"class {str(asked)!r} asked for, but there are no classes; leave it out")
    if not isinstance(asked, str):
        return _in_range(as_integer(asked, "class"), len(class_names), null)
    if asked in class_names:
        return class_names.index(asked)
    folded = [_folded(name) for name in class_names]
    if _folded(asked) in folded:
        return folded.index(_folded(asked))
    if asked.isdecimal():
        return _in_range(int(asked[:DIGITS]), len(class_names), null)
    if null is not None and _folded(asked) == NULL:
        return null
    raise unknown("class", asked, class_names)


def class_labels(
    class_names: Sequence[str], classes: Classes, null: int | None = None
) -> list[int]:
    """Labels of the classes that a person means, one or several; see :func:`class_index`.

    Raises:
        InputError: for a class that does not exist.
    """
    if isinstance(classes, str):
        return [class_index(class_names, classes, null)]
    if isinstance(classes, SupportsIndex) and not getattr(classes, "ndim", 0):  # a number alone
        return [class_index(class_names, classes, null)]
    if not isinstance(classes, Iterable):
        raise InputError(f"classes={classes!r}; give labels or names")
    return [class_index(class_names, name, null) for name in classes]


def _in_range(label: int, count: int, null: int | None) -> int:
    """The label; that of the null class too must be asked for by name, since it may be a slip."""
    if not 0 <= label < count:
        other = f", or {NULL!r} for the null class" if label == null else ""
        raise InputError(f"class {label} is out of range; use 0 to {count - 1}{other}")
    return label


def _folded(name: str) -> str:
    """A name without letter case, in the one Unicode form (NFC) that is compared."""
    return unicodedata.normalize("NFC", name).casefold()
