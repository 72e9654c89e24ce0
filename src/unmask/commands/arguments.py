"""Words of the command line as a dataclass; a mistake in them is one line, like any other."""

from __future__ import annotations

import dataclasses
import io
import re
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    PrimitiveTypeInfo,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from unmask.errors import InputError
from unmask.files.folders import as_place
from unmask.image_size import ImageSize, Sides, size_words
from unmask.ranges import declared

A = TypeVar("A")

FRAME = re.compile(r"[\u2500-\u257f]+|-{4,}")  # tyro's box, or what stands for it in ASCII
REPEATED = re.compile(r"Argument helptext: .*?(?=For full helptext|$)")  # what --help says better

RULES = ConstructorRegistry()  # how options are read and described beyond what tyro does itself
_reading: set[type] = set()


class _RefusedError(Exception):
    """A dataclass's own complaint on its way past tyro, which would wrap it in its words."""


@RULES.struct_rule
def _with_ranges(info: StructTypeInfo) -> StructConstructorSpec | None:
    """What tyro reads from a dataclass, with each field's range behind its help."""
    if not is_dataclass(info.type) or info.type in _reading:
        return None
    _reading.add(info.type)
    try:
        spec = ConstructorRegistry.get_struct_spec(info)
    finally:
        _reading.discard(info.type)
    if not isinstance(spec, StructConstructorSpec):
        return None
    make = spec.instantiate

    def instantiate(**values: Any) -> Any:
        """The dataclass; its complaint passes the parser as it is."""
        try:
            return make(**values)
        except InputError as error:
            raise _RefusedError(error) from None

    instantiate.__doc__ = make.__doc__  # what --help says of the whole
    fields = tuple(map(_described, spec.fields))
    return dataclasses.replace(spec, instantiate=instantiate, fields=fields)


def _described(field: StructFieldSpec) -> StructFieldSpec:
    """The field with help whose lines break where the terminal's do, and that ends with a range."""
    words, told = declared(field.type).words, field.helptext

    def helptext() -> str | None:
        """The field's own words, then its range."""
        text = told() if callable(told) else told
        told_on = " ".join((text or "").replace("``", "").split())
        return f"{told_on} Range: {words}." if words else told_on or None

    return dataclasses.replace(field, helptext=helptext)


@RULES.primitive_rule
def _path(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Path] | None:
    """A path that is given must be one; an empty word would be the current folder."""
    if info.type is not Path:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=_path_of,
        is_instance=lambda value: isinstance(value, Path),
        str_from_instance=lambda path: [str(path)],
    )


def _path_of(words: list[str]) -> Path:
    return as_place(words[0])


@RULES.primitive_rule
def _size(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[ImageSize] | None:
    """An image's size: one number, or height and width."""
    if info.type != Sides:
        return None
    return PrimitiveConstructorSpec(
        nargs=(1, 2),
        metavar="PIXELS|HEIGHT WIDTH",
        instance_from_str=_size_of,
        is_instance=lambda value: isinstance(value, (int, tuple)),
        str_from_instance=lambda size: size_words(size).split(),
    )


def _size_of(words: list[str]) -> ImageSize:
    with suppress(ValueError):
        numbers = list(map(int, words))
        if len(numbers) in (1, 2):
            return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    given = " ".join(words)
    raise ValueError(f"{given!r} is neither one whole number nor two, height and width")


def _sizes_last(words: Sequence[str]) -> list[str]:
    """The words, with sizes of images at the end: there no other word is taken for a width."""
    kept, sizes, rest = list[str](), list[str](), list(words)
    while rest:
        group = [rest.pop(0)]
        if group[0] in ("--image-size", "--image_size"):
            while rest and len(group) < 3 and rest[0].isdigit():
                group.append(rest.pop(0))
        (sizes if len(group) > 1 else kept).extend(group)
    return kept + sizes


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
            tyro.cli(wanted, args=_sizes_last(words), prog=prog)
            if default is None
            else tyro.cli(wanted, args=_sizes_last(words), prog=prog, default=default)
        )
    )


def explained(call: Callable[[], A]) -> A:
    """The result of a call of tyro, its complaint as one line.

    Raises:
        InputError: with the complaint.
    """
    said = io.StringIO()
    try:
        with redirect_stderr(said), RULES:
            return call()
    except _RefusedError as refused:
        raise refused.args[0] from None
    except SystemExit as stop:
        if not stop.code:
            raise
    raise InputError(_one_line(said.getvalue()))


def _one_line(box: str) -> str:
    lines = [FRAME.sub(" ", line).strip() for line in box.splitlines()]
    _, *told = [line for line in lines if line]  # the first is the title of the box
    return REPEATED.sub("", " ".join(" ".join(told).split()))
