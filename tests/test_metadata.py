"""What the package says about itself agrees wherever it says it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import unmask

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OLDEST = PROJECT["project"]["requires-python"].removeprefix(">=")
PINS = {
    Requirement(line).name: Requirement(line).specifier
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
}
EXTRAS = PROJECT["project"]["optional-dependencies"].values()
WANTED = [Requirement(line) for line in PROJECT["project"]["dependencies"]]
WANTED += [Requirement(line) for extra in EXTRAS for line in extra]


def test_the_oldest_python_is_one_number() -> None:
    assert f"You need Python {OLDEST} or newer" in (ROOT / "README.md").read_text()
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py{OLDEST.replace('.', '')}"
    assert PROJECT["tool"]["mypy"]["python_version"] == OLDEST


def test_the_version_is_one_number() -> None:
    assert PROJECT["project"]["version"] == unmask.__version__


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_the_versions_that_the_suite_runs_with_are_allowed(wanted: Requirement) -> None:
    pins = {re.sub("[-_.]+", "-", name).lower(): spec for name, spec in PINS.items()}
    pin = pins[re.sub("[-_.]+", "-", wanted.name).lower()]
    (exact,) = pin
    assert exact.operator == "=="
    assert wanted.specifier.contains(Version(exact.version))


def test_licences_of_what_travels_along_are_named() -> None:
    assets = ROOT / "src" / "unmask" / "assets"
    named = {file for glob in PROJECT["project"]["license-files"] for file in ROOT.glob(glob)}
    data = [folder for folder in assets.iterdir() if folder.is_dir() and folder.name != "weights"]
    texts = [folder / "LICENSE.txt" for folder in data if not folder.name.startswith("__")]
    assert texts
    assert named == {ROOT / "LICENSE", *texts}
    expression = PROJECT["project"]["license"].split(" AND ")
    told = " ".join(text.read_text() for text in texts)
    assert expression == ["MIT", "CC-BY-4.0", "CC0-1.0"]
    assert all(words in told for words in ("MIT License", "CC BY 4.0", "CC0 1.0"))
