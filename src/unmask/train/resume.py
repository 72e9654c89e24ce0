"""Where a run goes on: its newest whole checkpoint; what is passed over is said, not swallowed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import torch

from unmask.errors import InputError
from unmask.files import durable
from unmask.machine.processes import any_says, by_main
from unmask.text import plain, say
from unmask.train.run import Run
from unmask.train.run_folder import CHECKPOINTS
from unmask.train.state import (
    checkpoint_path,
    clear_leftovers,
    fault,
    read_checkpoint,
    step_folders,
)


def resume(run: Run, *, from_scratch: bool = False) -> int:
    """Continue a run from its newest whole checkpoint; each is hashed once, by the main process.

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
    """Take a checkpoint over; why it cannot be, "" if it is."""
    try:
        checkpoint = read_checkpoint(folder)
        run.restore(checkpoint)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a file made to deceive may break any reader
        reason = plain(error) if isinstance(error, InputError) else type(error).__name__
        return f"it cannot be continued from ({reason})"
    then, now = checkpoint.state.get("threads"), torch.get_num_threads()
    if isinstance(then, int) and then != now and run.accelerator.is_main_process:
        say(
            f"{run.out} was trained with {then} thread{'s' if then > 1 else ''} and continues with "
            f"{now}: the same up to rounding, not to the bit"
        )
    return ""


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
