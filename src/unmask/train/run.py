"""The moving parts of one training run, how they are saved, and where a run goes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.lock import Lock
from unmask.machine import signals
from unmask.machine.processes import any_says, by_main, meet
from unmask.nn.block import recompute_blocks
from unmask.recipes.training import Training
from unmask.text import plain, say
from unmask.train.behind import has_own_memory, set_aside
from unmask.train.handover import handed_over
from unmask.train.log import Meter
from unmask.train.optim import EmaWeights, make_optimizer
from unmask.train.run_folder import CHECKPOINTS, SAMPLES
from unmask.train.state import (
    Checkpoint,
    checkpoint_path,
    clear_leftovers,
    fault,
    read_checkpoint,
    step_folders,
    write_checkpoint,
)

PARTS = ("model", "ema", "others", "optimizer", "rest")
"""What of a checkpoint a run takes over, part by part."""
Figures = Mapping[str, float | str]
"""What there is to say about the weights of a step; a "warning" is a sentence for a person."""

Look = Callable[[Path, int, bool], Figures | None]
"""Called with the folder for what it writes, the steps done, and whether averaged weights are in
place."""

Missing = Callable[[Path, int], bool]
"""Asked, with the run folder, whether the look after so many steps is still to be taken."""


class Preview(NamedTuple):
    """A look at what the weights can do, now and then; the training goes on as without it.

    Args:
        look: Function that looks; the figures that it returns go to the log.
        every: Steps between two looks; there is always one at the end.
        raw: Whether raw weights are looked at too where there are averaged ones.
        shared: Whether all processes look, having shared the work; else the main one, while others
            wait.
        optional: Whether it may be left out: where it costs too much time (training.preview_share)
            or memory, or where the training is to stop. The last one is left out for memory only.
        missing: Tells a continued run whether its last look was taken; None means that it was.
        place: Folder in the run folder that the look writes into; it is made before.
    """

    look: Look
    every: int = 0
    raw: bool = True
    shared: bool = False
    optional: bool = False
    missing: Missing | None = None
    place: str = SAMPLES


class Objective(Protocol):
    """What the loop trains, an ``nn.Module``: ``forward(batch) -> dict[str, Tensor]``.

    "loss" is differentiable; every entry is weighted so that its sum over the micro-batches of all
    processes is the figure of the step. An optional ``after_step(step, generator)`` runs after each
    optimiser step, the same on every process; an optional ``make_optimizer(settings)`` gives
    another optimiser than AdamW over all that is trainable.
    """

    averaged: nn.Module
    """What is averaged and saved as the model; the rest goes into the training state."""


def averaged_of(objective: nn.Module) -> nn.Module:
    """What is averaged and saved of an objective, see :class:`Objective`."""
    averaged = objective.averaged
    assert isinstance(averaged, nn.Module), "every objective says what is averaged"
    return averaged


class Run:
    """One run: network, optimiser, average, meter and folder.

    Args:
        objective: an ``nn.Module`` that keeps :class:`Objective`.
        settings: the training options.
        out: the run folder.
        config: stored in every checkpoint.
        accelerator: device, precision and processes.
        lock: of the folder, where this process holds it.
    """

    def __init__(
        self,
        objective: nn.Module,
        settings: Training,
        *,
        out: Path,
        config: Mapping[str, object],
        accelerator: Accelerator,
        lock: Lock | None = None,
    ) -> None:
        self.settings, self.out, self.config = settings, out, dict(config)
        self.accelerator, self.lock = accelerator, lock
        self.newest: Path | None = None  # the newest whole checkpoint
        self.writer = ThreadPoolExecutor(1)
        self.flight: Future[Path] | None = None  # a checkpoint that is being written
        self.broken: list[int] = []  # steps of checkpoints that were passed over
        self.unwrapped = objective.train()
        if settings.recompute:
            recompute_blocks(objective)
        self.averaged = averaged_of(objective)
        self.objective: nn.Module = accelerator.prepare_model(objective)
        own_optimizer = getattr(objective, "make_optimizer", partial(make_optimizer, objective))
        optimizer = own_optimizer(settings)
        self.optimizer: AcceleratedOptimizer = accelerator.prepare_optimizer(optimizer)
        self.ema = EmaWeights(self.averaged, settings.ema) if settings.ema else None
        self.meter = Meter()

    def after_step(self, step: int) -> None:
        """Let the objective act after optimiser step ``step`` (0-based), if it wants to."""
        hook = getattr(self.unwrapped, "after_step", None)
        if hook is not None:
            hook(step, keyed_generator(self.settings.seed, "after", step))

    def _others(self) -> dict[str, Tensor]:
        """State outside the averaged model, such as a discriminator; nothing that is frozen."""
        saved = {id(t) for t in self.averaged.state_dict(keep_vars=True).values()}
        saved |= {id(p) for p in self.unwrapped.parameters() if not p.requires_grad}
        state = self.unwrapped.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in state.items() if id(t) not in saved}

    def save(self, step: int, *, behind: bool = False) -> Path:
        """Write the checkpoint after ``step`` steps; the main process does, the others wait.

        Args:
            step: optimiser steps done.
            behind: whether the training may go on meanwhile, which it does where the device leaves
                the machine free and its memory holds a copy; :meth:`settle` waits for the rest.

        Returns:
            The folder, which counts once it is there.

        Raises:
            InputError: if the disk is full or refuses, or another process has taken the folder;
                earlier checkpoints are whole. Of a checkpoint behind, the next call raises it.
        """
        folder = checkpoint_path(self.out / CHECKPOINTS, step)
        with signals.saving():
            self.settle()
            self.meter.fold(self.accelerator)
            if self.accelerator.is_main_process:
                checkpoint, aside = self._capture(step), None
                if behind and has_own_memory(self.accelerator.device):
                    aside = set_aside(checkpoint)
                if aside is not None:
                    self.flight = self.writer.submit(self._write, aside, tuple(self.broken))
                else:
                    self.newest = self._write(checkpoint, self.broken)
            else:
                self.newest = folder
            meet()
        self.broken = [broken for broken in self.broken if broken > step]
        return folder

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if one is.

        Raises:
            InputError: see :meth:`save`.
        """
        flight, self.flight = self.flight, None
        if flight is not None:
            self.newest = flight.result()

    def _write(self, checkpoint: Checkpoint, broken: Collection[int]) -> Path:
        settings = self.settings
        if self.lock is not None:
            self.lock.check()
        return write_checkpoint(
            self.out / CHECKPOINTS,
            checkpoint,
            keep=settings.keep,
            regular=settings.save_every,
            lasting=settings.keep_every,
            broken=broken,
        )

    def _capture(self, step: int) -> Checkpoint:
        scaler = self.accelerator.scaler
        weights = {"model": self.averaged.state_dict()}
        if self.ema:
            weights["ema"] = self.ema.state_dict()
        state: dict[str, object] = {
            "optimizer": self.optimizer.state_dict(),
            "scaler": scaler.state_dict() if scaler else None,
            "ema_updates": self.ema.updates if self.ema else 0,
            "others": self._others(),
            "meter": self.meter.state_dict(),
            "threads": torch.get_num_threads(),
        }
        return Checkpoint(step, weights, state, self.config)

    def parts(self, checkpoint: Checkpoint) -> dict[str, object]:
        """What of a checkpoint is needed, in the order in which :meth:`take` wants it.

        Raises:
            Exception: of any kind, if the checkpoint is of another kind of run.
        """
        state, weights = checkpoint.state, checkpoint.weights
        average = self.ema and {"weights": weights["ema"], "updates": state["ema_updates"]}
        return {
            "model": weights["model"],
            "ema": average,
            "others": state["others"],
            "optimizer": state["optimizer"],
            "rest": {"scaler": state["scaler"], "meter": state["meter"]},
        }

    def take(self, name: str, part: Any) -> None:
        """Continue from a part of a checkpoint.

        Raises:
            Exception: of any kind, if it is of another network; the run is then in no state to go
                on from.
        """
        if name == "model":
            self.averaged.load_state_dict(part)
        elif name == "ema" and self.ema:
            self.ema.load_state_dict(part["weights"], updates=int(str(part["updates"])))
        elif name == "others":
            unknown = self.unwrapped.load_state_dict(part, strict=False).unexpected_keys
            if unknown:
                raise InputError(f"it holds state that the objective lacks: {unknown}")
        elif name == "optimizer":
            self.optimizer.load_state_dict(part)
        elif name == "rest":
            if self.accelerator.scaler and part["scaler"]:
                self.accelerator.scaler.load_state_dict(part["scaler"])
            self.meter.load_state_dict(part["meter"], self.accelerator)

    @torch.no_grad()
    def preview(self, preview: Preview, step: int) -> dict[str, float | str]:
        """Look at averaged weights, and at raw ones where they are wanted or there are no others.

        Returns:
            What the looks found; nothing on processes that do not look.
        """
        found: dict[str, float | str] = {}
        if preview.shared or self.accelerator.is_main_process:
            folder = self.out / preview.place
            with durable.explained(folder, "checkpoints are whole"):
                folder.mkdir(parents=True, exist_ok=True)
            self.unwrapped.eval()
            try:
                if self.ema:
                    with self.ema.swapped_in():
                        found |= preview.look(folder, step, True) or {}
                if preview.raw or not self.ema:
                    found = {**(preview.look(folder, step, False) or {}), **found}
            finally:
                self.unwrapped.train()
        return found


