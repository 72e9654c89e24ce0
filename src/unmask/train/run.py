"""The moving parts of one training run, and how they are saved and continued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from torch import Tensor, nn

from unmask.draws import keyed_generator
from unmask.nn.recompute import recompute_blocks
from unmask.train.ema import EmaWeights
from unmask.train.meter import Meter
from unmask.train.optim import make_optimizer
from unmask.train.run_folder import CHECKPOINTS
from unmask.train.settings import Training
from unmask.train.state import Checkpoint, latest, read_checkpoint, write_checkpoint

Figures = Mapping[str, float | str]
"""What there is to say about the weights of a step; a "warning" is a sentence for a person."""

Look = Callable[[Path, int, bool], Figures | None]
"""Called with the samples folder, the steps done, and whether averaged weights are in place."""


class Preview(NamedTuple):
    """A look at what the weights can do, now and then; the training goes on as without it."""

    look: Look
    """Its figures go to the log."""
    every: int = 0
    """Steps between two looks; there is always one at the end."""
    raw: bool = True
    """Whether raw weights are looked at too where there are averaged ones."""
    shared: bool = False
    """Whether all processes look, having shared the work; else the main one, while others wait."""


class Objective(Protocol):
    """What the loop trains, an ``nn.Module``: ``forward(batch) -> dict[str, Tensor]``.

    "loss" is differentiable; every entry is weighted so that its sum over the micro-batches of all
    processes is the figure of the step. An optional ``after_step(step, generator)`` runs after each
    optimiser step, the same on every process; an optional ``make_optimizer(settings)`` gives
    another optimiser than AdamW over all that is trainable.
    """

    averaged: nn.Module
    """What is averaged and saved as the model; the rest goes into the training state."""


class Run:
    """One run: network, optimiser, average, meter and folder.

    Args:
        objective: an ``nn.Module`` that keeps :class:`Objective`.
        settings: the training options.
        out: the run folder.
        config: stored in every checkpoint.
        accelerator: device, precision and processes.
    """

    def __init__(
        self,
        objective: nn.Module,
        settings: Training,
        *,
        out: Path,
        config: Mapping[str, object],
        accelerator: Accelerator,
    ) -> None:
        self.settings, self.out, self.config = settings, out, dict(config)
        self.accelerator = accelerator
        self.own = objective.train()
        if settings.recompute:
            recompute_blocks(objective)
        self.averaged = cast(Objective, objective).averaged
        self.objective: nn.Module = accelerator.prepare_model(objective)
        own_optimizer = getattr(objective, "make_optimizer", partial(make_optimizer, objective))
        optimizer = own_optimizer(settings)
        self.optimizer: AcceleratedOptimizer = accelerator.prepare_optimizer(optimizer)
        self.ema = EmaWeights(self.averaged, settings.ema) if settings.ema else None
        self.meter = Meter()

    def after_step(self, step: int) -> None:
        """Let the objective act after optimiser step ``step`` (0-based), if it wants to."""
        hook = getattr(self.own, "after_step", None)
        if hook is not None:
            hook(step, keyed_generator(self.settings.seed, "after", step))

    def _others(self) -> dict[str, Tensor]:
        """State outside the averaged model, such as a discriminator; nothing that is frozen."""
        saved = {id(t) for t in self.averaged.state_dict(keep_vars=True).values()}
        saved |= {id(p) for p in self.own.parameters() if not p.requires_grad}
        state = self.own.state_dict(keep_vars=True)
        return {name: t.detach() for name, t in state.items() if id(t) not in saved}

    def save(self, step: int) -> Path | None:
        """Write the checkpoint after ``step`` steps; the main process does, the others wait.

        Returns:
            The folder, None on other processes.

        Raises:
            InputError: if the disk is full or refuses; earlier checkpoints are whole.
        """
        self.meter.fold(self.accelerator)
        folder = None
        if self.accelerator.is_main_process:
            folder = write_checkpoint(
                self.out / CHECKPOINTS, self._capture(step), keep=self.settings.keep
            )
        self.accelerator.wait_for_everyone()
        return folder

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
        }
        return Checkpoint(step, weights, state, self.config)

    def resume(self) -> int:
        """Continue from the newest complete checkpoint.

        Returns:
            Steps already done, 0 without a checkpoint.
        """
        folder = latest(self.out / CHECKPOINTS)
        if folder is None:
            return 0
        checkpoint = read_checkpoint(folder)
        state = cast("dict[str, dict]", checkpoint.state)
        self.averaged.load_state_dict(checkpoint.weights["model"])
        if self.ema:
            updates = int(str(checkpoint.state["ema_updates"]))
            self.ema.load_state_dict(checkpoint.weights["ema"], updates=updates)
        unknown = self.own.load_state_dict(state["others"], strict=False).unexpected_keys
        assert not unknown, f"{folder} holds state that the objective lacks: {unknown}"
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.meter.load_state_dict(state["meter"], self.accelerator)
        return checkpoint.step

    @torch.no_grad()
    def preview(self, preview: Preview, step: int) -> dict[str, float | str]:
        """Look at averaged weights, and at raw ones where they are wanted or there are no others.

        Returns:
            What the looks found; nothing on processes that do not look.
        """
        found: dict[str, float | str] = {}
        if preview.shared or self.accelerator.is_main_process:
            folder = self.out / "samples"
            folder.mkdir(parents=True, exist_ok=True)
            self.own.eval()
            if self.ema:
                with self.ema.swapped_in():
                    found |= preview.look(folder, step, True) or {}
            if preview.raw or not self.ema:
                found = {**(preview.look(folder, step, False) or {}), **found}
            self.own.train()
        self.accelerator.wait_for_everyone()
        return found
