"""Hostile values for every option of every command.

The options are those that each command's ``--help`` lists, so that none can be forgotten. The
commands run on toys of every family (``place.py``) in children of this process (``forked.py``).
"""

from __future__ import annotations

import functools
import importlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import torch
from forked import Answer, answers
from place import Command, commands

from unmask.cli import main

# What some commands import late, seconds that thousands of children would each pay for.
SLOW_IMPORTS = (
    "torch._dynamo",
    "torch.distributed.tensor",
    "torch.utils.tensorboard",
    "accelerate",
    "efficientnet_lite_pytorch",
    "PIL.PngImagePlugin",
)

VALUES = {
    "-1": "-1",
    "0": "0",
    "nan": "nan",
    "inf": "inf",
    "1e308": "1e308",
    "2**63": str(2**63),
    "empty": "",
    "brackets": "[/x]",
    "escape codes": "\x1b[2J",
    "a blank": " ",
    "@": "@",
    "300 letters": "a" * 300,
    "wrong type": "b:c,d=e",
}


class Option(NamedTuple):
    """One option, or positional word, of a command."""

    name: str
    """As it is given, such as --training.lr; "word 1" is the first behind the command."""
    count: int
    """How many words follow; 0 for a switch."""


class Trial(NamedTuple):
    """One command with one hostile value."""

    command: str
    """The command's name in the report."""
    option: str
    """Which option is tried."""
    value: str
    """The value's name in the report."""
    words: tuple[str, ...]
    """The command line after "unmask"."""


ROW = re.compile(r"^\W*(--[a-z][\w.-]*)(, --\S+)?( \S.*?)?(?:  .*)?$")  # of --help, that begins one


@functools.cache
def options_of(command: Command) -> list[Option]:
    """Every word and option that the command takes, as its ``--help`` lists them."""
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        main([*command.words, "--help"])
    named = [f"word {k + 1}" for k in range(len(command.words) - len(command.name.split()))]
    found = [Option(name, 1) for name in named]
    for line in told.getvalue().splitlines():
        row = ROW.match(line.strip("\u2502 "))
        if row is not None:
            name, opposite, wanted = row.groups()
            found.append(Option(name, 0 if opposite else _count(wanted or "")))
    return found


def _count(wanted: str) -> int:
    """How many words an option wants, by what stands behind its name."""
    sizes = re.findall(r"(?:INT|FLOAT|STR)(?: (?:INT|FLOAT|STR))*", wanted)
    return max((len(size.split()) for size in sizes), default=1) if "[" not in wanted else 1


def with_value(command: Command, option: Option, value: str) -> tuple[str, ...]:
    """The command's words with one option set to a value, instead of what it has."""
    words, options = list(command.words), list(command.options)
    if not option.name.startswith("-"):
        words[len(command.name.split()) - 1 + int(option.name.split()[1])] = value
        return (*words, *options)
    if option.name in options:
        del options[(at := options.index(option.name)) : at + 2]
    return (*words, *options, option.name, *[value] * option.count)


def trials(root: Path) -> Iterator[Trial]:
    """Every value for every option.

    Commands of one name (training, with a recipe a family) take turns at the options that they
    share: each option meets every value, and each family every option that it has.
    """
    owners: dict[tuple[str, Option], list[Command]] = {}
    for command in commands(root):
        for option in options_of(command):
            owners.setdefault((command.name, option), []).append(command)
    for number, ((name, option), sharing) in enumerate(owners.items()):
        for place, (label, value) in enumerate(VALUES.items()):
            command = sharing[(number + place) % len(sharing)]
            yield Trial(name, option.name, label, with_value(command, option, value))
            if not option.count:
                break  # a switch has no value


def call(trial: Trial, root: Path) -> Callable[[], int]:
    """What a child does: the command, and nothing else."""

    def run() -> int:
        sys.path.append(str(root))  # where eval finds its own features
        with patch("unmask.demo.open_source", _begin):
            return main(list(trial.words))

    return run


def _begin(*_: object) -> None:
    """The demo takes minutes; that it would begin is what counts."""
    raise SystemExit(0)


def warm(root: Path) -> None:
    """Import what commands import, so that children need not."""
    for module in SLOW_IMPORTS:
        importlib.import_module(module)
    torch.set_num_threads(1)
    os.environ["HF_HUB_OFFLINE"] = "1"  # a name that leads nowhere is not asked for abroad
    for command in commands(root):
        options_of(command)


def walk(
    chosen: Sequence[Trial], root: Path, *, workers: int | None = None
) -> Iterator[tuple[Trial, Answer]]:
    """The answer to each trial, so many children at a time; None means one a core."""
    calls = ((trial, call(trial, root)) for trial in chosen)
    for trial, answer in answers(calls, workers=workers or len(os.sched_getaffinity(0))):
        assert isinstance(trial, Trial)
        yield trial, answer
