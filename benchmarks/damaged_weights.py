"""Every kind of file with weights, statistics or settings, damaged, and how a command answers.

    python benchmarks/damaged_weights.py --report benchmarks/reports

The same walk is in the suite (``pytest -m slow tests/walks/test_damaged_weights.py``), with fewer
of the changed settings.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from report import markdown_table, write_report

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
        counted = Counter(answer.kind for answer in of_it)
        longest = max((answer.seconds for answer in of_it), default=0.0)
        rows.append([kind, len(of_it), *(counted[a] for a in ANSWERS), round(longest, 1)])
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
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=30, help="changed settings a kind of file")
    parser.add_argument("--report", metavar="DIR", help="write a report file there")
    args = parser.parse_args()
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
    print(markdown_table(header, table(found)))
    print(said)
    if args.report:
        written = write_report(
            args.report, "damaged_weights", rows=table(found), header=header, note=said
        )
        print(written)


if __name__ == "__main__":
    main()
