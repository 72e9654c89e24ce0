"""What happens between two steps: log, save, look at the weights, and stop where that is asked."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch

from unmask.errors import InputError
from unmask.machine import signals
from unmask.machine.processes import by_main, meet
from unmask.train.agreement import Agreement, Wish
from unmask.train.log import RunLog
from unmask.train.optim import learning_rate
from unmask.train.run import Preview, Run

SAVING = 0.02
"""Largest share of the time that the clock's saves take."""
Clock = Callable[[], float]
"""Seconds since some moment."""


class SavePace:
    """When a checkpoint is due by the clock.

    Args:
        minutes: between two; more where a save takes longer than :data:`SAVING` of that. 0 means
            never.
        clock: of this process.
    """

    def __init__(self, minutes: float, clock: Clock = time.monotonic) -> None:
        self.minutes, self.clock, self.cost = minutes, clock, 0.0
        self.saved_at, self.asked = clock(), False

    @contextmanager
    def saved(self) -> Iterator[None]:
        """Time a save; the next one is counted from its end."""
        began = self.clock()
        yield
        self.saved_at, self.asked = self.clock(), False
        self.cost = self.saved_at - began

    def asks(self) -> bool:
        """Whether a checkpoint is due now; True once, until it is saved."""
        due = not self.asked and self._waited(60 * self.minutes)
        self.asked |= due
        return due

    def worthwhile(self) -> bool:
        """Whether a save before something that may fail costs little enough."""
        return self._waited(0)

    def _waited(self, seconds: float) -> bool:
        longest = max(seconds, self.cost / SAVING)
        return self.minutes > 0 and self.clock() - self.saved_at >= longest


class LookPace:
    """Whether there is time for a look that may be left out.

    Args:
        share: largest share of the time since the beginning; from 1 on there always is.
        clock: of this process.
    """

    def __init__(self, share: float, clock: Clock = time.monotonic) -> None:
        self.share, self.clock, self.began = share, clock, clock()
        self.spent = self.last = 0.0

    def allows(self) -> bool:
        """Whether another one, at the price of the last, keeps within the share."""
        if self.share >= 1:
            return True
        return self.spent + self.last <= self.share * (self.clock() - self.began)

    @contextmanager
    def looked(self) -> Iterator[None]:
        """Time a look."""
        began = self.clock()
        yield
        self.last = self.clock() - began
        self.spent += self.last


def due(done: int, every: int, total: int) -> bool:
    """Whether something done every so many steps, and at the end, is due after ``done`` steps."""
    return done == total or (every > 0 and done % every == 0)


class Conduct:
    """The course of one run between its steps.

    A look comes after the save of its step, so that whatever it costs or breaks is not lost; before
    a look without one a save is made if saving costs little (:meth:`SavePace.worthwhile`).

    Args:
        run: what is saved and looked at.
        log: of the same run.
        previews: see :func:`unmask.train.loop.train`.
        agreement: with the other processes.
    """

    def __init__(
        self, run: Run, log: RunLog, previews: Sequence[Preview], agreement: Agreement
    ) -> None:
        self.run, self.log, self.previews, self.agreement = run, log, previews, agreement
        self.settings, self.main = run.settings, run.accelerator.is_main_process
        self.saves = SavePace(self.settings.save_minutes)
        self.looks = LookPace(self.settings.preview_share)
        self.saved = -1  # the step of the newest checkpoint of this process

    def begin(self, start: int) -> None:
        """Take the looks of step ``start`` that the end of an earlier process has prevented."""
        if start:
            self._look(start, [p for p in self._due(start) if self._is_missing(p, start)])

    def _is_missing(self, preview: Preview, step: int) -> bool:
        if preview.missing is None or (preview.optional and step < self.settings.steps):
            return False
        missing = preview.missing
        return by_main(lambda: missing(self.run.out, step))

    def after(self, done: int) -> None:
        """Log, save, stop and look where that is due after ``done`` steps.

        Raises:
            InputError: the loss is not finite, or the disk is full or refuses.
            Stopped: all processes have saved this step and are to end.
        """
        settings = self.settings
        self.log.advance(done)
        if due(done, settings.log_every, settings.steps):
            rate = learning_rate(settings, done - 1)
            self.log.write(done, {**finite_means(self.run, done), "lr": rate})
            self.run.meter.clear()
        wish = self.agreement.exchange(Wish(signals.arrived(), self.main and self.saves.asks()))
        regular = due(done, settings.save_every, settings.steps)
        lasting = settings.keep_every > 0 and done % settings.keep_every == 0
        looks = self._due(done)
        if regular or lasting or wish.save or wish.stop:
            self._save(done, behind=not (looks or wish.stop or done == settings.steps))
        if wish.stop:
            raise signals.Stopped(wish.stop, self._farewell(wish.stop, done))
        try:
            self._look(done, looks)
        except signals.Stopped as end:
            if self.saved != done:
                self._save(done)
            raise signals.Stopped(end.number, self._farewell(end.number, done)) from None

    def _due(self, done: int) -> list[Preview]:
        return [p for p in self.previews if due(done, p.every, self.settings.steps)]

    def _save(self, done: int, *, behind: bool = False) -> None:
        finite_means(self.run, done)
        with self.saves.saved():
            self.run.save(done, behind=behind)
        self.saved = done

    def _farewell(self, number: int, done: int) -> str:
        if not self.main:
            return ""
        return (
            f"{signals.name_of(number)}: stopped after step {done} of {self.settings.steps}, which "
            f"is saved in {self.run.newest}; start again with the same words to go on"
        )

    def _look(self, done: int, previews: Sequence[Preview]) -> None:
        """Save if that is worthwhile, look, and log what was found."""
        if not previews:
            return
        with signals.saving():
            self.run.settle()
        if done not in (self.saved, self.settings.steps) and by_main(self.saves.worthwhile):
            self._save(done)
        found: dict[str, float | str] = {}
        with self.log.paused():  # images a second are those of the training
            for preview in previews:
                found |= self._take(preview, done)
            if found:
                self.log.note(done, found)
            meet()  # not in the next step's gradients, whose patience has an end

    def _take(self, preview: Preview, done: int) -> dict[str, float | str]:
        """One look; nothing where it is left out or broken off.

        Raises:
            Stopped: alone, a process breaks off any look, and takes it again when it is continued.
        """
        if not preview.optional:
            with signals.released() if self.agreement.alone else nullcontext():
                return self.run.preview(preview, done)
        if not self.main or (done < self.settings.steps and not self.looks.allows()):
            return {}
        try:
            with self.looks.looked(), signals.released():
                return self.run.preview(preview, done)
        except signals.Stopped:
            if self.agreement.alone:
                raise
            return {}  # after the next step all processes know
        except (MemoryError, torch.OutOfMemoryError):
            few = "fewer with --training.preview-images, none with 0"
            return {"warning": f"no sheet of samples: they do not fit into memory; {few}"}


def finite_means(run: Run, done: int) -> dict[str, float]:
    """Means since the last log line.

    Raises:
        InputError: if the loss is not a finite number.
    """
    means = run.meter.means(run.accelerator)
    if math.isfinite(means.get("loss", 0.0)):
        return means
    bad = done - run.meter.steps + run.meter.sound_steps(run.accelerator)
    raise InputError(
        f"the loss is {means['loss']} in step {bad + 1}, on batch {bad} of seed "
        f"{run.settings.seed}; the last good checkpoint is {run.newest or 'none'}; try a lower "
        f"training.lr (now {run.settings.lr:g}), a longer training.warmup_steps, "
        "training.clip_grad_norm=1, or precision bf16 in place of fp16"
    )
