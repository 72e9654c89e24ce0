"""Words of the command line as a dataclass; a mistake in them is one line, like any other."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from typing import TypeVar

import tyro

from unmask.errors import InputError

A = TypeVar("A")

FRAME = re.compile(r"[\u2500-\u257f]+")  # the box that tyro draws around its message
REPEATED = re.compile(r"Argument helptext: .*?(?=For full helptext|$)")  # what --help says better


def parse(wanted: type[A], words: Sequence[str], *, prog: str, default: A | None = None) -> A:
    """The arguments that ``words`` give.

    Args:
        wanted: a dataclass, or a parametrised form of one.
        words: after the command.
        prog: the command, for help and errors.
        default: values of what is not given; None means the class's own.

    Raises:
        InputError: for words that do not fit; a value that the dataclass itself refuses among them.
        SystemExit: with status 0, after printing help.
    """
    return explained(
        lambda: (
            tyro.cli(wanted, args=list(words), prog=prog)
            if default is None
            else tyro.cli(wanted, args=list(words), prog=prog, default=default)
        )
    )


def explained(call: Callable[[], A]) -> A:
    """The result of a call of tyro, its complaint as one line.

    Raises:
        InputError: with the complaint.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return call()
    except SystemExit as stop:
        if not stop.code:
            raise
    raise InputError(_one_line(said.getvalue()))


def _one_line(box: str) -> str:
    lines = [FRAME.sub(" ", line).strip() for line in box.splitlines()]
    _, *told = [line for line in lines if line]  # the first is the title of the box
    return REPEATED.sub("", " ".join(" ".join(told).split()))
