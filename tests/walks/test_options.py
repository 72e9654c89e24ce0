"""Hostile values for every option: the command begins its work, or ends in one line."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from forked import CRASHED, FAILED, REFUSED, SLOW, STARTED, Answer, answers, judged
from options import VALUES, Trial, options_of, trials, walk, warm
from place import commands, write_place

from unmask.cli import COMMANDS

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="children are limited as Linux limits them"
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("place")
    write_place(root)
    return root


def bad(found: Iterable[tuple[Trial, Answer]]) -> list[str]:
    """What was answered otherwise than it should be, a line each."""
    return [
        f"{' '.join(trial.words)!r} ended with {answer.status} in {answer.seconds:.0f} s: "
        f"{answer.told[-300:]!r}"
        for trial, answer in found
        if answer.kind in (FAILED, SLOW)
    ]


def test_no_command_and_no_option_is_left_out(root: Path) -> None:
    walked = {command.words[0] for command in commands(root)}
    assert walked == set(COMMANDS)
    tried: dict[tuple[str, str], set[str]] = {}
    for trial in trials(root):
        tried.setdefault((trial.command, trial.option), set()).add(trial.value)
    for command in commands(root):
        for option in options_of(command):
            wanted = set(VALUES) if option.count else {next(iter(VALUES))}
            assert tried[command.name, option.name] == wanted
    assert {len(options) for options in tried.values()} == {1, len(VALUES)}
    shared = [trial.words for trial in trials(root) if trial.option == "--training.lr"]
    trained = {word for words in shared for word in words if word.endswith(".yaml")}
    assert len(trained) == 7  # families of generators and kinds of tokenizers


def test_a_few_values_of_every_command(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of the walk, of values that are refused before slow imports."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    numbers = [
        trial
        for trial in trials(root)
        if trial.value in ("nan", "2**63", "empty") and trial.option.startswith("--")
    ]
    found = list(walk(numbers[:: len(numbers) // 16], root))
    assert bad(found) == []
    assert len({trial.command for trial, _ in found}) > 4
    assert Counter(answer.kind for _, answer in found)[REFUSED] > 10


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_value_for_every_option(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """About seven minutes on two cores; benchmarks/hostile_options.py writes its figures down."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    warm(root)
    began = time.monotonic()
    found = list(walk(list(trials(root)), root))
    kinds = Counter(answer.kind for _, answer in found)
    print(f"{len(found)} trials in {time.monotonic() - began:.0f} s: {dict(kinds)}")
    assert bad(found) == []
    assert kinds[STARTED] > 300
    assert kinds[REFUSED] > 2500


def ended(call: Callable[[], int]) -> Answer:
    ((_, answer),) = answers([("one", call)], workers=1)
    return answer


def one_line(line: str, status: int = 2) -> Answer:
    def call() -> int:
        os.write(2, line.encode())
        return status

    return ended(call)


def test_what_counts_as_one_line() -> None:
    assert one_line("unmask: error: lr=nan must be finite\n").kind == REFUSED
    assert one_line("unmask: error: lr=nan must be finite\n", status=1).kind == FAILED
    assert one_line("unmask: error: one\ntwo\n").kind == FAILED
    assert one_line("unmask: error: \x1b[2J\n").kind == FAILED
    assert one_line("warning\nunmask: error: lr\n").kind == FAILED
    assert one_line("", status=0).kind == STARTED


def test_a_child_is_held_to_its_limits() -> None:
    memory = ended(lambda: torch.empty(3 << 30, dtype=torch.uint8).fill_(1).numel() * 0)
    assert (memory.kind, memory.status) == (FAILED, CRASHED)
    assert "can't allocate memory" in memory.told
    assert ended(lambda: torch.empty(1 << 30, dtype=torch.uint8).numel() * 0).kind == STARTED
    assert judged(-14, "", "", 60.0).kind == SLOW
    raised = ended(lambda: [][1])
    assert (raised.kind, "IndexError" in raised.told) == (FAILED, True)
