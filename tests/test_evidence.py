"""Every report can be repeated, and every number quoted from one stands in it.

A page marks what it quotes: ``<!-- report: NAME -->`` before a paragraph, list item or table says
that each number in it stands in ``benchmarks/reports/NAME_*.md``, rounded as it is quoted. Behind
the names ``; 14 = 846 / 60`` says how a quoted number follows from one in the report, and
``; besides 64`` which numbers are no results.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
REPORTS = sorted((ROOT / "benchmarks" / "reports").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FROM_CHANGED_TREES = {  # older reports that are to be made again from a clean revision
    *("fashion_mage", "learning_curve", "mar_sampling"),
}
NOT_QUOTED = {  # what they prove has no number
    *("augmentation_cost", "cache_build", "damaged_data", "damaged_weights", "disk_faults"),
    "hostile_options",
}
MARK = re.compile(r"(?P<item>\* )?<!-- report: (?P<names>[\w ]+?)(?P<more>(; [^;]+?)*) -->\n")
NUMBER = re.compile(r"(?<![\w.,-])\d[\d,]*(?:\.\d+)?(?![\w]|-\w)")
DERIVED = re.compile(r"([\d.,]+) = ([\d.,]+)((?: [-+*/] [\d.,]+)+)")


def name_of(report: Path) -> str:
    """The name of its script."""
    return report.stem.partition("_amd")[0].partition("_nvidia")[0]


def git(*words: str) -> str:
    """What git says of the repository."""
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def history() -> None:
    """Skips where there is no whole history to look into."""
    try:
        shallow = git("rev-parse", "--is-shallow-repository")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("there is no git history here")
    if shallow == "true":
        pytest.skip("the git history is shallow")


@pytest.mark.parametrize("report", REPORTS, ids=name_of)
def test_a_report_has_a_script_of_its_name(report: Path) -> None:
    assert (ROOT / "benchmarks" / f"{name_of(report)}.py").exists()
    assert report.read_text(encoding="utf8").startswith(f"# {name_of(report)}\n")


@pytest.mark.parametrize("report", REPORTS, ids=name_of)
def test_a_report_is_from_a_revision_that_exists(report: Path, history: None) -> None:
    if name_of(report) in FROM_CHANGED_TREES:
        pytest.skip("it is to be made again")
    found = re.search(r"^\* revision: (\w+)$", report.read_text(encoding="utf8"), re.MULTILINE)
    assert found, "it names a revision, without changes"
    git("cat-file", "-e", f"{found[1]}^{{commit}}")


class Quoted(NamedTuple):
    """A marked passage."""

    page: str
    names: list[str]
    derived: dict[str, tuple[str, str]]
    besides: list[str]
    text: str


def passages() -> Iterator[Quoted]:
    """Every one of every page: to the next empty line, of a list item to the next item."""
    for page in PAGES:
        text = page.read_text(encoding="utf8")
        for mark in MARK.finditer(text):
            after = text[mark.end() :]
            end = re.search(r"\n\s*\n|\n(?=\* )" if mark["item"] else r"\n\n|\n$", after)
            derived = {d[1]: (d[2], d[3]) for d in DERIVED.finditer(mark["more"])}
            besides = re.search(r"; besides ([\d., ]+)", mark["more"])
            yield Quoted(
                page.name,
                mark["names"].split(),
                derived,
                besides[1].split() if besides else [],
                after[: end.start()] if end else after,
            )


def numbers(text: str) -> list[str]:
    """Every one, less those in code and in the targets of links."""
    shown = re.sub(r"`[^`]*`|\]\([^)]*\)", " ", text)
    return [number.rstrip(",") for number in NUMBER.findall(shown)]


def value(number: str) -> float:
    """Of digits with commas."""
    return float(number.replace(",", ""))


def stands(quoted: str, held: set[float], *, percent: bool = False) -> bool:
    """Whether a number rounds to the quoted one; a percentage may be held as a share."""
    digits = len(quoted.partition(".")[2])
    forms = held | ({100 * number for number in held} if percent else set())
    return any(abs(number - value(quoted)) <= 0.5001 * 10**-digits for number in forms)


def follows(quoted: str, start: str, steps: str, held: set[float]) -> bool:
    """Whether a number of the report, reckoned on, rounds to the quoted one."""
    found = value(start)
    for operation, number in re.findall(r"([-+*/]) ([\d.,]+)", steps):
        by = value(number)
        found = {"+": found + by, "-": found - by, "*": found * by, "/": found / by}[operation]
    return found is not None and stands(start, held) and stands(quoted, {found})


def test_the_pages_quote_reports() -> None:
    quoted = {name for passage in passages() for name in passage.names}
    assert quoted == {name_of(report) for report in REPORTS} - NOT_QUOTED


@pytest.mark.parametrize("quoted", list(passages()), ids=lambda q: f"{q.page}: {' '.join(q.names)}")
def test_a_quoted_number_stands_in_its_report(quoted: Quoted) -> None:
    texts = [r.read_text(encoding="utf8") for r in REPORTS if name_of(r) in quoted.names]
    held = {
        value(number.rstrip(","))
        for text in texts
        for number in re.findall(r"\d[\d,]*(?:\.\d+)?", text)
    }
    for number in numbers(quoted.text):
        if number in quoted.besides:
            continue
        percent = re.search(rf"(?<![\d.]){re.escape(number)} ?%", quoted.text) is not None
        if number in quoted.derived:
            assert follows(number, *quoted.derived[number], held), number
        else:
            assert stands(number, held, percent=percent), f"{number} stands in none of them"
