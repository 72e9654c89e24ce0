"""A run that is killed again and again ends as one that never was.

    python benchmarks/twenty_kills.py [--kills 20] [--steps 600] [--report DIR]

A toy run that saves at every second step is killed by SIGKILL at random moments, started again each
time, and then allowed to end. Its weights, its averaged weights and the losses in its log are
compared, bit for bit, with those of an undisturbed run. A shorter one is in the suite
(``pytest tests/train/test_kill.py``).
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from common import parsed, parser, publish

TESTS = Path(__file__).parents[1] / "tests"
sys.path[:0] = [str(TESTS / "toys"), str(TESTS / "train")]  # where the toy run is


def main() -> None:
    """Kill, compare, print the table."""
    words = parser(__doc__)
    words.add_argument("--kills", type=int, default=20)
    words.add_argument("--steps", type=int, default=600)
    options = parsed(words)
    from test_kill import kill_at_random, run_it
    from toy_run import outcome

    began = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        killed, whole = Path(name) / "killed", Path(name) / "whole"
        times = kill_at_random(killed, kills=options.kills, steps=options.steps, seed=options.kills)
        run_it(whole, options.steps)
        assert outcome(killed) == outcome(whole), "the run that was killed ended otherwise"
    rows = [[options.steps, times, "weights, averaged weights and losses equal bit for bit"]]
    note = f"The walk took {time.monotonic() - began:.0f} seconds."
    publish(options, rows, header=["steps", "kills", "result"], note=note)


if __name__ == "__main__":
    main()
