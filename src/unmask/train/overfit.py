"""Is my run working? A network that learns at all learns one batch by heart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from unmask.errors import InputError
from unmask.recipes.training import Training
from unmask.text import say
from unmask.train.loop import MicroBatches, TrainResult, train

WORKS_BELOW = 0.3
"""Share of the first loss under which the last one must fall."""


class SameBatch(Dataset):
    """The batch of step 0, with the masks it has, at every step."""

    def __init__(self, batches: Dataset) -> None:
        self.batch: MicroBatches = batches[0]

    def __getitem__(self, step: int) -> MicroBatches:
        """Always the same micro-batches."""
        return self.batch


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a run learns one batch by heart.

    Args:
        works: Whether the last loss is below ``WORKS_BELOW`` times the first.
        line: Sentence for a person.
        result: The run.
    """

    works: bool
    line: str
    result: TrainResult


def overfit_one_batch(
    objective: nn.Module,
    batches: Dataset,
    *,
    settings: Training,
    out: Path,
    config: Mapping[str, object],
    accelerator: Accelerator | None = None,
) -> Verdict:
    """Train on the first batch alone, at a constant learning rate, and print the verdict.

    Dropout and the labels that the batch has dropped stay as they are. Arguments and errors are
    those of :func:`unmask.train.loop.train`; a folder used here takes no ordinary run.

    Raises:
        InputError: also where the check was complete before.
    """
    result = train(
        objective,
        SameBatch(batches),
        settings=at_constant_rate(settings),
        out=out,
        config={**config, "overfit_one_batch": True},
        accelerator=accelerator,
    )
    if not result.images:
        raise InputError(
            f"{out} holds this check already, complete; name a new folder to make it anew, or "
            "raise --training.steps"
        )
    verdict = judge(result)
    say(verdict.line)
    return verdict


def at_constant_rate(settings: Training) -> Training:
    """Settings without warm-up and fall of the learning rate."""
    return replace(settings, schedule="constant", warmup_steps=0, warmup_epochs=None)


def judge(result: TrainResult) -> Verdict:
    """The verdict on a run that saw one batch only."""
    share = result.last_loss / result.first_loss
    works = math.isfinite(share) and share < WORKS_BELOW
    figures = (
        f"loss {result.first_loss:.4f} -> {result.last_loss:.4f} in {result.step} steps, "
        f"{share:.2f} of the start (limit {WORKS_BELOW})"
    )
    line = (
        f"the run works: {figures}"
        if works
        else f"the run does NOT work yet: {figures}; give it more steps or a higher training.lr, "
        "then look at labels, masks and loss weights"
    )
    return Verdict(works=works, line=line, result=result)
