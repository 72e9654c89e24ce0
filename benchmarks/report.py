"""Report files: what a benchmark measured, with the command, versions and hardware beside it."""

from __future__ import annotations

import datetime
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

PACKAGES = ("unmask", "torch", "numpy")


def cpu_name() -> str:
    """Model name of the processor, or its architecture where the system does not tell."""
    listing = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", listing.read_text()) if listing.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def hardware_line() -> str:
    """Processor, usable cores, torch threads, memory and accelerators, in one line."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [cpu_name(), f"{usable} usable cores", f"{torch.get_num_threads()} torch threads"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        parts.append(f"{memory / 2**30:.0f} GiB memory")
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join(parts)


def versions_line() -> str:
    """Python, operating system and the packages that decide a timing."""
    packages = [f"{name} {metadata.version(name)}" for name in PACKAGES]
    return ", ".join([f"Python {platform.python_version()}", platform.system(), *packages])


def revision() -> str:
    """Commit of the checkout, marked when it has changes; "unknown" outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=10"]
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def command_line() -> str:
    """The command of this process, as one would type it in the checkout; other paths by name."""
    root = Path(__file__).resolve().parent.parent

    def shown(word: str) -> str:
        """The word, if it is no path of this machine."""
        path = Path(word)
        if not path.is_absolute():
            return word
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    script = str(Path(sys.argv[0]).resolve())
    return shlex.join(["python", *map(shown, [script, *sys.argv[1:]])])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table; numbers are right-aligned, floats keep four significant digits."""

    def cell(value: object) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"

    first = rows[0] if rows else header
    rule = ["---:" if isinstance(value, (int, float)) else "---" for value in first]
    lines = [list(header), rule, *([cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_report(
    directory: str | Path,
    name: str,
    *,
    rows: Sequence[Sequence[object]],
    header: Sequence[str],
    note: str = "",
) -> Path:
    """Write ``<name>_<hardware>_<date>.md``; a report of the same day is replaced.

    Args:
        directory: made when missing.
        name: what was measured, the start of the file name.
        rows: one a line of the table, as long as ``header``.
        header: column titles, with units.
        note: paragraphs under the table: what the figures mean and how they were taken.

    Returns:
        The file.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    machine = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    today = datetime.date.today().isoformat()
    facts = [
        f"* command: `{command_line()}`",
        f"* date: {today}",
        f"* revision: {revision()}",
        f"* hardware: {hardware_line()}",
        f"* versions: {versions_line()}",
    ]
    blocks = [f"# {name}", "\n".join(facts), markdown_table(header, rows), note.strip()]
    file = Path(directory) / f"{name}_{machine}_{today}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(block for block in blocks if block) + "\n", encoding="utf8")
    return file
