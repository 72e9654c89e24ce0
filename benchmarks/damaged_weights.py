"""Every kind of file with weights, statistics or settings, damaged, and how a command answers.

    python benchmarks/damaged_weights.py --report benchmarks/reports

The same walk is in the suite (``pytest -m slow tests/walks/test_damaged_weights.py``), with fewer
of the changed settings.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from common import answer_row, parsed, parser, publish

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "toys"), str(TESTS / "walks")]  # where the toys and the walk are

from damaged_weights import KINDS, RAN, Attempt, build, walk, warm  # noqa: E402
from forked import FAILED, MEMORY, REFUSED, SECONDS, SLOW, STARTED  # noqa: E402

ANSWERS = (STARTED, REFUSED, FAILED, SLOW)


def table(found: list[Attempt]) -> list[list[object]]:
    """A row a kind of file, and their sum."""
    rows: list[list[object]] = []
    for kind in [*KINDS, "all"]:
        of_it = [a.answer for a in found if kind in (a.kind, "all")]
        rows.append(answer_row(kind, of_it, ANSWERS))
    return rows


def note(found: list[Attempt], minutes: float, *, ran: bool) -> str:
    """What the figures mean, and each attempt that was answered otherwise than it should be."""
    lines = [
        "Files are cut at random places, have one bit flipped, are replaced by files of other "
        "kinds (web pages, pointers, other archives, pickles that would run a command, nested and "
        "huge ones), and have settings inside them changed or left out. "
        f'"{STARTED}": the command did its work, as with damage that no format can show. '
        f'"{REFUSED}": exit status 2 and exactly one printable line. "{FAILED}": anything else. '
        f"Limits: {SECONDS} s and {MEMORY >> 30} GiB beyond the warm process. The walk took "
        f"{minutes:.1f} minutes. What the pickles would run was {'RUN' if ran else 'never run'}.",
    ]
    for a in found:
        if a.answer.kind in (FAILED, SLOW):
            last = (a.answer.told.strip().splitlines() or [""])[-1]
            lines.append(f"* {a.kind}, {a.damage}: {a.answer.status}, {last!r}")
    return "\n\n".join(lines)


def main() -> None:
    """Walk, print the table, write the report."""
    words = parser(__doc__)
    words.add_argument("--most", type=int, default=30, help="changed settings a kind of file")
    args = parsed(words)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        build(root)
        warm(root)
        began = time.monotonic()
        found = walk(root, list(KINDS), most=args.most)
        minutes = (time.monotonic() - began) / 60
        ran = (root / RAN).exists()
    header = ["file", "tried", *ANSWERS, "longest [s]"]
    said = note(found, minutes, ran=ran)
    publish(args, table(found), header=header, note=said)


if __name__ == "__main__":
    main()
