"""Every option of every command with hostile values: it works, or ends in one line.

    python benchmarks/hostile_options.py --report benchmarks/reports

The same walk is in the suite (``pytest -m slow tests/walks/test_options.py``). Each command runs on
toys in a forked child of one warm process, within 60 seconds of the processor and 2 GiB of address
space beyond it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from common import answer_row, parsed, parser, publish

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "toys"), str(TESTS / "walks")]  # where the toys and the walk are

from forked import FAILED, MEMORY, REFUSED, SECONDS, SLOW, STARTED, Answer  # noqa: E402
from options import VALUES, Trial, trials, walk, warm  # noqa: E402
from place import write_place  # noqa: E402

KINDS = (STARTED, REFUSED, FAILED, SLOW)


def table(found: list[tuple[Trial, Answer]]) -> list[list[object]]:
    """A row a command, and their sum: options, trials, how they were answered."""
    rows: list[list[object]] = []
    for command in [*dict.fromkeys(trial.command for trial, _ in found), "all"]:
        of_it = [(trial, a) for trial, a in found if command in (trial.command, "all")]
        options = {(trial.command, trial.option) for trial, _ in of_it}
        name, *figures = answer_row(command, [answer for _, answer in of_it], KINDS)
        rows.append([name, len(options), *figures])
    return rows


def note(found: list[tuple[Trial, Answer]], minutes: float) -> str:
    """What the figures mean, and each trial that was answered otherwise than it should be."""
    bad = [(trial, answer) for trial, answer in found if answer.kind in (FAILED, SLOW)]
    lines = [
        f"Values: {', '.join(VALUES)}. A switch is given once, alone. Commands that run with "
        "several families (training: maskgit, self-guidance, mage, mar, emigm; tokenizers: vq, kl; "
        "sampling and evaluation: one of each head) take turns at the options that they share.",
        f'"{STARTED}": the command did what it was asked, on toys: one step or two images, to the '
        f'end; of the demo, its beginning. "{REFUSED}": exit status 2 and exactly one printable '
        f'line on stderr, "unmask: error: ...". "{FAILED}": anything else. Limits: {SECONDS} s of '
        f"the processor and {MEMORY >> 30} GiB beyond the warm process. The walk took "
        f"{minutes:.1f} minutes.",
    ]
    for trial, answer in bad:
        last = (answer.told.strip().splitlines() or [""])[-1]
        lines.append(f"* {trial.command} {trial.option} {trial.value}: {answer.status}, {last!r}")
    return "\n\n".join(lines)


def main() -> None:
    """Walk, print the table, write the report."""
    words = parser(__doc__)
    words.add_argument("--workers", type=int, help="children at a time; one a core unless given")
    args = parsed(words)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_place(root)
        warm(root)
        began = time.monotonic()
        found = list(walk(list(trials(root)), root, workers=args.workers))
        minutes = (time.monotonic() - began) / 60
    header = ["command", "options", "tried", *KINDS, "longest [s]"]
    publish(args, table(found), header=header, note=note(found, minutes))


if __name__ == "__main__":
    main()
