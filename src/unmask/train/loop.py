"""The training loop.

Step k reads batch k, seeds dropout from (seed, k) and applies the learning rate of k, so a run that
was killed continues bit for bit from its last complete checkpoint.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device, set_seed
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from unmask.devices import find_accelerator
from unmask.draws import keyed_generator, keyed_seed
from unmask.errors import InputError
from unmask.train.ema import EmaWeights
from unmask.train.environment import check_arithmetic, check_launcher, plain_arguments
from unmask.train.log import RunLog
from unmask.train.optim import learning_rate, set_learning_rate
from unmask.train.processes import without_accelerator
from unmask.train.run import Preview, Run
from unmask.train.run_folder import CHECKPOINTS, check_run_folder, plain_config, write_recipe
from unmask.train.settings import Training
from unmask.train.state import latest

MicroBatches = Sequence[object]
"""This process's micro-batches of one step, each a nest of tensors."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to."""

    step: int
    """Optimiser steps done, earlier tries included."""
    resumed_from: int
    """Steps that earlier tries had done."""
    first_loss: float
    """Of the run's first step."""
    last_loss: float
    """Of its last step; NaN if this call did none."""
    seconds: float
    """Wall time of this call."""
    images: int
    """Images seen by this call, over all processes."""
    peak_memory: int
    """Largest resident memory of this process, bytes."""
    checkpoint: Path | None
    """The newest complete one."""


def train(
    objective: nn.Module,
    batches: Dataset,
    *,
    settings: Training,
    out: Path,
    config: Mapping[str, object],
    previews: Sequence[Preview] = (),
    num_workers: int = 0,
    accelerator: Accelerator | None = None,
) -> TrainResult:
    """Train, continuing by itself what an earlier call with the same configuration left in ``out``.

    Args:
        objective: keeps :class:`unmask.train.run.Objective`.
        batches: ``batches[k]`` is the list of this process's micro-batches of step k (0-based), a
            pure function of (seed, k).
        settings: optimiser, schedule, precision, frequencies.
        out: the run folder.
        config: resolved configuration, stored and compared when the run is continued; JSON values.
        previews: what looks at the weights now and then, such as sheets of samples.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        accelerator: devices and trackers; by default what the launcher says, with TensorBoard.

    Raises:
        InputError: if ``out`` holds something else, the disk is full, or the loss is not finite.
    """
    stored, began = plain_config(config), time.monotonic()
    check_run_folder(out, stored)
    trackers_are_ours = accelerator is None
    accelerator = accelerator or make_accelerator(settings, out)
    check_arithmetic(accelerator)
    accelerator.wait_for_everyone()  # all have looked before one writes
    if accelerator.is_main_process:
        write_recipe(out, stored)
    run = Run(objective, settings, out=out, config=stored, accelerator=accelerator)
    start = run.resume()
    steps = read_ahead(batches, range(start, settings.steps), num_workers, accelerator)
    with RunLog(out, settings, start=start, accelerator=accelerator) as log:
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
            keep_record(run, log, step + 1, previews)
    if trackers_are_ours:
        for tracker in accelerator.trackers:
            tracker.finish()
    return summary(run, start, time.monotonic() - began)


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
    accelerator.init_trackers("tracker")
    return accelerator


def read_ahead(
    batches: Dataset, steps: range, num_workers: int, accelerator: Accelerator
) -> Iterator[MicroBatches]:
    """Batches of ``steps`` in order, prepared ahead by workers, on the accelerator's device."""
    here, current = accelerator.device.type, find_accelerator()
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=steps,
        num_workers=num_workers,
        collate_fn=_as_it_is,
        pin_memory=current is not None and current.type == here,
        generator=keyed_generator("loader"),  # the loader draws a seed that nothing here uses
    )
    for batch in loader:
        yield send_to_device(batch, accelerator.device, non_blocking=True)


def _as_it_is(batch: MicroBatches) -> MicroBatches:
    return batch


def due(done: int, every: int, total: int) -> bool:
    """Whether something done every so many steps, and at the end, is due after ``done`` steps."""
    return done == total or (every > 0 and done % every == 0)


def keep_record(run: Run, log: RunLog, done: int, previews: Sequence[Preview]) -> None:
    """Log, save and look at the weights where that is due after ``done`` steps."""
    settings = run.settings
    log.advance(done)
    if due(done, settings.log_every, settings.steps):
        rate = learning_rate(settings, done - 1)
        log.write(done, {**finite_means(run, done), "lr": rate})
        run.meter.clear()
    found: dict[str, float | str] = {}
    began = time.monotonic()
    for preview in previews:  # before the save: a checkpoint's own preview is never missing
        if due(done, preview.every, settings.steps):
            found |= run.preview(preview, done)
    if found:
        log.note(done, found)
    log.marked += time.monotonic() - began  # images a second are those of the training
    if due(done, settings.save_every, settings.steps):
        finite_means(run, done)
        run.save(done)


def finite_means(run: Run, done: int) -> dict[str, float]:
    """Means since the last log line.

    Raises:
        InputError: if the loss is not a finite number.
    """
    means = run.meter.means(run.accelerator)
    if math.isfinite(means.get("loss", 0.0)):
        return means
    good = latest(run.out / CHECKPOINTS)
    bad = done - run.meter.steps + run.meter.sound_steps(run.accelerator)
    raise InputError(
        f"the loss is {means['loss']} in step {bad + 1}, on batch {bad} of seed "
        f"{run.settings.seed}; the last good checkpoint is {good or 'none'}; try a lower "
        f"training.lr (now {run.settings.lr:g}), a longer training.warmup_steps, "
        "training.clip_grad_norm=1, or precision bf16 in place of fp16"
    )


def summary(run: Run, start: int, seconds: float) -> TrainResult:
    """What the run came to, its losses summed over the processes."""
    missing = torch.full((), math.nan, device=run.accelerator.device)
    ends = [run.meter.first_loss, run.meter.last_loss]
    losses = torch.stack([missing if loss is None else loss for loss in ends])
    first, last = run.accelerator.reduce(losses, "sum").tolist()
    done = max(start, run.settings.steps)
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux
    return TrainResult(
        step=done,
        resumed_from=start,
        first_loss=first,
        last_loss=last,
        seconds=seconds,
        images=(done - start) * run.settings.batch_size,
        peak_memory=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        checkpoint=latest(run.out / CHECKPOINTS),
    )
