"""What a probe and a fine-tuning share: their data, the training loop, judging, saving."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from unmask.data.batches import ImageBatches
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.serial import MADE_FROM, to_dict
from unmask.image_size import ImageSize, checked_size
from unmask.machine.processes import launched
from unmask.probe.encoder import TokenClassifier, fit_grid
from unmask.probe.extract import labelled
from unmask.probe.mixing import StoredBatches
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.settings import Course
from unmask.probe.subject import Subject, save_classifier
from unmask.text import say
from unmask.train.loop import train
from unmask.train.run import Preview
from unmask.train.run_folder import check_run_folder, plain_config

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
        table = found.table(names).encode("utf8", "surrogateescape")
        durable.replace_file(folder / f"step-{step:07d}.tsv", table, "checkpoints are whole")
        lines = "".join(json.dumps(line) + "\n" for line in (*earlier, facts))
        durable.replace_file(out / SCORES, lines.encode(), "checkpoints are whole")
        say(f"epoch {step // epoch}: accuracy {found.top1:.4f}, among five {found.top5:.4f}")

    def _is_missing(out: Path, step: int) -> bool:
        return not any(line["step"] == step for line in scores_of(out))

    return Preview(_judge, every=epoch, missing=_is_missing)


def scores_of(out: Path) -> list[dict[str, float]]:
    """The lines of a run's ``accuracy.jsonl``: step, epoch, accuracy, top5."""
    path = out / SCORES
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """What is learnt from and what is judged on."""

    train: ImageSource
    """Labelled images."""
    held_out: ImageSource
    """Others of the same classes."""
    cache: LatentCache | None = None
    """Codes of the training images, instead of tokenising them at every step."""
    workers: int = 0
    """Processes that prepare batches."""


def fit_size(subject: Subject, image_size: ImageSize | None, *, interpolate: bool) -> ImageSize:
    """Pixels of the images to come; the encoder is made to take them.

    Args:
        subject: whose encoder may change in place.
        image_size: None means the size that gives the trained grid.
        interpolate: see :func:`unmask.probe.encoder.fit_grid`.

    Raises:
        InputError: see there.
    """
    encoder, tokenizer = subject.model.encoder, subject.tokenizer
    rows, columns = encoder.sizes.grid
    size = checked_size(image_size or (rows * tokenizer.stride, columns * tokenizer.stride))
    fit_grid(encoder, tokenizer.grid(size), interpolate=interpolate)
    return size


class Bench:
    """A model, its data and its options, checked against each other before long work.

    Args:
        subject: whose encoder and tokenizer move to this process's device.
        data: labelled images.
        course: of the probe or the fine-tuning.

    Raises:
        InputError: images without labels, parts of different data, another token grid than the
            trained one, a batch that does not fit.
    """

    def __init__(self, subject: Subject, data: LabelledData, course: Course) -> None:
        self.subject, self.data, self.course = subject, data, course
        self.names, self.state = tuple(data.train.class_names), launched()
        for side in (data.train, data.held_out):
            if not side.class_names:
                raise InputError(
                    f"{side.name} has no labels, and a classifier needs them on both sides; sort "
                    "its images into class folders"
                )
        self.size = fit_size(subject, course.image_size, interpolate=course.interpolate)
        for part in (data.held_out, data.cache):
            if part is not None and tuple(part.class_names) != self.names:
                raise InputError(
                    f"{data.train.name} has {len(self.names)} classes, another part "
                    f"{len(part.class_names)} or of other names; give parts of one data set"
                )
        self.encoder = subject.model.encoder.to(self.state.device)
        self.channels, grid = subject.tokenizer.image_channels, self.encoder.sizes.grid
        if data.cache is not None and tuple(data.cache.grid) != grid:
            raise InputError(
                f"the cache has {data.cache.grid[0]}x{data.cache.grid[1]} tokens an image, the "
                f"encoder takes {grid[0]}x{grid[1]}; build another cache or leave --cache out"
            )
        self.encode: Represent = subject.tokenizer.to(self.state.device).encode
        self.training = course.training(len(data.cache or data.train))
        cache = data.cache
        common: dict[str, Any] = {
            "source": cache or data.train,
            "transform": course.transform(self.size, self.channels),
            "batch_size": course.batch_size,
            "seed": course.seed,
            "steps": self.training.steps,
            "rank": self.state.process_index,
            "world": self.state.num_processes,
            "accumulate": course.accumulate,
        }
        self.batches = (
            ImageBatches(**common)
            if cache is None
            else StoredBatches(cache.tokens, cache.labels, views=cache.views, **common)
        )

    def held_out(self, represent: Represent) -> tuple[Tensor, Tensor]:
        """The held-out images as ``represent`` has them, and their labels."""
        transform = self.course.still_transform(self.size, self.channels)
        return labelled(self.data.held_out, transform, represent, device=self.state.device)

    def run(
        self,
        objective: ClassifierObjective,
        batches: Dataset,
        represent: Represent,
        *,
        out: Path,
        options: object,
        model: TokenClassifier | None,
        from_scratch: bool = False,
    ) -> list[dict[str, float]]:
        """Train, continue or just finish; judge after every epoch.

        Args:
            objective: what is trained.
            batches: what it reads.
            represent: held-out images to what its trained part reads.
            out: the run folder; a run with other options is refused.
            options: a dataclass, stored with the run.
            model: what goes to ``best/`` and ``last/``, if anything.
            from_scratch: see :func:`unmask.train.loop.train`.

        Returns:
            The lines of ``accuracy.jsonl``, one an epoch.

        Raises:
            InputError: see :func:`unmask.train.loop.train`.
        """
        data, main = self.data, self.state.is_main_process
        images = {"images": len(data.cache or data.train), "cached": bool(data.cache)}
        made_from = {"model": self.subject.name, "data": data.train.name, **images}
        config = {**to_dict(options), MADE_FROM: made_from}
        check_run_folder(out, plain_config(config))
        examples = self.held_out(represent) if main else (torch.empty(0), torch.empty(0))

        def _save(folder: Path, facts: dict[str, float]) -> None:
            assert model is not None, "the caller looks"
            saved = replace(self.subject, model=model)
            save_classifier(saved, folder, {**facts, "class_names": self.names})

        judge = epoch_judge(
            lambda: score(objective.averaged, *examples, classes=len(self.names)),
            self.names,
            out=out,
            epoch=self.training.preview_every,
            save=_save if model else None,
        )
        train(
            objective,
            batches,
            settings=self.training,
            out=out,
            config=config,
            previews=[judge],
            num_workers=data.workers,
            from_scratch=from_scratch,
        )
        lines = scores_of(out)
        if main and model:
            _save(out / LAST, lines[-1])
        if main and (news := self.batches.bad.news()):
            say(news)
        return lines
