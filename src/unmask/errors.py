"""The one exception that means "what was asked for cannot be done"."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")
MOST_NAMES = 24  # that an error lists

# How torch says on CPUs and accelerators that memory is used up, beside Python's MemoryError.
FULL = re.compile("can't allocate memory|out of memory|Storage size calculation overflowed")


class InputError(ValueError):
    """A mistake in what the caller gave; the message is one line for a person to act on.

    It names the value, the limit and the way out. The command line prints it without a traceback
    and exits with status 2; everything else that escapes is a bug.
    """


class SaidError(InputError):
    """An error that the main process of a launcher says; the others only end with its status."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory is used up, on whatever device."""
    return isinstance(error, MemoryError) or bool(FULL.search(str(error)))


def pick(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of that name.

    Args:
        table: by name.
        name: as a person gave it.
        what: the kind of thing that the table lists, such as "order".

    Raises:
        InputError: the table has no such name.
    """
    if name not in table:
        raise unknown(what, name, table)
    return table[name]


def unknown(what: str, name: str, known: Iterable[str]) -> InputError:
    """The error about a name that is not among the known ones."""
    return InputError(f"unknown {what} {name!r}; {did_you_mean(name, known)}")


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A closing clause for an error about an unknown name: the likely one, else all of them."""
    known = sorted(known, key=_as_counted)
    folded = {name.casefold(): name for name in known}
    close = difflib.get_close_matches(given.casefold(), folded, n=1, cutoff=0.5)
    if close:
        return f"did you mean {folded[close[0]]!r}?"
    more = f" and {len(known) - MOST_NAMES} more" if len(known) > MOST_NAMES else ""
    return f"known: {', '.join(known[:MOST_NAMES])}{more}"


def _as_counted(name: str) -> tuple[int, int, str]:
    """Numbers before words and by their size: 2 comes before 10."""
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
