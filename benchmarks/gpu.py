"""What a GPU does with the base sizes: tests, images a second, training, draws and copies.

    python benchmarks/gpu.py [--budget 480] [--batch-size 64] [--report DIR]
    python benchmarks/gpu.py --device cpu --tiny --budget 60      # the shipped sizes, as a trial

Networks of MaskGIT, MAGE, MAR and eMIGM have random weights; no tokenizer draws pixels. Each row
gets an equal part of the time that is left and is stopped there, so that the whole keeps the budget
(seconds, at most 480) but for a call in flight; compiling comes last, in processes of its own.
Without a GPU it says what it would measure and ends.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch
from accelerate import Accelerator
from common import parsed, parser, products, publish, seconds
from torch import Tensor
from torch.profiler import ProfilerActivity, profile, record_function

from unmask.draws import Draws, keyed_generator
from unmask.machine.devices import find_accelerator
from unmask.nn.model import initialize
from unmask.pipeline import Pipeline
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.train.generator import objective_of
from unmask.train.loop import optimise_step, read_ahead
from unmask.train.masked_batches import MaskedBatches
from unmask.train.optim import EmaWeights, make_optimizer
from unmask.types import Step

BUDGET = 480
SYSTEMS = {  # recipes at the published base size, and at the shipped one
    "MaskGIT": ("maskgit-pytorch-imagenet256", "fashion-maskgit"),
    "MAGE": ("mage-base", "fashion-mage"),
    "MAR": ("mar-base", "fashion-mar"),
    "eMIGM": ("emigm-base-256", "fashion-emigm"),
}
SAMPLED, COMPILED = ("float32", "bf16"), "bf16 compiled"
TRAINED = ("MaskGIT", "MAR")
TRAINING_STEPS = 12
HEADER = ("system", "work", "figure", "unit", "from")
NOTE = """Images a second are of the recipe's own plan, with guidance, after two steps to warm up. A
row that ran out of time was stopped and counts by the steps that it had finished, of which later
ones cost more in MAR and eMIGM. Training is forward, backward, clipping, AdamW, average, in bf16;
its share is of the rate of large bf16 products on the same device. Draws are the host's time in
which random numbers are made and sent, copies the device's time of copies from the host, both as
shares of a batch of four steps."""


AGAIN = 5  # seconds; what is raised in a callback is lost


class TimeUpError(Exception):
    """A row has had its part of the budget."""


class Row(NamedTuple):
    """One measurement."""

    system: str
    work: str
    measure: Callable[[float], tuple[float | str, str, str]]
    """Gives a figure, its unit, and what it is from; told how many seconds it has."""


@contextmanager
def stopped_after(limit: float) -> Iterator[None]:
    """Raise TimeUpError inside after so many seconds, between two calls of Python."""

    def up(number: int, frame: FrameType | None) -> None:
        """The alarm."""
        raise TimeUpError

    before = signal.signal(signal.SIGALRM, up)
    signal.setitimer(signal.ITIMER_REAL, max(limit, 0.01), AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Bench:
    """Networks with random weights on a device.

    Args:
        device: where they compute.
        tiny: the shipped sizes in place of the published ones.
        batch_size: images decoded at once, and trained on in a step.
    """

    def __init__(self, device: torch.device, *, tiny: bool, batch_size: int) -> None:
        self.device, self.tiny, self.batch_size = device, tiny, batch_size

    def recipe(self, system: str) -> Recipe:
        """The recipe of a system."""
        return get(SYSTEMS[system][self.tiny])

    def pipeline(self, system: str) -> Pipeline:
        """Network and plan."""
        recipe = self.recipe(system)
        model = recipe.network.build()
        initialize(model, keyed_generator("benchmark"))
        return Pipeline(recipe, model.requires_grad_(False), None).to(self.device)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def apart(self, system: str, work: str, limit: float) -> tuple[float | str, str, str]:
        """What :meth:`sampled` gives in a process of its own: compilers let nobody stop them."""
        words = [sys.executable, __file__, "--only", system, work, "--budget", f"{limit:g}"]
        words += ["--device", str(self.device), "--batch-size", str(self.batch_size)]
        words += ["--tiny"] if self.tiny else []
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError((done.stderr.strip() or "it failed").splitlines()[-1])
        figure, unit, told = json.loads(done.stdout.splitlines()[-1])
        return figure, unit, told

    def sampled(self, system: str, work: str) -> tuple[float | str, str, str]:
        """Images a second."""
        pipeline, done = self.pipeline(system), 0
        if work == COMPILED:
            pipeline.model.compile()
        compute, plan, count = work.split()[0], pipeline.plan, self.batch_size
        classes = pipeline.model.classes
        labels = [row % classes for row in range(count)] if classes else None

        def observe(step: Step) -> None:
            """Count, and keep the host from running far ahead of the clock."""
            nonlocal done
            done = step.index + 1
            if done % 8 == 0:
                self.wait()

        def decode(steps: int) -> None:
            """A batch."""
            pipeline.tokens(
                labels, seeds=0, batch_size=count, compute=compute,  # type: ignore[arg-type]
                plan=replace(plan, steps=steps), observe=observe,
            )  # fmt: skip

        decode(2)
        self.wait()
        done, began = 0, time.perf_counter()
        try:
            decode(plan.steps)
        except TimeUpError:
            if not done:
                raise
        self.wait()
        took = time.perf_counter() - began
        told = f"{count} images, {done} of {plan.steps} steps, {took:.1f} s"
        return count * done / plan.steps / took, "images/s", told

    def trained(self, system: str) -> tuple[float | str, str, str]:
        """Share of the device's arithmetic that training uses."""
        recipe, size = self.recipe(system), self.batch_size
        settings = replace(recipe.training, batch_size=size, accumulate=1, precision="bf16")
        settings = replace(settings, micro_batch_size=None, steps=TRAINING_STEPS)
        accelerator = Accelerator(mixed_precision="bf16", cpu=self.device.type == "cpu")
        model = recipe.network.build()
        initialize(model, keyed_generator("benchmark"))
        objective = accelerator.prepare_model(objective_of(recipe, model).train())
        optimizer = accelerator.prepare_optimizer(make_optimizer(objective, settings))
        ema = EmaWeights(model, settings.ema) if settings.ema else None
        batches = MaskedBatches(
            RandomCache(recipe, size), recipe.masking, training=settings, classes=model.classes
        )
        steps = read_ahead(batches, range(TRAINING_STEPS), 0, accelerator)
        first = next(steps)
        work = products(lambda: accelerator.backward(objective(first[0])["loss"])) * len(first)
        times: list[float] = []
        try:
            for number, batch in enumerate(steps):
                times.append(seconds(
                    lambda batch=batch, number=number: optimise_step(  # type: ignore[misc]
                        objective, batch, optimizer=optimizer, settings=settings, step=number,
                        accelerator=accelerator, ema=ema,
                    ),
                    self.device,
                ))  # fmt: skip
        except TimeUpError:
            if len(times) < 2:
                raise
        took = sum(times[1:]) / (len(times) - 1)
        told = f"{size / took:.1f} images/s, {work / 1e12 / took:.2f} TFLOP/s, {len(times)} steps"
        return work / took / self.rate(), "of its products", told

    def rate(self) -> float:
        """Products and additions a second of large bf16 matrices."""
        size = 256 if self.tiny else 8192
        one = torch.ones(size, size, dtype=torch.bfloat16, device=self.device)
        took = min(seconds(lambda: one @ one, self.device) for _ in range(10))
        return 2 * size**3 / took

    def drawn(self, system: str) -> tuple[float | str, str, str]:
        """Share of the host's time that draws take, and of the device's that copies take."""
        pipeline, kept = self.pipeline(system), Draws._filled
        classes, count = pipeline.model.classes, self.batch_size
        labels = [row % classes for row in range(count)] if classes else None
        plan = replace(pipeline.plan, steps=4)

        def marked(self: Draws, *arguments: object) -> Tensor:
            """The numbers, under a name in the profile."""
            with record_function("draws"):
                return kept(self, *arguments)  # type: ignore[arg-type]

        used = [ProfilerActivity.CPU]
        used += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        Draws._filled = marked  # type: ignore[method-assign]
        try:
            pipeline.tokens(labels, seeds=0, batch_size=count, plan=replace(plan, steps=2))
            began = time.perf_counter()
            with profile(activities=used) as record:
                pipeline.tokens(labels, seeds=0, batch_size=count, plan=plan)
                self.wait()
            took = time.perf_counter() - began
        finally:
            Draws._filled = kept  # type: ignore[method-assign]
        events = record.key_averages()
        drawing = sum(e.cpu_time_total for e in events if e.key == "draws") / 1e6
        copying = sum(e.device_time_total for e in events if "Memcpy HtoD" in e.key) / 1e6
        told = f"copies {copying / took:.4f}; {count} images, {plan.steps} steps, {took:.1f} s"
        return drawing / took, "draws", told


