"""What a field may hold: declared in its annotation, checked when its dataclass is made.

``lr: Annotated[float, Between(above=0, at_most=100)]`` declares. :class:`Ranged` checks, whoever
makes the dataclass: Python, a YAML file, the command line, whose ``--help`` prints the same words.
The upper limits of whole numbers are far beyond any use and below what no machine can hold or
finish; what a machine at hand can hold is asked elsewhere, once sizes are known.
"""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Sized
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from unmask.errors import InputError

SHOWN = 60  # letters of a value that an error repeats
POWER = 10**5  # whole limits from here on are written as powers where they are some


@dataclass(frozen=True)
class Between:
    """Limits of a number, or of each number of a tuple, which must be finite in any case.

    Args:
        at_least: Smallest value allowed; None for no lower limit.
        at_most: Largest value allowed; None for no upper limit.
        above: Lower limit that is not allowed itself; None for none.
        below: Upper limit that is not allowed itself; None for none.
    """

    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None

    def too_low(self, value: float) -> bool:
        """Whether a number is below the range."""
        return (self.at_least is not None and value < self.at_least) or (
            self.above is not None and value <= self.above
        )

    def too_high(self, value: float) -> bool:
        """Whether a number is above the range."""
        return (self.at_most is not None and value > self.at_most) or (
            self.below is not None and value >= self.below
        )

    @property
    def lower(self) -> str:
        """The lower limit in words, empty if there is none."""
        if self.above is not None:
            return f"above {_limit(self.above)}"
        return "" if self.at_least is None else f"at least {_limit(self.at_least)}"

    @property
    def upper(self) -> str:
        """The upper limit in words, empty if there is none."""
        if self.below is not None:
            return f"below {_limit(self.below)}"
        return "" if self.at_most is None else f"at most {_limit(self.at_most)}"

    def __str__(self) -> str:
        """The range as ``--help`` prints it: an interval, or its one limit."""
        if not all((self.lower, self.upper)):
            return self.lower or self.upper or "finite"
        start, end = self.lower.split()[-1], self.upper.split()[-1]
        opening, closing = "[" if self.above is None else "(", "]" if self.below is None else ")"
        return f"{opening}{start}, {end}{closing}"

    def demand(self, value: float) -> str | None:
        """What a number outside would have to do, after "must"; None for one within.

        Those of a narrow range are told the interval; others, whole numbers above all, the limit
        that they crossed, because the other one is seldom of interest.
        """
        finite, low, high = _is_finite(value), self.too_low(value), self.too_high(value)
        if finite and not low and not high:
            return None
        if self.lower and self.upper:
            crossed = self.lower if low else self.upper
            return f"be {crossed}" if (low or high) and self._wide(value) else f"lie in {self}"
        return f"be {self}" if finite or str(self) == "finite" else f"be finite and {self}"

    def _wide(self, value: float) -> bool:
        """Whether one limit alone is told of a range with two."""
        return isinstance(value, Integral) or max(self.at_most or 0, self.below or 0) >= POWER


@dataclass(frozen=True)
class Length:
    """Limits of how many letters a text has, or how many entries a tuple.

    Args:
        at_least: Fewest letters or entries.
        at_most: Most letters or entries.
    """

    at_least: int
    at_most: int

    def __str__(self) -> str:
        """The range in words, without what is counted."""
        few, many = self.at_least, self.at_most
        return str(few) if few == many else f"{few} to {many}"


@dataclass(frozen=True)
class Form:
    """One form that a field keeps of values that are equal.

    Args:
        of: Makes the form of a value within its range.
    """

    of: Callable[[Any], Any]


@dataclass(frozen=True)
class Declared:
    """What an annotation says about values, gathered from unions, tuples and marks.

    Args:
        kinds: Types among int, float and str that are allowed.
        choices: Members of a Literal that are allowed.
        none: True where None is allowed.
        free: True where things are allowed that are not judged here: paths, flags, dataclasses.
        between: Limits of a number.
        length: Limits of a text, or of a tuple if there is one.
        form: Form that the field keeps; None keeps what is given.
        each: Declaration of a tuple's entries; None where no tuple is allowed.
    """

    kinds: frozenset[type] = frozenset()
    choices: tuple[Any, ...] = ()
    none: bool = False
    free: bool = False
    between: Between | None = None
    length: Length | None = None
    form: Form | None = None
    each: Declared | None = None

    @property
    def words(self) -> str:
        """The range of numbers as ``--help`` prints it, empty if there is none.

        The lengths of texts and tuples are left out: they only keep out what nobody means.
        """
        return str((self if self.each is None else self.each).between or "")

    @property
    def complete(self) -> bool:
        """Whether every number and every text that it allows has a range."""
        numbers = self.kinds & {int, float}
        texts = str in self.kinds
        return (
            (self.between is not None or not numbers)
            and (self.length is not None or not (texts or (self.each and self.each.kinds)))
            and (self.each is None or self.each.complete)
        )

    def marked(self, mark: Between | Length | Form) -> Declared:
        """This declaration with a range, which also holds for each number of a tuple."""
        if isinstance(mark, Length):
            return replace(self, length=mark)
        if isinstance(mark, Form):
            return replace(self, form=mark)
        each = self.each.marked(mark) if self.each else None
        return replace(self, between=mark, each=each)

    def union(self, other: Declared) -> Declared:
        """What either allows."""
        return Declared(
            kinds=self.kinds | other.kinds,
            choices=self.choices + other.choices,
            none=self.none or other.none,
            free=self.free or other.free,
            between=self.between or other.between,
            length=self.length or other.length,
            form=self.form or other.form,
            each=self.each or other.each,
        )

    def demand(self, value: object) -> str | None:
        """What a value outside would have to do, after "must"; None for one within."""
        if (value is None and self.none) or self._chosen(value):
            return None
        if isinstance(value, (tuple, list)) and self.each is not None:
            demands = (self.each.demand(item) for item in value)
            return self._demand_length(value, "entries") or next(
                (f"each {demand}" for demand in demands if demand), None
            )
        if isinstance(value, str) and str in self.kinds:
            return self._demand_length(value, "letters")
        if _is_number(value, self.kinds):
            return self.between.demand(value) if self.between else None  # type: ignore[arg-type]
        return None if self.free else self._demand_kind()

    def _chosen(self, value: object) -> bool:
        return any(value == choice and type(value) is type(choice) for choice in self.choices)

    def _demand_length(self, value: Sized, counted: str) -> str | None:
        if self.length and not self.length.at_least <= len(value) <= self.length.at_most:
            return f"have {self.length} {counted}"
        return None

    def _demand_kind(self) -> str:
        if self.choices:
            return f"be one of {', '.join(map(str, self.choices))}"
        names = {int: "a whole number", float: "a number", str: "text"}
        allowed = [name for kind, name in names.items() if kind in self.kinds]
        return f"be {' or '.join([*allowed, *(['a tuple'] if self.each else [])])}"


