"""How often a classifier is right on held-out images, after every epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unmask import durable
from unmask.text import say
from unmask.train.run import Preview

SCORES = "accuracy.jsonl"
BEST, LAST = "best", "last"
Save = Callable[[Path, dict[str, float]], None]
"""Writes the classifier as it is now, with facts about it, into a folder."""


class Score(NamedTuple):
    """What a classifier is worth."""

    images: Tensor
    """``(K,)`` int64, images of each class."""
    right: Tensor
    """``(K,)`` int64, those named rightly."""
    top1: float
    """Share of all images named rightly."""
    top5: float
    """Share of all images whose class is among the five likeliest."""

    def table(self, names: Sequence[str]) -> str:
        """One line a class: name, images, accuracy; tabs between."""
        share = (self.right / self.images).tolist()
        rows = zip(names, self.images.tolist(), share, strict=True)
        return "\n".join(["class\timages\taccuracy", *(f"{n}\t{i}\t{s:.4f}" for n, i, s in rows)])


@torch.no_grad()
def score(model: nn.Module, inputs: Tensor, labels: Tensor, *, classes: int) -> Score:
    """Judge a classifier, in the mode in which it is, on its own device.

    Args:
        model: to ``(B, K)`` scores.
        inputs: ``(N, L)`` codes or ``(N, D)`` features, what it reads.
        labels: ``(N,)`` int64.
        classes: K.
    """
    device, ranks = next(model.parameters()).device, []
    for part, truth in zip(inputs.split(256), labels.split(256), strict=True):
        scores = model(part.to(device)).float()  # (B, K)
        own = scores.gather(1, truth.to(device)[:, None])
        ranks.append((scores > own).sum(1).cpu())  # (B,) classes that seem likelier
    rank = torch.cat(ranks)
    top1, top5 = (float((rank < k).double().mean()) for k in (1, 5))
    right = labels[rank == 0].bincount(minlength=classes)
    return Score(labels.bincount(minlength=classes), right, top1, top5)


def epoch_judge(
    judged: Callable[[], Score], names: Sequence[str], *, out: Path, epoch: int, save: Save | None
) -> Preview:
    """What the loop calls after every epoch: scores, writes them by class, keeps the best weights.

    The best is told from ``accuracy.jsonl``, so a continued run knows it too.

    Args:
        judged: scores the weights as they are.
        names: of the classes.
        out: the run folder.
        epoch: steps an epoch.
        save: None keeps no weights but the run's own checkpoints.
    """

    def _judge(folder: Path, step: int, averaged: bool) -> None:
        found = judged()
        facts = {"step": step, "epoch": step // epoch, "accuracy": found.top1, "top5": found.top5}
        earlier = [line for line in scores_of(out) if line["step"] < step]
        if save and all(found.top1 > line["accuracy"] for line in earlier):
            save(out / BEST, facts)
        with durable.explained(folder, "checkpoints are whole"):
            table = found.table(names).encode("utf8", "surrogateescape")
            durable.replace_file(folder / f"step-{step:07d}.tsv", table)
            lines = "".join(json.dumps(line) + "\n" for line in (*earlier, facts))
            durable.replace_file(out / SCORES, lines.encode())
        say(f"epoch {step // epoch}: accuracy {found.top1:.4f}, among five {found.top5:.4f}")

    def _is_missing(out: Path, step: int) -> bool:
        return not any(line["step"] == step for line in scores_of(out))

    return Preview(_judge, every=epoch, missing=_is_missing)


def scores_of(out: Path) -> list[dict[str, float]]:
    """The lines of a run's ``accuracy.jsonl``: step, epoch, accuracy, top5."""
    path = out / SCORES
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
