"""Time, memory and scores of the demo, stage by stage.

    python benchmarks/demo.py --out demo [--report DIR]

Runs what `make demo` runs, into a new folder. Limits: 8 minutes after installation on two cores,
4 GB, class accuracy of at least 0.80.
"""

from __future__ import annotations

from pathlib import Path

from common import parsed, parser, publish

from unmask.demo import run_demo
from unmask.report import write_report as write_page


def main() -> None:
    """Run the demo and write what it cost."""
    words = parser(__doc__)
    words.add_argument("--out", type=Path, required=True)
    options = parsed(words)
    result = run_demo(options.out)
    write_page(result, options.out / "report.html")
    header = ["stage", "seconds", "peak GB so far"]
    rows = [[s.name, f"{s.seconds:.0f}", f"{s.peak_gb:.2f}"] for s in result.stages]
    note = f"```text\n{result.scores.table()}\n\n{result.line()}\n```"
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
