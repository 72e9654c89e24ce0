"""Where a command will write is looked at before its work; nothing is changed there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from forks import as_nobody, as_root, let_others_in

from unmask.cli import main

# Neither model nor data exist, so a complaint about the place shows that it comes first.
COMMANDS = {
    "sample": ("sample absent --out", "folder"),
    "sample npz": ("sample absent --format npz --film --out", "folder"),
    "sample png": ("sample absent --format png --out", "folder"),
    "eval": ("eval absent --data absent --out", "report.json"),
    "tokenizer eval": ("tokenizer eval absent --data absent --out", "folder"),
    "features": ("features absent --data absent --out", "features.npy"),
    "images": ("images absent --out", "folder"),
    "images npz": ("images absent --out", "images.npz"),
    "demo": ("demo --out", "folder"),
}


def refused(words: str, place: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that ends with status 2."""
    assert main([*words.split(), str(place)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("unmask: error: ")
    assert line.count("\n") == 1
    return line


def everything(place: Path) -> dict[Path, bytes | None]:
    """All files below a folder with their content."""
    return {p: p.read_bytes() if p.is_file() else None for p in place.rglob("*")}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words, name = COMMANDS[command]
    (tmp_path / "file").write_text("mine")
    before = everything(tmp_path)
    for place in (tmp_path / "file" / name, tmp_path / "file" / "deeper" / name):
        line = refused(words, place, capsys)
        assert f"cannot write {place}" in line or f"cannot write {place.parent}" in line
    assert "shorten it" in refused(words, tmp_path / ("n" * 300) / name, capsys)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_for_a_folder_and_a_folder_for_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words, name = COMMANDS[command]
    if name == "folder":
        (tmp_path / name).write_text("mine")
        assert f"{tmp_path / name} is a file" in refused(words, tmp_path / name, capsys)
    else:
        (tmp_path / name).mkdir()
        assert f"{tmp_path / name} is a folder" in refused(words, tmp_path / name, capsys)


@pytest.mark.parametrize("name", ["samples.png", "film.gif"])
def test_a_folder_under_the_name_of_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / name).mkdir()
    line = refused("sample absent --film --out", tmp_path, capsys)
    assert f"{tmp_path / name} is a folder" in line


@as_root
@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_without_the_right_to_write(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    words, name = COMMANDS[command]
    let_others_in(tmp_path)
    refused(words, tmp_path / ("n" * 300), capfd)  # the modules may lie where others cannot read

    def try_it() -> None:
        assert main([*words.split(), str(tmp_path / name)]) == 2

    assert as_nobody(try_it) == 0
    assert "Permission denied; nothing was done; get the right" in capfd.readouterr().err
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_home_folder_is_the_same_everywhere(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").write_text("a file")
    *words, option = COMMANDS[command][0].split()
    assert main([*words, f"{option}=~/{COMMANDS[command][1]}"]) == 2
    assert f"{tmp_path}/home is no folder" in capsys.readouterr().err
