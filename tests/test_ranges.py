"""Declared ranges: what is refused, in which words, and that ``--help`` prints them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import tyro

from unmask.commands.arguments import parse
from unmask.errors import InputError
from unmask.files.serial import from_dict, to_dict
from unmask.ranges import Between, Length, Ranged, Seed, declared, ranges, shown
from unmask.recipes.training import Ema, Training


@dataclass(frozen=True, kw_only=True)
class Part(Ranged, path="part"):
    """Options of every kind."""

    rate: Annotated[float, Between(above=0, at_most=1)] = 0.5
    """How fast."""
    norm: Annotated[float | None, Between(above=0)] = None
    """How long."""
    count: Annotated[int, Between(1, 10**6)] = 3
    """How many."""
    seed: Seed = 0
    """Which."""
    betas: Annotated[tuple[float, float], Between(0, below=1)] = (0.9, 0.99)
    """How slow."""
    levels: Annotated[tuple[int, ...], Between(0, 9), Length(1, 4)] = (1,)
    """Where."""
    mode: Literal["fast", "slow"] = "fast"
    """Which way."""
    name: Annotated[str, Length(1, 5)] = "x"
    """What it is called."""
    flag: bool = False
    """Whether."""


@dataclass(frozen=True, kw_only=True)
class Words(Ranged):
    """A command."""

    part: Part = field(default_factory=Part)
    """Its part."""
    out: Path
    """Where to."""


REFUSED: list[tuple[str, Any, str]] = [
    ("rate", 0, "part.rate=0 must be above 0"),
    ("rate", 1.5, "part.rate=1.5 must lie in (0, 1]"),
    ("rate", math.nan, "part.rate=nan must lie in (0, 1]"),
    ("rate", "fast", "part.rate='fast' must be a number"),
    ("rate", None, "part.rate=None must be a number"),
    ("norm", 0.0, "part.norm=0.0 must be above 0"),
    ("norm", math.inf, "part.norm=inf must be finite and above 0"),
    ("norm", 10**400, "part.norm=2**1328... must be finite and above 0"),
    ("count", 0, "part.count=0 must be at least 1"),
    ("count", 2**63, "part.count=9223372036854775808 must be at most 10**6"),
    ("count", 10**1000, "part.count=2**3321... must be at most 10**6"),
    ("count", 1.0, "part.count=1.0 must be a whole number"),
    ("count", True, "part.count=True must be a whole number"),
    ("count", math.nan, "part.count=nan must be a whole number"),
    ("seed", 2**63, "part.seed=9223372036854775808 must be at most 2**62"),
    ("betas", (0.9, 1.0), "part.betas=(0.9, 1.0) must each lie in [0, 1)"),
    ("betas", (0.9,), "part.betas=(0.9,) must have 2 entries"),
    ("betas", 0.9, "part.betas=0.9 must be a tuple"),
    ("levels", (), "part.levels=() must have 1 to 4 entries"),
    ("levels", (3, 10), "part.levels=(3, 10) must each be at most 9"),
    ("mode", "quick", "part.mode='quick' must be one of fast, slow"),
    ("name", "", "part.name='' must have 1 to 5 letters"),
    ("name", "a" * 300, f"part.name='{'a' * 59}... must have 1 to 5 letters"),
    ("name", 3, "part.name=3 must be text"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_a_value_outside_is_one_line(name: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as error:
        Part(**{name: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"rate": 1},
        {"rate": np.float32(0.5)},
        {"norm": 1e308},
        {"count": np.int64(7)},
        {"betas": (0, 0.0)},
        {"levels": (0, 9, 9, 9)},
        {"mode": "slow"},
        {"name": "\x1b[2J"},
        {"seed": -(2**62)},
    ],
)
def test_values_within_are_kept(given: dict[str, Any]) -> None:
    made = Part(**given)
    assert {name: getattr(made, name) for name in given} == given
    assert all(type(getattr(made, name)).__module__ == "builtins" for name in given)


def test_a_changed_copy_is_checked_too() -> None:
    with pytest.raises(InputError, match=r"part\.count=-1 must be at least 1"):
        replace(Part(), count=-1)


def test_a_file_is_checked_and_comes_back_equal() -> None:
    part = Part(rate=0.25, norm=2.0, betas=(0.1, 0.2), levels=(1, 2))
    words = Words(part=part, out=Path("x"))
    assert from_dict(Words, to_dict(words) | {"out": "x"}, "here") == words
    with pytest.raises(InputError, match=r"^here: part\.rate=3\.0 must lie in \(0, 1\]$"):
        from_dict(Part, {"rate": 3}, "here")


def test_a_value_without_a_range_is_not_complete() -> None:
    assert declared(Annotated[int | None, Between(0, 1)]).complete
    assert declared(Annotated[tuple[int, ...], Between(0, 1), Length(0, 3)]).complete
    assert declared(tuple[Seed, Seed] | None).complete
    assert declared(Literal["a", "b"] | bool | Path | None).complete
    for bare in (int, float | None, str, tuple[int, int], Annotated[tuple[int, ...], Between(0)]):
        assert not declared(bare).complete


def test_every_limit_is_a_number_that_is_within_or_next_to_it() -> None:
    """Each limit refuses one side of itself and allows the other."""
    for said in ranges(Training).values():
        if said.between is None:
            continue
        if (low := said.between.at_least) is not None:
            assert said.between.demand(low) is None
            assert said.between.demand(low - 1)
        if (high := said.between.at_most) is not None:
            assert said.between.demand(high) is None
            assert said.between.demand(high + 1)
        for open_end in (said.between.above, said.between.below):
            assert open_end is None or said.between.demand(open_end)


def test_help_prints_the_range_of_every_field(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parse(Words, ["--help"], prog="x")
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name, said in ranges(Part).items():
        if said.words:
            assert f"Range: {said.words}. (default: " in told, name
    assert "How slow. Range: [0, 1). (default: 0.9 0.99)" in told
    assert "Where. Range: [0, 9]. (default: 1)" in told


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_not_the_current_folder(path: str) -> None:
    with pytest.raises(InputError, match="--out: a path must not be empty"):
        parse(Words, ["--out", path], prog="x")


@pytest.mark.parametrize("value", ["nan", "-1", "inf", "0", "1e308"])
def test_the_command_line_is_checked(value: str) -> None:
    with pytest.raises(InputError, match=r"part\.rate=\S+ must ") as error:
        parse(Words, ["--out", "x", "--part.rate", value], prog="x")
    assert "\n" not in str(error.value)


def test_a_parser_in_a_parser_is_still_tyro_s(capsys: pytest.CaptureFixture) -> None:
    """The rules hold only while one of our commands reads its words."""
    with pytest.raises(SystemExit):
        tyro.cli(Words, args=["--help"])
    assert "Range:" not in capsys.readouterr().out


def test_long_values_are_cut() -> None:
    assert shown("a" * 10**6) == f"'{'a' * 59}..."
    assert shown(-(10**5000)) == "-2**16609..."
    assert "\x1b" not in shown("\x1b[2J")


@pytest.mark.parametrize(
    "given",
    [{"lr": math.nan}, {"lr": -1.0}, {"betas": (1.0, 1.0)}, {"clip_grad_norm": 0.0}, {"eps": -1.0}],
)
def test_a_training_that_cannot_learn_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"training.{next(iter(given))}="):
        Training(steps=1, **given)
    with pytest.raises(InputError, match=r"training\.ema\.decay=1.5 must lie in \[0, 1\)"):
        Ema(decay=1.5)
