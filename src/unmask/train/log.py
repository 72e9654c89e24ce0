"""What a run says while it trains: ``log.jsonl``, trackers, and a progress bar or plain lines."""

from __future__ import annotations

import json
import math
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from unmask.files import durable
from unmask.recipes.training import Training
from unmask.show import Bar
from unmask.text import say
from unmask.train.run_folder import LOG

PACKAGE = "tensorboard."  # whose writer raises again, at the next figure, what ended its thread


def hush_writers() -> None:
    """Keep a tracker's thread from printing a traceback when the disk refuses what it writes.

    The refusal is not lost: the tracker raises it where the next figure is written.
    """
    usual = threading.excepthook
    if getattr(usual, "hushes", False):
        return

    def hook(failure: threading.ExceptHookArgs) -> None:
        """Report what ended a thread, unless it is a refusal that will be raised again."""
        theirs = type(failure.thread).__module__.startswith(PACKAGE)
        if not (theirs and issubclass(failure.exc_type, OSError)):
            usual(failure)

    hook.hushes = True  # type: ignore[attr-defined]
    threading.excepthook = hook


class Meter:
    """Sums since the last log line, on the device, one fused addition a step.

    Every value is already weighted: its sum over micro-batches and processes is the figure of one
    step. The sums are part of a checkpoint, so that a resumed run logs the same means.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.sound: Tensor | None = None  # () int64, added steps of which the sum is still finite
        self.resumed = 0  # steps of the interval that an earlier process added
        self.first_loss: Tensor | None = None
        self.last_loss: Tensor | None = None

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in one step: detached float scalars, the same names every step."""
        self.last_loss = values["loss"]
        if self.first_loss is None:
            self.first_loss = values["loss"].clone()
        if not self.sums:
            self.sums = {name: value.clone() for name, value in values.items()}
        else:
            assert self.sums.keys() == values.keys(), f"{set(self.sums)} became {set(values)}"
            torch._foreach_add_(list(self.sums.values()), [values[name] for name in self.sums])
        self.steps += 1
        sound = self.sums["loss"].isfinite()
        self.sound = sound.long() if self.sound is None else self.sound + sound

    def means(self, accelerator: Accelerator) -> dict[str, float]:
        """Means over the steps since the last clearing and all processes; one synchronisation."""
        if not self.sums:
            return {}
        total = accelerator.reduce(torch.stack(list(self.sums.values())), "sum")
        return dict(zip(self.sums, (total / self.steps).tolist(), strict=True))

    def sound_steps(self, accelerator: Accelerator) -> int:
        """Steps since the last clearing before the first one whose loss was not finite."""
        sound = torch.zeros((), dtype=torch.long) if self.sound is None else self.sound
        return self.resumed + int(accelerator.gather(sound.to(accelerator.device)).min())

    def clear(self) -> None:
        """Start the next interval."""
        self.sums, self.steps, self.sound, self.resumed = {}, 0, None, 0

    def fold(self, accelerator: Accelerator) -> None:
        """Gather the sums of all processes on the main one, as a checkpoint stores them."""
        share = 1.0 if accelerator.is_main_process else 0.0
        self.sums = {k: accelerator.reduce(v, "sum") * share for k, v in self.sums.items()}
        if self.first_loss is not None:
            self.first_loss = accelerator.reduce(self.first_loss, "sum") * share

    def state_dict(self) -> dict[str, object]:
        """Sums, their count and the loss of the run's first step."""
        return {"sums": self.sums, "steps": self.steps, "first_loss": self.first_loss}

    def load_state_dict(self, state: dict[str, object], accelerator: Accelerator) -> None:
        """Continue; only the main process takes the sums."""
        share = 1.0 if accelerator.is_main_process else 0.0
        sums = state["sums"]
        assert isinstance(sums, dict)
        self.sums = {k: v.to(accelerator.device) * share for k, v in sums.items()}
        self.steps = self.resumed = int(str(state["steps"]))
        first = state["first_loss"]
        if isinstance(first, Tensor):
            self.first_loss = first.to(accelerator.device) * share


TIMING = ("images_per_second", "seconds")  # the fields that two equal runs do not share


def drop_lines_after(path: Path, step: int) -> None:
    """Cut a log back to the lines of the first ``step`` steps; a torn last line goes too."""
    if not path.exists():
        return
    with durable.explained(path, "checkpoints are whole"):
        lines = path.read_text(encoding="utf8", errors="replace").splitlines()
    kept = [f"{line}\n" for line in lines if _step_of(line) <= step]
    durable.replace_file(path, "".join(kept).encode(), "checkpoints are whole")


