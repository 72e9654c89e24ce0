"""Text of files and users as text: it cannot steer a terminal or forge a line of ours."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable

from rich.text import Text

UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})  # categories of Unicode


def plain(text: object) -> str:
    """One line of what is printable; everything else as its escape, ``\\x1b`` or ``\\n``.

    File names may hold control characters, line ends, marks that turn the writing direction, and
    bytes that are no text at all: on a terminal these hide, move or forge what is said.
    """
    return "".join(c if _harmless(c) else _escaped(c) for c in str(text))


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few names in alphabetical order, with a sign of more."""
    known = sorted(names)
    return ", ".join(known[:most]) + ", …" * (len(known) > most)


def _harmless(character: str) -> bool:
    return character == "\t" or unicodedata.category(character) not in UNPRINTABLE


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def say(*lines: object, error: bool = False) -> None:
    """Print lines, each whole: no markup, no colours, no breaks of our own.

    Args:
        lines: one object a line; what a terminal would obey stands there as an escape.
        error: to standard error, where words go that are no result.
    """
    stream = sys.stderr if error else sys.stdout
    for line in lines:
        print(_encodable(plain(line), stream.encoding), file=stream, flush=True)


def _encodable(text: str, encoding: str | None) -> str:
    """What a stream of this encoding can hold; other characters as escapes."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def cell(text: object) -> Text:
    """A line of plain text for rich's tables, which then reads no markup in it."""
    return Text(plain(text))