class RandomCache:
    """Random codes or latents of the sizes of a recipe's network.

    Args:
        recipe: with the network.
        count: images.
    """

    views = 1

    def __init__(self, recipe: Recipe, count: int) -> None:
        what, self.size = recipe.network.space
        self.channels = self.size if what == "channels" else 0
        self.length, self.count = recipe.network.length, count
        self.labels = torch.arange(count) % max(1, recipe.network.classes)

    def __len__(self) -> int:
        """Number of images."""
        return self.count

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """Tokens that nothing is known of: the noise itself, or random codes."""
        if noise is not None:
            return noise
        shape = (len(rows), self.length)
        return torch.randint(self.size, shape, generator=keyed_generator("codes", len(rows)))


def tested(limit: float) -> tuple[float | str, str, str]:
    """How the tests end that are marked for a GPU."""
    root = Path(__file__).resolve().parent.parent
    words = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests"]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True)
    last = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()[-1]
    return ("passed" if done.returncode == 0 else "FAILED"), "", last


def rows_of(bench: Bench) -> list[Row]:
    """What is measured, in order: compiling last, because nobody knows how long it takes."""
    rows = [
        Row(system, work, lambda limit, s=system, w=work: bench.sampled(s, w))  # type: ignore[misc]
        for work in SAMPLED
        for system in SYSTEMS
    ]
    for system in TRAINED:
        rows.append(Row(system, "training, bf16", lambda limit, s=system: bench.trained(s)))  # type: ignore[misc]
    for system in TRAINED:
        rows.append(Row(system, "draws and copies", lambda limit, s=system: bench.drawn(s)))  # type: ignore[misc]
    rows += [] if bench.tiny else [Row("all", "tests", tested)]
    for system in SYSTEMS:
        rows.append(Row(system, COMPILED, partial(bench.apart, system, COMPILED)))
    return rows


