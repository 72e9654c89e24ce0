"""What the scripts share: their options, their reports, and the ways to count, time and score.

A report is a file of a script's name with what it measured, and beside it the command, the date,
the revision, the hardware and the versions.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate.classifier import load_fashion_classifier
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor, Features
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.real_images import real_batches
from unmask.evaluate.report import Row
from unmask.show import Table

REPORTS = Path(__file__).parent / "reports"
SOURCES = (".", "../src", "../tests", "../pyproject.toml")  # of what a report tells
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
    """Commit of the checkout, marked where files differ from it; "unknown" outside one.

    Reports do not count: those that a row of benchmarks has just written are no change of code.
    """
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", *SOURCES, f":!{REPORTS.name}")
        return git("rev-parse", "--short=10", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


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


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Options of a script, told by the first line of its docstring, with those that all have."""
    made = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    made.add_argument("--report", type=Path, metavar="DIR", help="write a report file there")
    made.add_argument("--dirty", action="store_true", help="also from a tree with changes, marked")
    return made


def parsed(made: argparse.ArgumentParser) -> argparse.Namespace:
    """The options given; a report that nobody could repeat is refused before anything is measured.

    It is from a tree with changes, or from no commit at all; --dirty writes it all the same.
    """
    options = made.parse_args()
    if options.report is not None and not options.dirty:
        state = revision()
        if state == "unknown" or state.endswith("-dirty"):
            made.error(f"the revision is {state}: commit first, or mark the report so (--dirty)")
    return options


def publish(
    options: argparse.Namespace,
    rows: Sequence[Sequence[object]],
    *,
    header: Sequence[str],
    note: str = "",
) -> None:
    """Print a table and what is told below it, and write the report that was asked for.

    It replaces the script's former report of this hardware.

    Args:
        options: as :func:`parsed` gives them.
        rows: one a line of the table, as long as ``header``.
        header: column titles, with units.
        note: paragraphs under the table: what the figures mean and how they were taken.
    """
    table = Table(titles=header, rows=rows).markdown()
    print(hardware_line(), versions_line(), table, note, sep="\n\n")
    if options.report is None:
        return
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()
    machine = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    name = Path(sys.argv[0]).stem
    facts = [
        f"* command: `{command_line()}`",
        f"* date: {datetime.date.today().isoformat()}",
        f"* revision: {revision()}",
        f"* hardware: {hardware_line()}",
        f"* versions: {versions_line()}",
    ]
    blocks = [f"# {name}", "\n".join(facts), table, note.strip()]
    file = options.report / f"{name}_{machine}.md"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n\n".join(block for block in blocks if block) + "\n", encoding="utf8")
    print(file)


class Operations(TorchDispatchMode):
    """Counts tensor operations that compute or copy; views are none."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Count and go on."""
        self.count += not (func.is_view or "_unsafe_view" in func.name())
        return func(*args, **(kwargs or {}))


def operations(call: Callable[[], object]) -> int:
    """Tensor operations of a call that compute or copy."""
    with Operations() as counter:
        call()
    return counter.count


def products(call: Callable[[], object]) -> int:
    """Multiplications and additions of a call's matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def seconds(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """Wall time of one call, the device idle at both ends."""
    wait = torch.accelerator.synchronize if torch.device(device).type != "cpu" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def paired(
    one: Callable[[], object],
    other: Callable[[], object],
    *,
    rounds: int,
    device: torch.device | str = "cpu",
) -> tuple[float, float, float]:
    """Median seconds of two calls made in turn, and the median of their ratios pair by pair."""
    pairs = [(seconds(one, device), seconds(other, device)) for _ in range(rounds)]
    first, second = (statistics.median(side) for side in zip(*pairs, strict=True))
    return first, second, statistics.median(a / b for a, b in pairs)


class Remembered:
    """A feature network that has seen some batches before and does not compute them again."""

    def __init__(self, extractor: FeatureExtractor, batches: Iterable[ImageBatch]) -> None:
        self.extractor, self.kept = extractor, list(batches)
        self.name, self.identity, self.width = extractor.name, extractor.identity, extractor.width
        self.known = {batch.images.data_ptr(): extractor(batch.images) for batch in self.kept}

    def __call__(self, images: torch.Tensor) -> Features:
        """Features, remembered ones by where the images lie in memory."""
        found = self.known.get(images.data_ptr())
        return self.extractor(images) if found is None else found


class FashionScores:
    """Scores of 28x28 grey samples against the embedded held-out images of Fashion-MNIST.

    Fréchet distance of EfficientNet-lite0 features at 128 px (not FID), class accuracy by the
    shipped classifier, precision and recall.

    Args:
        count: held-out images.
    """

    def __init__(self, count: int) -> None:
        held_out = open_source("fashion-mnist", split="val")
        transform = Transform(size=28, crop="none", channels=1)
        real = real_batches(held_out, transform, count=count)
        self.extractor = Remembered(EfficientNetLite0(resize=128), real)
        self.classifier = load_fashion_classifier()

    def __call__(self, batches: Iterable[ImageBatch]) -> Row:
        """Scores of a set of samples."""
        report = evaluate(
            batches, self.extractor.kept, extractor=self.extractor, classifier=self.classifier
        )
        return report.rows[0]


def answer_row(name: str, found: Sequence[Any], kinds: Sequence[str]) -> list[object]:
    """A line about a walk: how many attempts, how many answered in each way, the longest."""
    counted = Counter(answer.kind for answer in found)
    longest = max((answer.seconds for answer in found), default=0.0)
    return [name, len(found), *(counted[kind] for kind in kinds), round(longest, 1)]
