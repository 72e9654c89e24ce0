"""How often a classifier is right on held-out images, after every epoch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unmask.train import durable

SCORES = "accuracy.jsonl"
BEST, LAST = "best", "last"
Save = Callable[[Path, dict[str, float]], None]
"""Writes the classifier as it is now, with facts about it, into a folder."""


class Examples(NamedTuple):
    """Held-out images in the form that the trained part reads."""

    inputs: Tensor
    """``(N, L)`` codes or ``(N, D)`` features, on the CPU."""
    labels: Tensor
    """``(N,)`` int64."""


class Score(NamedTuple):
    """What a classifier is worth."""

    images: Tensor
    """``(K,)`` int64, images of each class."""
    right: Tensor
    """``(K,)`` int64, those named rightly."""
    top5: float
    """Share of all images whose class is among the five likeliest."""

    @property
    def top1(self) -> float:
        """Share of all images named rightly."""
        return float(self.right.sum() / self.images.sum())

    def table(self, names: Sequence[str]) -> str:
        """One line a class: name, images, accuracy; tabs between."""
        share = (self.right / self.images).tolist()
        rows = zip(names, self.images.tolist(), share, strict=True)
        return "\n".join(["class\timages\taccuracy", *(f"{n}\t{i}\t{s:.4f}" for n, i, s in rows)])


@torch.no_grad()
def score(model: nn.Module, examples: Examples, *, classes: int, batch_size: int = 256) -> Score:
    """Judge a classifier, in the mode in which it is, on its own device."""
    device = next(model.parameters()).device
    ranks = []
    batches = zip(examples.inputs.split(batch_size), examples.labels.split(batch_size), strict=True)
    for inputs, labels in batches:
        scores = model(inputs.to(device)).float()  # (B, K)
        own = scores.gather(1, labels.to(device)[:, None])
        ranks.append((scores > own).sum(1).cpu())  # (B,) classes that seem likelier
    rank = torch.cat(ranks)
    return Score(
        images=examples.labels.bincount(minlength=classes),
        right=examples.labels[rank == 0].bincount(minlength=classes),
        top5=float((rank < 5).double().mean()),
    )


@dataclass(frozen=True, kw_only=True)
class EpochJudge:
    """A :data:`unmask.train.run.Preview` that scores, writes the table and keeps the best.

    The best is told from ``accuracy.jsonl``, so a continued run knows it too.
    """

    model: nn.Module
    """The trained part."""
    examples: Examples
    """What it is judged on."""
    names: Sequence[str]
    """Of the classes."""
    out: Path
    """The run folder."""
    epoch: int
    """Steps an epoch."""
    save: Save | None
    """None keeps no weights but the run's own checkpoints."""

    def __call__(self, folder: Path, step: int, averaged: bool) -> None:
        """Judge the weights after ``step`` steps."""
        found = score(self.model, self.examples, classes=len(self.names))
        facts = {"step": step, "epoch": step // self.epoch, "accuracy": found.top1}
        earlier = [line for line in scores(self.out) if line["step"] < step]
        best = max((line["accuracy"] for line in earlier), default=-1.0)
        if self.save and found.top1 > best:
            self.save(self.out / BEST, facts)
        with durable.explained(folder, "checkpoints are whole"):
            table = found.table(self.names) + "\n"
            durable.replace_file(folder / f"step-{step:07d}.tsv", table.encode())
            lines = [json.dumps(line) for line in (*earlier, {**facts, "top5": found.top5})]
            durable.replace_file(self.out / SCORES, ("\n".join(lines) + "\n").encode())
        print(f"epoch {facts['epoch']}: accuracy {found.top1:.4f}, among five {found.top5:.4f}")


def scores(out: Path) -> list[dict[str, float]]:
    """The lines of a run's ``accuracy.jsonl``: step, epoch, accuracy, top5."""
    path = out / SCORES
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []
