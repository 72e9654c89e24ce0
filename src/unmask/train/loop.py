"""The training loop.

Step k reads batch k, seeds dropout from (seed, k) and applies the learning rate of k, so a run that
was killed continues bit for bit from its last complete checkpoint.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from unmask.draws import keyed_generator, keyed_seed, pins
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.lock import Lock, locked
from unmask.machine import signals
from unmask.machine.environment import check_arithmetic, check_launcher, plain_arguments
from unmask.machine.processes import by_main, failures_of_others, meet, without_accelerator
from unmask.memory import peak_memory
from unmask.recipes.training import Training
from unmask.text import say
from unmask.train.agreement import agreed
from unmask.train.conduct import Conduct
from unmask.train.handover import check_same
from unmask.train.log import hush_writers, run_log
from unmask.train.optim import EmaWeights, learning_rate, set_learning_rate
from unmask.train.run import Preview, Run, resume
from unmask.train.run_folder import TRACKER, check_run_folder, plain_config, write_recipe

MicroBatches = Sequence[object]
"""This process's micro-batches of one step, each a nest of tensors."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What became of a run.

    Args:
        step: Optimiser steps done, earlier tries included.
        resumed_from: Steps that earlier tries had done.
        first_loss: Loss of the run's first step.
        last_loss: Loss of the run's last step; NaN if this call did none.
        seconds: Wall time of this call.
        images: Images seen by this call, over all processes.
        peak_memory: Largest resident memory of this process, bytes.
        checkpoint: The newest complete one.
        asked: Optimiser steps of the whole run, as this call was told.
    """

    step: int
    resumed_from: int
    first_loss: float
    last_loss: float
    seconds: float
    images: int
    peak_memory: int
    checkpoint: Path | None
    asked: int

    @property
    def line(self) -> str:
        """Sentence for a person."""
        if self.resumed_from < self.asked:
            return f"loss {self.last_loss:.4f} after {self.step} steps, {self.seconds:.0f} s"
        if self.resumed_from == self.asked:
            return (
                f"the run is complete: {self.step} of {self.asked} steps; raise --training.steps "
                "to go on"
            )
        return (
            f"the run has done {self.step} steps already, more than --training.steps {self.asked}; "
            "nothing was changed"
        )


class Ways(TypedDict, total=False):
    """How a training runs, whatever it trains."""

    num_workers: int
    """Processes that prepare batches; 0, the default, prepares them in the one that trains."""
    from_scratch: bool
    """Start anew where checkpoints exist and none is whole; they are set aside."""
    accelerator: Accelerator | None
    """Devices and trackers; None takes the launcher's, with the trackers of the settings."""


def train(
    objective: nn.Module,
    batches: Dataset,
    *,
    settings: Training,
    out: Path,
    config: Mapping[str, object],
    previews: Sequence[Preview] = (),
    **ways: Unpack[Ways],
) -> TrainResult:
    """Train, continuing by itself what an earlier call with the same configuration left in ``out``.

    One process at a time trains in a folder. SIGTERM and SIGINT end the training after the step in
    flight, which is saved (:mod:`unmask.machine.signals`).

    Args:
        objective: keeps :class:`unmask.train.run.Objective`.
        batches: ``batches[k]`` is the list of this process's micro-batches of step k (0-based), a
            pure function of (seed, k).
        settings: optimiser, schedule, precision, frequencies.
        out: the run folder.
        config: resolved configuration, stored and compared when the run is continued; JSON values.
        previews: what looks at the weights now and then, such as sheets of samples.
        ways: see :class:`Ways`.

    Raises:
        InputError: if ``out`` holds something else or is in use, none of its checkpoints is whole,
            the disk is full, the loss is not finite, or another process of the launcher ended.
        Stopped: SIGTERM or SIGINT came.
    """
    stored, began = plain_config(config), time.monotonic()
    accelerator = ways.get("accelerator")
    check_same(stored)
    by_main(lambda: check_run_folder(out, stored, tell=say))
    if accelerator is not None:
        check_arithmetic(accelerator)
    with signals.listening(), failures_of_others(), ExitStack() as held:
        lock = _lock(out, held)
        accelerator = accelerator or held.enter_context(_tracked(settings, out))
        run = Run(objective, settings, out=out, config=stored, accelerator=accelerator, lock=lock)
        held.callback(run.settle)  # before the folder's lock is given up
        start = resume(run, from_scratch=ways.get("from_scratch", False))
        if start <= settings.steps:
            by_main(lambda: write_recipe(out, stored))
            workers = ways.get("num_workers", 0)
            _carry_out(run, batches, start, previews=previews, num_workers=workers)
        return summary(run, start, time.monotonic() - began)


def _lock(out: Path, held: ExitStack) -> Lock | None:
    """The lock of the folder, in the main process until ``held`` ends; None in the others."""
    locks: list[Lock] = []
    by_main(lambda: locks.append(held.enter_context(locked(out, "run"))))
    return locks[0] if locks else None


@contextmanager
def _tracked(settings: Training, out: Path) -> Iterator[Accelerator]:
    """An accelerator whose trackers finish when the run ends."""
    accelerator = make_accelerator(settings, out)
    try:
        yield accelerator
    finally:
        for tracker in accelerator.trackers:
            with suppress(OSError):  # what the disk refused has been said by the log
                tracker.finish()