def resume(run: Run, *, from_scratch: bool = False) -> int:
    """Continue a run from its newest whole checkpoint.

    The main process alone hashes each once and reads it; the others get it from there, so that
    only the main process's folder matters.

    Args:
        run: as it starts.
        from_scratch: where there are checkpoints and none of them is whole, set them aside and
            start anew.

    Returns:
        Steps already done; 0 without a checkpoint.

    Raises:
        InputError: there are checkpoints and none of them is whole.
    """
    directory, passed = run.out / CHECKPOINTS, dict[int, str]()
    by_main(lambda: clear_leftovers(directory))
    read = 0
    while True:
        step, faults = by_main(lambda: _newest_whole(directory, passed.keys()))
        passed.update(faults)
        _report(run, directory, faults)
        if step is None:
            break
        folder, read = checkpoint_path(directory, step), read + 1
        unfit = any_says(_restored(run, folder))
        if not unfit:
            run.newest, run.broken = folder, list(passed)
            return step
        passed[step] = unfit
        _report(run, directory, {step: unfit})
    if passed and (read or not from_scratch):
        raise InputError(_none_whole(directory, passed))
    if passed:
        by_main(lambda: _set_aside(directory))
    return 0


def _newest_whole(directory: Path, but: Collection[int]) -> tuple[int | None, dict[int, str]]:
    """The newest step whose checkpoint is whole, and what is wrong with newer ones."""
    faults: dict[int, str] = {}
    for step in sorted(step_folders(directory).keys() - set(but), reverse=True):
        if not (why := fault(checkpoint_path(directory, step))):
            return step, faults
        faults[step] = why
    return None, faults