def lines_of(path: Path, step: int | None = None) -> list[dict[str, Any]]:
    """The lines of a log about the interval that ends at a step, or its weights; None: all."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf8", errors="replace").splitlines()
    found = [json.loads(line) for line in lines if _step_of(line) < math.inf]
    return [line for line in found if step in (None, line["step"])]


def _step_of(line: str) -> float:
    """The step of a line; beyond all steps for one that is torn or not ours."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


class RunLog:
    """The log of one run. Does nothing but on the main process.

    Args:
        out: the run folder.
        settings: length of the run and images a step.
        start: steps already done.
        accelerator: tells the main process and carries the trackers.
        bar: that is shown meanwhile.
    """

    def __init__(
        self, out: Path, settings: Training, *, start: int, accelerator: Accelerator, bar: Bar
    ) -> None:
        self.path, self.accelerator = out / LOG, accelerator
        self.start, self.total = start, settings.steps
        self.batch_size, self.bar = settings.batch_size, bar
        self.began = self.marked = time.monotonic()
        self.marked_step = start

    def advance(self, step: int) -> None:
        """Move the bar to ``step`` steps done."""
        self.bar.move(step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line for the interval that ends with ``step`` steps done.

        Raises:
            InputError: if the disk is full or refuses.
        """
        if not self.accelerator.is_main_process:
            return
        timing = self._timing(step)
        with durable.explained(self.path, "checkpoints are whole"):
            self._append({"step": step, **values, **timing})
            self.accelerator.log({**values, **timing}, step=step)
        self._say(step, values, timing["images_per_second"])

    def note(self, step: int, figures: Mapping[str, float | str]) -> None:
        """Add a line about the weights after ``step`` steps, and say it.

        Args:
            step: steps done.
            figures: by name; trackers get the numbers, a "warning" is said on a line of its own.

        Raises:
            InputError: if the disk is full or refuses.
        """
        if not self.accelerator.is_main_process:
            return
        numbers = {name: value for name, value in figures.items() if not isinstance(value, str)}
        with durable.explained(self.path, "checkpoints are whole"):
            self._append({"step": step, **figures})
            self.accelerator.log(numbers, step=step)
        said = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        for line in filter(None, (said, figures.get("warning"))):
            say(f"step {step}/{self.total}  {line}")

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the time of what is done inside out of the speed in the next line."""
        began = time.monotonic()
        yield
        self.marked += time.monotonic() - began

    def _timing(self, step: int) -> dict[str, float]:
        now = time.monotonic()
        images = (step - self.marked_step) * self.batch_size
        speed = images / max(now - self.marked, 1e-9)
        self.marked, self.marked_step = now, step
        return {"images_per_second": round(speed, 2), "seconds": round(now - self.began, 3)}

    def _append(self, line: Mapping[str, object]) -> None:
        with self.path.open("a", encoding="utf8") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a checkpoint must never be newer than its log

    def _say(self, step: int, values: Mapping[str, float], speed: float) -> None:
        shown = [f"loss {values['loss']:.4f}", f"lr {values['lr']:.2e}", f"{speed:,.0f} images/s"]
        if self.bar.seen:
            self.bar.tell("  ".join(shown))
            return
        pace = (time.monotonic() - self.began) / max(step - self.start, 1)
        left = timedelta(seconds=round(pace * (self.total - step)))
        shown = [f"step {step}/{self.total}", *shown, f"{left} left"]
        say("  ".join(shown))


@contextmanager
def run_log(
    out: Path, settings: Training, *, start: int, accelerator: Accelerator
) -> Iterator[RunLog]:
    """The log of one run, cut back to the steps that are done, with a bar if someone is looking.

    Args:
        out: the run folder.
        settings: length of the run and images a step.
        start: steps already done; later lines of an earlier try are removed.
        accelerator: tells the main process and carries the trackers.

    Raises:
        InputError: if the disk is full or refuses.
    """
    main = accelerator.is_main_process
    if main:
        drop_lines_after(out / LOG, start)
    seen = main and sys.stdout.isatty()  # else lines go there
    with Bar("train", settings.steps, unit="steps", done=start, shown=seen) as bar:
        yield RunLog(out, settings, start=start, accelerator=accelerator, bar=bar)
