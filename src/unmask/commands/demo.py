"""``unmask demo``: the whole path on embedded images, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from unmask.demo import DemoOptions, run_demo
from unmask.report import write_report


@dataclass(frozen=True)
class Arguments:
    """Train a tokenizer and a MaskGIT on 8,000 Fashion-MNIST images, sample every class, judge.

    About eight minutes on two CPU cores. Started again on the same folder, it continues.
    """

    out: Path = Path("demo")
    """Folder for the runs and report.html."""
    device: str = "cpu"
    """Where sampling and scoring run."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = tyro.cli(Arguments, prog="unmask demo", args=list(words))
    result = run_demo(arguments.out, DemoOptions(device=arguments.device))
    write_report(result, arguments.out / "report.html")
    print(result.scores.table())
    print(f"pictures and curves: {arguments.out / 'report.html'}")
    print(result.line())
