"""The documentation does what it says.

A page is run as it stands: its ``sh`` and ``python`` blocks in order, in one empty folder, the
Python blocks in one namespace. Commands that cannot run here stand in ``text`` blocks, and the
paragraph above such a block says that it is not run, and why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
from test_layers import ORDER

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```([\w{}]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
RUN = ("sh", "python")
NOT_RUN = ("text", "yaml", "{toctree}")
COMMAND = re.compile(r"^(unmask|make|accelerate|torchrun|python|pip) ", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    text: str
    line: int
    above: str


def blocks_of(page: Path) -> list[Block]:
    """The fenced blocks in order, each with the paragraph above it."""
    text = page.read_text(encoding="utf8")
    return [
        Block(
            found[1],
            found[2],
            text.count("\n", 0, found.start()) + 2,
            text[: found.start()].rstrip().rpartition("\n\n")[2],
        )
        for found in FENCE.finditer(text)
    ]


def run_shell(block: Block, where: str) -> None:
    """Run a block as one script, with the commands of this installation."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text],
        env={**os.environ, "PATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, f"{where}:\n{block.text}\nsaid:\n{result.stdout}"


def run_python(block: Block, where: str, module: ModuleType) -> None:
    """Run a block in the page's namespace; a failure shows the page and the line in it."""
    source = "\n" * (block.line - 1) + block.text
    exec(compile(source, where.partition(":")[0], "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    module = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", module)  # dataclasses look their module up
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        if block.language == "sh":
            run_shell(block, where)
        elif block.language == "python":
            run_python(block, where, module)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_does_not_run_says_why(page: Path) -> None:
    for block in blocks_of(page):
        where = f"{page.relative_to(ROOT)}:{block.line}"
        assert block.language in RUN + NOT_RUN, f"{where}: a block of {block.language!r} hides"
        if block.language == "text" and COMMAND.search(block.text):
            assert "not run" in block.above.lower(), f"{where}: say why this is not run"


def test_the_examples_of_extending_type_check(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    page, lines = ROOT / "docs" / "extend.md", list[str]()
    for block in blocks_of(page):
        if block.language == "python":
            lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    module = tmp_path / "extend.py"  # whose lines are those of the page
    module.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", str(module)]
    found = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def anchors_of(page: Path) -> set[str]:
    """The fragments that headings of a page can be linked by."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf8")), re.M)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    targets = LINK.findall(FENCE.sub("", page.read_text(encoding="utf8")))
    local = [target for target in targets if not re.match(r"[a-z]+:", target)]
    for target in local:
        path, _, fragment = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.relative_to(ROOT)} links to {target}"
        if fragment:
            assert fragment in anchors_of(file), f"{page.relative_to(ROOT)} links to {target}"


def test_the_layers_in_the_design_are_those_of_the_package() -> None:
    page = (ROOT / "docs" / "design.md").read_text(encoding="utf8")
    table = page.split("## Layers")[1].split("\n\n")[2]
    parts = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)/?`", row)]
    assert [part for part in parts if part in ORDER] == ORDER
