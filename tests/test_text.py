"""What files and users are called is printed as text: whole, on one line, and obeyed by nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from toy_system import toy_pipeline

from unmask.cli import main
from unmask.text import cell, plain, say

HOSTILE = [
    "\x1b[2J",
    "a\nunmask: error: b",
    "\x9b31m",
    "\u202egnp.exe",
    "\r",
    "\udcff",
    "\x00",
    "\u2028",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_steers_a_terminal_is_left(text: str) -> None:
    told = plain(text)
    assert told.isprintable()
    assert told.encode("utf8")
    assert told != text


@pytest.mark.parametrize("text", ["run [/x]", "[bold]", "dög", "猫/犬 (1).png", "100 %s {}"])
def test_other_text_stays_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(text)
    assert capsys.readouterr().out == f"{text}\n"
    assert cell(text).plain == text


@pytest.mark.parametrize("name", ["s [/x]", "s [bold]", "s [link=a]b", "s%20 {x}"])
def test_a_command_names_the_folder_as_it_was_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    toy_pipeline().save_pretrained(tmp_path / "model")
    assert main(["sample", "model", "--per-class", "1", "--out", name]) == 0
    assert f"images in {name}/" in capsys.readouterr().out
    assert (tmp_path / name / "samples.png").exists()


def test_an_error_cannot_forge_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sample", "no\nunmask: all is well\x1b[2J"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("unmask: error: ")
    assert "\x1b" not in said


@pytest.mark.parametrize("words", [["sample", "--help"], ["--help"], ["recipes"]])
def test_a_reader_that_goes_away_is_no_error(words: str) -> None:
    """As `unmask sample --help | head -1` does, with a pipe that is closed at once."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "unmask.cli", *words], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    assert done.stderr == b""
    assert done.returncode in (1, 141)  # 1 where rich notices first


def test_a_stream_of_another_encoding_gets_what_it_can_hold() -> None:
    code = "from unmask.text import say; say('dög 猫')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True)
    assert done.stdout == b"d\\xf6g \\u732b\n"
