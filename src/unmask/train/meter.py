"""Running means of what an objective reports, without a host synchronisation a step."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor


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
        self.first_loss = first.to(accelerator.device) if isinstance(first, Tensor) else None
