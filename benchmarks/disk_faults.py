"""Whatever file-system call fails or kills, a result is the older one or the new one.

    python benchmarks/disk_faults.py --report benchmarks/reports

Each writing command runs at toy size, once for each fault: killed before and after, and answered
"no space left on device" before and after, each of its file-system calls, or every fifth of the
long ones; and on a real full disk, where one can be mounted. See ``tests/walks/faults.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import parsed, parser, publish

WALKS = Path(__file__).parents[1] / "tests" / "walks"
HEADER = ["command", "calls", "tried", "answered", "of them real full disks"]
HEADER += ["seconds", "processor seconds"]


def walked(commands: list[str], place: Path, library: Path) -> list[dict]:
    """Outcomes of some commands, as ``faults.py`` prints them."""
    words = [sys.executable, "-W", "ignore", str(WALKS / "faults.py"), str(place), *commands]
    environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
    found = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as walk:
        for line in walk.stdout or ():
            if line.startswith("{"):
                print(line, end="", file=sys.stderr, flush=True)
                found.append(json.loads(line))
    assert walk.returncode == 0, commands
    return found


def main() -> None:
    """Walk, print the table, and say what went wrong."""
    words = parser(__doc__)
    args = parsed(words)
    sys.path.append(str(WALKS))
    from test_disk_faults import SHARES, build

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        library = build(Path(name))
        parts = [
            pool.submit(walked, list(share), Path(name) / str(number), library)
            for number, share in enumerate(SHARES)
        ]
        outcomes = [outcome for part in parts for outcome in part.result()]
    columns = ("command", "calls", "tried", "answered", "full", "seconds", "processor")
    rows = [[outcome[column] for column in columns] for outcome in outcomes]
    sums = [sum(row[k] for row in rows) for k in range(1, len(columns))]
    rows.append(["all", *sums])
    for outcome in outcomes:
        for wrong in outcome["wrong"]:
            print(f"{outcome['command']}: {wrong}")
    note = (
        f"{time.monotonic() - start:.0f} s in {len(SHARES)} processes side by side, beside "
        "other work on the machine, so the processor's seconds tell more. A fault is answered "
        "if right after it every result is the older or the new one, a full disk has ended "
        "the command with status 2 and one line that names the path and the reason, nothing "
        "half is left, and the next start ends as an undisturbed run: equal files, except "
        "logs, whose times are left out, and training states, which are only counted."
    )
    publish(args, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