def measured(rows: list[Row], budget: float) -> list[list[object]]:
    """Lines of the table; each row gets its part of what is left."""
    end, lines = time.monotonic() + budget, []
    for number, row in enumerate(rows):
        part = (end - time.monotonic()) / (len(rows) - number)
        try:
            with stopped_after(part):
                found = row.measure(part)
        except TimeUpError:
            found = ("none", "", f"not within its {max(part, 0):.0f} s")
        except (RuntimeError, torch.OutOfMemoryError) as error:
            found = ("none", "", str(error).splitlines()[0][:80])
        lines.append([row.system, row.work, *found])
        print("\t".join(map(str, lines[-1])), file=sys.stderr, flush=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return lines


def options_of() -> argparse.Namespace:
    """The options given."""
    words = parser(__doc__)
    words.add_argument("--budget", type=float, default=BUDGET, help=f"seconds, at most {BUDGET}")
    words.add_argument("--batch-size", type=int, default=64, help="images at once")
    words.add_argument("--device", default="auto", help="auto: the accelerator, if there is one")
    words.add_argument("--only", nargs=2, metavar=("SYSTEM", "WORK"), help="one row, as JSON")
    words.add_argument("--tiny", action="store_true", help="the shipped sizes, to try it out")
    options = parsed(words)
    if not 0 < options.budget <= BUDGET:
        words.error(f"--budget {options.budget:g} must be above 0 and at most {BUDGET} seconds")
    return options


def main() -> None:
    """Measure, print and write the report."""
    options, here = options_of(), find_accelerator()
    device = (here or torch.device("cpu")) if options.device == "auto" else options.device
    bench = Bench(torch.device(device), tiny=options.tiny, batch_size=options.batch_size)
    if options.only:
        with stopped_after(options.budget):
            print(json.dumps(bench.sampled(*options.only)))
        return
    rows = rows_of(bench)
    if here is None and options.device == "auto":
        print("no GPU here; with one it would measure, within", f"{options.budget:g} s:")
        print(*(f"* {row.system}: {row.work}" for row in rows), sep="\n")
        return
    publish(options, measured(rows, options.budget), header=HEADER, note=NOTE)


if __name__ == "__main__":
    main()
