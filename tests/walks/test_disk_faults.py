"""Whatever file-system call fails or kills, a result is the older one or the new one.

The commands run in two processes with ``disk_faults.c`` before the C library, see ``faults.py``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FORMATS = ("png", "folder", "npz", "tokens")
SAMPLE = [f"sample{form}" for form in ("", " --film", *(f" --format {f}" for f in FORMATS))]
TOKENIZER = "tokenizer train"
FEATURES = ("features", "features --work")
SHARES = (
    [*SAMPLE, "convert", "export", "takeover", "cache build"],
    ["train"],
    ["eval --out", "eval --work", "tokenizer eval", "probe", "finetune", TOKENIZER, *FEATURES],
)


def build(folder: Path) -> Path:
    """Compile the library that brings the faults about.

    Raises:
        FileNotFoundError: without a C compiler.
    """
    words = ["-shared", "-fPIC", "-O1", "-o", str(folder / "faults.so"), "-ldl"]
    subprocess.run(["cc", str(HERE / "disk_faults.c"), *words], check=True)
    return folder / "faults.so"


@pytest.fixture
def preloaded(tmp_path: Path) -> Path:
    """The library that brings the faults about."""
    if not sys.platform.startswith("linux") or shutil.which("cc") is None:
        pytest.skip("a C compiler makes the library that fails and kills, on Linux")
    return build(tmp_path)


@pytest.mark.slow  # about eight minutes on two cores
@pytest.mark.timeout(1800)
def test_every_fault_is_answered(preloaded: Path, tmp_path: Path) -> None:
    def share(number: int) -> list[dict]:
        """Outcomes of a share of the commands."""
        words = [
            sys.executable,
            "-W",
            "ignore",
            str(HERE / "faults.py"),
            str(tmp_path / str(number)),
        ]
        environment = {**os.environ, "LD_PRELOAD": str(preloaded), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*words, *SHARES[number]], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    with ThreadPoolExecutor() as pool:
        outcomes = [outcome for found in pool.map(share, range(len(SHARES))) for outcome in found]
    assert {outcome["command"] for outcome in outcomes} == {name for s in SHARES for name in s}
    assert all(outcome["tried"] >= 15 for outcome in outcomes)
    if os.geteuid() == 0:
        assert all(outcome["full"] for outcome in outcomes)
    assert not [(outcome["command"], wrong) for outcome in outcomes for wrong in outcome["wrong"]]