def _limit(value: float) -> str:
    """A limit as text, long powers as powers."""
    value = int(value) if value == int(value) else value
    if abs(value) >= POWER:
        for base in (10, 2):
            exponent = round(math.log(abs(value), base))
            if base**exponent == abs(value):
                return f"{'-' if value < 0 else ''}{base}**{exponent}"
    return str(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _is_number(value: object, kinds: frozenset[type]) -> bool:
    wanted = Real if float in kinds else Integral if int in kinds else ()
    return isinstance(value, wanted) and not isinstance(value, bool)


def declared(annotation: Any) -> Declared:
    """What an annotation says about values."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        said = declared(inner[0])
        for mark in inner[1:]:
            said = said.marked(mark) if isinstance(mark, Between | Length | Form) else said
        return said
    if origin in (Union, types.UnionType):
        return functools.reduce(Declared.union, map(declared, inner))
    if origin is tuple:
        each = functools.reduce(Declared.union, (declared(a) for a in inner if a is not ...))
        return Declared(each=each, length=None if ... in inner else Length(len(inner), len(inner)))
    if origin is Literal:
        return Declared(choices=inner)
    if annotation is types.NoneType:
        return Declared(none=True)
    if annotation in (int, float, str):
        return Declared(frozenset({annotation}))
    return Declared(free=True)


@functools.cache
def ranges(cls: type) -> dict[str, Declared]:
    """What each field of a dataclass declares, by name."""
    hints = get_type_hints(cls, include_extras=True)
    return {field.name: declared(hints[field.name]) for field in fields(cls)}


def shown(value: object) -> str:
    """A value as an error repeats it: as Python writes it, cut where it is long."""
    if isinstance(value, int) and value.bit_length() > 200:
        return f"{'-' if value < 0 else ''}2**{value.bit_length() - 1}..."
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def check_ranges(options: object, prefix: str = "") -> None:
    """Refuse a dataclass that holds a value outside its field's declared range.

    Numbers of other libraries, such as NumPy's, become Python's, which every file can hold.

    Args:
        options: the dataclass.
        prefix: stands before the field's name, as "training.".

    Raises:
        InputError: naming the field, the value and the range.
    """
    made: Any = type(options)
    for name, said in ranges(made).items():
        value = getattr(options, name)
        demand = said.demand(value)
        if demand is not None:
            raise InputError(f"{prefix}{name}={shown(value)} must {demand}")
        if isinstance(value, Real) and type(value) not in (int, float, bool):
            value = int(value) if isinstance(value, Integral) else float(value)
        if said.form and value is not None:
            value = said.form.of(value)
        if value is not getattr(options, name):
            object.__setattr__(options, name, value)


class Ranged:
    """A dataclass that checks its declared ranges when it is made.

    ``class Training(Ranged, path="training")`` names the place that errors and ``--help`` give its
    fields. A ``__post_init__`` of a subclass begins with ``super().__post_init__()``.
    """

    _path: ClassVar[str] = ""

    def __init_subclass__(cls, path: str | None = None) -> None:
        """Remember where the options are."""
        super().__init_subclass__()
        if path is not None:
            cls._path = f"{path}."

    def __post_init__(self) -> None:
        """Reject values outside their ranges."""
        check_ranges(self, self._path)


Seed = Annotated[int, Between(-(2**62), 2**62)]
"""Seed of random numbers; the seeds that follow it still fit 64 bits."""
Workers = Annotated[int, Between(0, 512)]
"""Processes that prepare batches; 0 prepares them in the process that trains."""
Name = Annotated[str, Length(1, 255)]
"""Name of something that is chosen by name."""
Place = Annotated[str, Length(1, 4096)]
"""A path, a shipped or published name, or an id of the hub."""
