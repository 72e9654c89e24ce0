"""Commands in processes of their own, which can be signalled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def begin(words: str, where: Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``unmask WORDS`` in a folder."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "unmask.cli", *words.split()],
        cwd=where,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path, process: subprocess.Popen[str], seconds: float = 120) -> None:
    """Wait until something is there, or the process has ended."""
    end = time.monotonic() + seconds
    while not path.exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)


def end_of(process: subprocess.Popen[str], number: int) -> tuple[int, list[str], list[str]]:
    """Send a signal; the exit status and what was printed."""
    process.send_signal(number)
    out, error = process.communicate(timeout=120)
    return process.returncode, out.splitlines(), error.splitlines()


NAMES = {signal.SIGTERM: ("SIGTERM", 143), signal.SIGINT: ("SIGINT", 130)}