def _carry_out(
    run: Run, batches: Dataset, start: int, *, previews: Sequence[Preview], num_workers: int
) -> None:
    """All steps from ``start`` on."""
    accelerator, settings = run.accelerator, run.settings
    with (
        run_log(run.out, settings, start=start, accelerator=accelerator) as log,
        agreed(accelerator.num_processes) as agreement,
    ):
        conduct = Conduct(run, log, previews, agreement)
        conduct.begin(start)
        ahead = read_ahead(batches, range(start, settings.steps), num_workers, accelerator)
        with signals.postponed(), closing(ahead) as steps:
            for step, micro_batches in enumerate(steps, start):
                set_seed(keyed_seed(settings.seed, "step", step, accelerator.process_index) % 2**32)
                values = optimise_step(
                    run.objective,
                    micro_batches,
                    optimizer=run.optimizer,
                    settings=settings,
                    step=step,
                    accelerator=accelerator,
                    ema=run.ema,
                )
                run.after_step(step)
                run.meter.add(values)
                conduct.after(step + 1)


def optimise_step(
    objective: nn.Module,
    micro_batches: MicroBatches,
    *,
    optimizer: Optimizer,
    settings: Training,
    step: int,
    accelerator: Accelerator,
    ema: EmaWeights | None = None,
) -> dict[str, Tensor]:
    """One optimiser step: learning rate, gradients, clipping, AdamW, average, in this order.

    maskgit-pytorch, ``train.py``. Nothing here waits for the device, unless fp16 scaling does.

    Args:
        objective: see :class:`unmask.train.run.Objective`, wrapped for its processes or not.
        micro_batches: of this process, on its device.
        optimizer: over all trainable parameters.
        settings: schedule and clipping.
        step: k, 0-based.
        accelerator: scaling, synchronisation, clipping.
        ema: updated after the weights.

    Returns:
        What the objective reported, summed over the micro-batches, detached; with clipping also
        "grad_norm" before it, divided by the number of processes.
    """
    set_learning_rate(optimizer, learning_rate(settings, step))
    optimizer.zero_grad()
    values = accumulate_gradients(objective, micro_batches, accelerator)
    if settings.clip_grad_norm is not None:
        norm = accelerator.clip_grad_norm_(objective.parameters(), settings.clip_grad_norm)
        values["grad_norm"] = norm.detach() / accelerator.num_processes
    optimizer.step()
    if ema:
        ema.update()
    return values


def accumulate_gradients(
    objective: nn.Module, micro_batches: MicroBatches, accelerator: Accelerator
) -> dict[str, Tensor]:
    """Forward and backward of every micro-batch; processes exchange gradients at the last one.

    Returns:
        The objective's figures, summed, detached float32.
    """
    sums: dict[str, Tensor] = {}
    last = len(micro_batches) - 1
    for index, batch in enumerate(micro_batches):
        with nullcontext() if index == last else accelerator.no_sync(objective):
            values: dict[str, Tensor] = objective(batch)
            # processes average their gradients where the objective is their sum
            accelerator.backward(values["loss"] * accelerator.num_processes)
        for name, value in values.items():
            figure = value.detach().float()
            sums[name] = sums[name] + figure if name in sums else figure
    return sums


def make_accelerator(settings: Training, out: Path) -> Accelerator:
    """Devices and processes as the launcher says, figures tracked in ``out`` or by a service.

    Raises:
        InputError: if the device or an earlier call in this process rules out the precision, or no
            such tracker exists.
    """
    check_launcher()
    try:
        accelerator = Accelerator(
            cpu=without_accelerator(),
            mixed_precision=settings.precision,
            log_with=None if settings.tracker == "none" else settings.tracker,
            project_dir=out,
            **plain_arguments(),
        )
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"training.precision={settings.precision!r} with training.tracker="
            f"{settings.tracker!r} is not possible here: {reason}"
        ) from error
    hush_writers()
    with durable.explained(out / TRACKER, "nothing was trained"):
        accelerator.init_trackers(TRACKER)
    meet()  # a tracker may ask the network
    check_arithmetic(accelerator)
    return accelerator


def read_ahead(
    batches: Dataset, steps: range, num_workers: int, accelerator: Accelerator
) -> Generator[MicroBatches]:
    """Batches of ``steps`` in order, prepared ahead by workers, on the accelerator's device."""
    pinned = pins(accelerator.device.type)
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        worker_init_fn=_leave_signals_to_the_main_one,
        pin_memory=pinned,
        generator=keyed_generator("loader"),  # the loader draws a seed that nothing here uses
    )
    prepared: Any = iter(loader)
    try:
        for batch in prepared:
            yield send_to_device(batch, accelerator.device, non_blocking=pinned)
    finally:
        if num_workers:  # now, and not when the last traceback that holds them is forgotten
            prepared._shutdown_workers()


def _as_it_is(batch: MicroBatches) -> MicroBatches:
    return batch


def _leave_signals_to_the_main_one(worker: int) -> None:
    """Terminals and clusters signal workers too, and the step in flight needs its batch."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def summary(run: Run, start: int, seconds: float) -> TrainResult:
    """What the run came to, its losses summed over the processes."""
    missing = torch.full((), math.nan, device=run.accelerator.device)
    ends = [run.meter.first_loss, run.meter.last_loss]
    losses = torch.stack([missing if loss is None else loss for loss in ends])
    first, last = run.accelerator.reduce(losses, "sum").tolist()
    done = max(start, run.settings.steps)
    return TrainResult(
        step=done,
        resumed_from=start,
        first_loss=first,
        last_loss=last,
        seconds=seconds,
        images=(done - start) * run.settings.batch_size,
        peak_memory=peak_memory(),
        checkpoint=run.newest,
        asked=run.settings.steps,
    )
