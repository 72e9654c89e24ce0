"""The unmasking as pictures, step by step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.decode import Plan
from unmask.generation import generate
from unmask.pictures import veil
from unmask.pipeline import Pipeline
from unmask.types import Step


def unmasking(
    pipeline: Pipeline,
    class_labels: Sequence[int] | None,
    *,
    seeds: Sequence[int],
    plan: Plan | None = None,
) -> Tensor:
    """Every step's tokens decoded, patches that are still masked in grey.

    Args:
        pipeline: what generates.
        class_labels: one an image; None for an unconditional model.
        seeds: one an image.
        plan: None means the pipeline's.

    Returns:
        ``(S, B, C, H, W)`` float32 in [0, 1] on the CPU.
    """
    frames: list[Tensor] = []

    def keep(step: Step) -> None:
        """Decode and veil the state after one step."""
        pixels = pipeline.tokenizer.decode(step.tokens, pipeline.model.grid)
        frames.append(veil(pixels, step.masked, pipeline.model.grid).cpu())

    size = len(seeds)
    made = generate(pipeline, class_labels, seeds=seeds, plan=plan, batch_size=size, observe=keep)
    for _ in made:
        pass
    return torch.stack(frames)
