"""Every kind of file of data, damaged in every way we know: the command works, or ends in one line.

    python benchmarks/damaged_data.py --report benchmarks/reports

A shorter walk is in the suite (``pytest -m slow tests/walks/test_damaged_data.py``). Each command
runs on a few toy images in a forked child of one warm process, within 60 seconds and 2 GiB of
address space beyond it.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path

from common import answer_row, parsed, parser, publish

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "toys"), str(TESTS / "walks")]  # where the walk is

from damaged_files import KINDS, Attempt, calls, warm  # noqa: E402
from forked import FAILED, MEMORY, REFUSED, SECONDS, SLOW, STARTED, Answer, answers  # noqa: E402

ANSWERS = (STARTED, REFUSED, FAILED, SLOW)


def note(bad: list[tuple[Attempt, Answer]], minutes: float) -> str:
    """What the figures mean, and each attempt that was answered otherwise than it should be."""
    lines = [
        "Damages: cut at six random bytes, one bit flipped in eight, another kind in its place "
        "(empty, page, picture, zip, gzip, 64 MiB in a gzip, object array, noise, zeros, 100,000 "
        "brackets, nested objects, other JSON, a folder, a link to nothing, nothing), and headers "
        "that state far more than the file holds, with right checksums. Commands: cache build of "
        "images; cache build, verify, info and train of caches; cache convert of foreign files.",
        f'"{STARTED}": the command did its work, and left out or made anew what was damaged. '
        f'"{REFUSED}": exit status 2 and one printable line on stderr. "{FAILED}": anything else. '
        f"Limits: {SECONDS} s and {MEMORY >> 30} GiB beyond the warm process. The walk took "
        f"{minutes:.1f} minutes.",
    ]
    for attempt, answer in bad:
        last = (answer.told.strip().splitlines() or [""])[-1]
        lines.append(f"* {attempt.kind}, {attempt.damage}, {attempt.command[:30]}: {last!r}")
    return "\n\n".join(lines)


def main() -> None:
    """Walk, print the table, write the report."""
    words = parser(__doc__)
    words.add_argument("--most", type=int, help="damages a command; all without it")
    words.add_argument("kinds", nargs="*", choices=[[], *KINDS], help="all without it")
    args = parsed(words)
    warm()
    began, rows, every = time.monotonic(), [], []
    bad: list[tuple[Attempt, Answer]] = []
    for name in args.kinds or KINDS:
        with tempfile.TemporaryDirectory() as whole:
            found = list(answers(calls(name, Path(whole), args.most), workers=os.cpu_count() or 1))
        rows.append(answer_row(name, [answer for _, answer in found], ANSWERS))
        every += [answer for _, answer in found]
        bad += [(attempt, a) for attempt, a in found if a.kind in (FAILED, SLOW)]
        print(*rows[-1], flush=True)
    rows.append(answer_row("all", every, ANSWERS))
    header = ["file", "tried", *ANSWERS, "longest [s]"]
    told = note(bad, (time.monotonic() - began) / 60)
    publish(args, rows, header=header, note=told)


if __name__ == "__main__":
    main()
