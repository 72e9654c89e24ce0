"""The unmasking as pictures, step by step."""

from __future__ import annotations

import torch
from torch import Tensor

from unmask.decode import Plan
from unmask.draws import Seeds, as_seeds
from unmask.generation import decoded
from unmask.labels import Classes
from unmask.pictures import veil
from unmask.pipeline import Pipeline
from unmask.types import Step


def unmasking(
    pipeline: Pipeline, class_labels: Classes | None, *, seeds: Seeds, plan: Plan | None = None
) -> Tensor:
    """Every step's tokens decoded, patches that are still masked in grey.

    Args:
        pipeline: what generates.
        class_labels: integers or names, one an image; None for an unconditional model.
        seeds: integers, one an image, or the first of consecutive ones.
        plan: None means the pipeline's.

    Returns:
        ``(S, B, C, H, W)`` float32 in [0, 1] on the CPU.
    """
    films = list[list[Tensor]]()  # of each batch, also of one that memory did not hold
    tokenizer, grid, plan = pipeline.tokenizer, pipeline.model.grid, plan or pipeline.plan

    def keep(step: Step) -> None:
        """Decode and veil the state after one step."""
        if step.index == plan.first_step:
            films.append([])
        pixels = decoded(tokenizer, step.tokens, grid)  # (B, C, H, W)
        films[-1].append(veil(pixels, step.masked, grid).cpu())

    labels = None if class_labels is None else pipeline.labels(class_labels)
    seeds = as_seeds(seeds, 1 if labels is None else len(labels))
    pipeline.tokens(labels, seeds=seeds, plan=plan, batch_size="auto", observe=keep)
    whole = [torch.stack(film) for film in films if len(film) == plan.steps - plan.first_step]
    return torch.cat(whole, dim=1)