def _report(run: Run, directory: Path, faults: dict[int, str]) -> None:
    if run.accelerator.is_main_process:
        for step, why in faults.items():
            say(f"passing over {checkpoint_path(directory, step)}: {why}")


def _restored(run: Run, folder: Path) -> str:
    """Take a checkpoint over, which the main process reads; why it cannot be, "" if it is."""
    parts = dict[str, object]()

    def read() -> None:
        """What the main process does of it."""
        checkpoint = read_checkpoint(folder)
        parts.update(run.parts(checkpoint))
        _report_threads(run.out, checkpoint.state.get("threads"))

    unfit = by_main(lambda: _reason(read))
    for name in () if unfit else PARTS:
        part = handed_over(parts.pop(name, None))
        unfit = unfit or _reason(partial(run.take, name, part))
    return any_says(unfit)


def _reason(take: Callable[[], None]) -> str:
    """Why a checkpoint cannot be taken over, "" if that is done."""
    try:
        take()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a file made to deceive may break any reader
        reason = plain(error) if isinstance(error, InputError) else type(error).__name__
        return f"it cannot be continued from ({reason})"
    return ""


def _report_threads(out: Path, then: object) -> None:
    now = torch.get_num_threads()
    if isinstance(then, int) and then != now:
        say(
            f"{out} was trained with {then} thread{'s' if then > 1 else ''} and continues with "
            f"{now}: the same up to rounding, not to the bit"
        )


def _none_whole(directory: Path, passed: dict[int, str]) -> str:
    newest = max(passed)
    return (
        f"none of the {len(passed)} checkpoints in {directory} is whole (step {newest}: "
        f"{passed[newest]}); put back a copy, or start anew in another folder, or here with "
        "--from-scratch, which sets them aside"
    )


def _set_aside(directory: Path) -> None:
    with durable.explained(directory, "nothing was changed"):
        number = 1
        while (aside := directory.with_name(f"{directory.name}-damaged-{number}")).exists():
            number += 1
        durable.move(directory, aside)
    say(f"no checkpoint is whole; they are in {aside} now, and the run starts anew")
