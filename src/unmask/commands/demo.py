"""``unmask demo``: the whole path on embedded images, in minutes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unmask.commands.arguments import parse
from unmask.demo import DemoOptions, run_demo
from unmask.evaluate.options import EvaluationOptions
from unmask.files.folders import check_file, check_folder
from unmask.ranges import Name, Ranged
from unmask.report import write_report
from unmask.text import say


@dataclass(frozen=True)
class Arguments(Ranged):
    """Train a tokenizer and a MaskGIT on 8,000 Fashion-MNIST images, sample every class, judge.

    About eight minutes on two CPU cores. Started again on the same folder, it continues.
    """

    out: Path = Path("demo")
    """Folder for the runs and report.html."""
    device: Name = "auto"
    """Device of sampling and scoring: cpu, cuda, mps; auto takes the machine's accelerator if it
    has one."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask demo")
    check_folder(arguments.out, "demo", may_hold=lambda: True)
    check_file(arguments.out / "report.html", "report")
    how = EvaluationOptions(classifier="fashion", device=arguments.device)
    result = run_demo(arguments.out, DemoOptions(evaluation=how))
    write_report(result, arguments.out / "report.html")
    say(*str(result.scores.table()).splitlines())
    say(f"pictures and curves: {arguments.out / 'report.html'}")
    say(result.line())
