"""Cost of a checkpoint by the number of parameters: bytes, CPU seconds and memory beside the run.

    python benchmarks/checkpoint.py [--millions 25] [--report DIR]

Saved, hashed and taken over for n, 2n and 4n parameters with AdamW's moments and an average, which
are 16 bytes a parameter. Memory is what the process itself allocates, sampled while it works; what
it maps from files is left out, as the system takes that back at will.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import Accelerator
from common import parsed, parser, publish
from torch import Tensor, nn

from unmask.recipes.training import Training
from unmask.train.run import Run, resume
from unmask.train.state import fault

MIB = 1 << 20
ROUNDS = 3
SIDE = 1000  # of the matrices that stand for a network


class Matrices(nn.Module):
    """So many millions of parameters that are never used."""

    def __init__(self, millions: int) -> None:
        super().__init__()
        self.averaged = nn.ParameterList(torch.ones(SIDE, SIDE) for _ in range(millions))


def allocated() -> int:
    """Bytes of this process that belong to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


@contextmanager
def most_allocated() -> Iterator[Callable[[], int]]:
    """Tells how far the allocated bytes rose above those at the beginning."""
    began, most, done = allocated(), [0], threading.Event()

    def look() -> None:
        """Sample until it is over."""
        while not done.wait(0.002):
            most[0] = max(most[0], allocated() - began)

    watcher = threading.Thread(target=look)
    watcher.start()
    yield lambda: most[0]
    done.set()
    watcher.join()


def run_of(millions: int, out: Path) -> Run:
    """A run with its first step behind it."""
    settings = Training(steps=9, tracker="none")
    accelerator = Accelerator(cpu=True)
    run = Run(Matrices(millions), settings, out=out, config={}, accelerator=accelerator)
    for weight in run.averaged.parameters():
        weight.grad = torch.ones_like(weight)
    run.optimizer.step()
    run.optimizer.zero_grad()
    return run


def costs(millions: int, out: Path) -> dict[str, float]:
    """GB on disk, and the CPU seconds and MiB allocated beside the run, by what is done.

    Args:
        millions: of parameters.
        out: a folder that does not exist.
    """
    run, fresh = run_of(millions, out), run_of(millions, out)
    moments = sum(
        tensor.numel() * tensor.element_size()
        for state in run.optimizer.state.values()
        for tensor in state.values()
        if isinstance(tensor, Tensor)
    )
    folder = run.save(1)
    found = {"GB": sum(file.stat().st_size for file in folder.iterdir()) / 1e9}
    steps: dict[str, tuple[Callable[[], object], int]] = {
        "save": (lambda: run.save(1), 0),
        "hash": (lambda: fault(folder), 0),
        "go on": (lambda: resume(fresh), moments),  # which a fresh run has not yet
    }
    for name, (call, own) in steps.items():
        seconds, beside = list[float](), list[float]()
        for _ in range(ROUNDS):
            fresh.optimizer.state.clear()
            began = time.process_time()
            with most_allocated() as most:
                call()
            seconds.append(time.process_time() - began)
            beside.append(max(0.0, (most() - own) / MIB))
        found[f"{name}, CPU s"], found[f"{name}, MiB"] = min(seconds), max(beside)
    return found


def saving(millions: int, out: Path) -> Callable[[], object]:
    """A save of so many millions of parameters, ready to be timed."""
    run = run_of(millions, out)
    return lambda: run.save(1)


def going_on(millions: int, out: Path) -> Callable[[], object]:
    """A start from a checkpoint of so many millions of parameters, ready to be timed."""
    run = run_of(millions, out)
    run.save(1)
    return lambda: resume(run)


def exponent(counts: Sequence[int], values: Sequence[float]) -> float:
    """The power of the count by which a value grew from the first to the last."""
    return math.log(values[-1] / values[0]) / math.log(counts[-1] / counts[0])


def main() -> None:
    """Measure, print and write the report."""
    words = parser(__doc__)
    words.add_argument("--millions", type=int, default=25)
    options = parsed(words)
    counts = [options.millions * factor for factor in (1, 2, 4)]
    with tempfile.TemporaryDirectory() as folder:
        found = [costs(count, Path(folder) / str(count)) for count in counts]
    rows = [
        [name, *(round(one[name], 2) for one in found), grown(counts, [o[name] for o in found])]
        for name in found[0]
    ]
    header = ["", *(f"{count} M parameters" for count in counts), "exponent"]
    note = (
        f"CPU seconds are the least of {ROUNDS}, memory the most; files are in the page cache. "
        "Moments, which a fresh run takes over as its own, are not counted as memory beside it."
    )
    publish(options, rows, header=header, note=note)


def grown(counts: Sequence[int], values: Sequence[float]) -> str:
    """The exponent, where there is something that grows."""
    return f"{exponent(counts, values):.2f}" if min(values) > 0.1 else ""


if __name__ == "__main__":
    main()
