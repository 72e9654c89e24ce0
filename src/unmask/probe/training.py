"""The run of a probe or a fine-tuning: objective, checks of the data, training, accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import Dataset

from unmask.data.batches import ImageBatches
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.serial import MADE_FROM
from unmask.image_size import ImageSize, checked_size
from unmask.machine.processes import by_main, launched
from unmask.probe.classifier import Classifier, save_classifier
from unmask.probe.encoder import TokenClassifier, fit_grid
from unmask.probe.extract import Extraction, Extractor, labelled
from unmask.probe.mixing import MixPlan, StoredBatches, mix, mix_targets, soft_targets
from unmask.probe.settings import ClassifierOptions, FeatureOptions
from unmask.recipes.training import Training
from unmask.text import say
from unmask.train.loop import train
from unmask.train.run import Preview
from unmask.train.run_folder import check_run_folder, plain_config

ACCURACIES = "accuracy.jsonl"
BEST, LAST = "best", "last"
WHOLE = "checkpoints are whole"  # whatever the disk refuses


class ClassifierObjective(nn.Module):
    """Cross-entropy with the labels, softened and mixed as asked: an ``Objective``.

    Args:
        averaged: the trained part, to ``(B, K)`` scores.
        extract: runs before it without gradients; its weights are not saved with the run.
        batch_size: images of a global batch.
        smoothing: share of the target spread over all classes, in [0, 1).
        optimizer: makes the optimiser of ``averaged``.
    """

    def __init__(
        self,
        averaged: nn.Module,
        extract: Extractor,
        *,
        batch_size: int,
        smoothing: float = 0.0,
        optimizer: Callable[[Training], Optimizer],
    ) -> None:
        super().__init__()
        self.averaged, self.extract = averaged, extract
        self.batch_size, self.smoothing = batch_size, smoothing
        self.make_optimizer = optimizer

    def forward(self, batch: tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MixPlan]) -> dict:
        """The loss.

        Args:
            batch: ``(B, C, H, W)`` uint8 images, ``(B, L)`` codes or ``(B, D)`` features; ``(B,)``
                int64 labels; and how the images are mixed, if they are.
        """
        inputs, labels, *plans = batch
        with torch.no_grad():
            if inputs.dtype == torch.uint8:
                inputs = inputs.float() / 255  # images travel as bytes
            mixed = [mix(inputs, plan) for plan in plans]  # one or none
            inputs = self.extract(mixed[0][0] if mixed else inputs)  # (B, L) or (B, D)
        scores = self.averaged(inputs).float()  # (B, K)
        targets = soft_targets(labels, scores.shape[1], smoothing=self.smoothing)  # (B, K)
        for _, share in mixed:
            targets = mix_targets(targets, share)  # (B, K)
        return {"loss": F.cross_entropy(scores, targets, reduction="sum") / self.batch_size}


class Accuracy(NamedTuple):
    """How often a classifier is right.

    Args:
        images: ``(K,)`` int64, images of each class.
        right: ``(K,)`` int64, images of each class that are named rightly.
        top1: Share of all images named rightly.
        top5: Share of all images whose class is among the five likeliest.
    """

    images: Tensor
    right: Tensor
    top1: float
    top5: float

    def table(self, names: Sequence[str]) -> str:
        """One line a class: name, images, accuracy; tabs between."""
        share = (self.right / self.images).tolist()
        rows = zip(names, self.images.tolist(), share, strict=True)
        return "\n".join(["class\timages\taccuracy", *(f"{n}\t{i}\t{s:.4f}" for n, i, s in rows)])


@torch.no_grad()
def measure_accuracy(model: nn.Module, inputs: Tensor, labels: Tensor, *, classes: int) -> Accuracy:
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
        own = scores.gather(1, truth.to(device)[:, None])  # (B, 1)
        ranks.append((scores > own).sum(1).cpu())  # (B,) classes that seem likelier
    rank = torch.cat(ranks)  # (N,)
    top1, top5 = (float((rank < k).double().mean()) for k in (1, 5))
    right = labels[rank == 0].bincount(minlength=classes)
    return Accuracy(labels.bincount(minlength=classes), right, top1, top5)


def check_head(model: TokenClassifier, source: ImageSource) -> None:
    """Refuse a head of other classes than the data's.

    Raises:
        InputError: naming both numbers.
    """
    if model.classes != len(source.class_names):
        raise InputError(
            f"the model names {model.classes} classes, {source.name} has "
            f"{len(source.class_names)}; fine-tune it with --new-head to start another head"
        )


def judge(classifier: Classifier, source: ImageSource, options: ClassifierOptions) -> Accuracy:
    """How often a classifier is right, as it is; the processes of the launcher share the work.

    Raises:
        InputError: see :func:`check_head` and :func:`fit_size`.
    """
    model, tokenizer = classifier.model, classifier.tokenizer
    check_head(model, source)
    size = fit_size(classifier, options)
    device, transform = launched().device, options.still(size, tokenizer.image_channels)
    examples = labelled(Extraction(source, transform, tokenizer.to(device).encode, device))
    return measure_accuracy(model.to(device).eval(), *examples, classes=model.classes)


def accuracies(out: Path) -> list[dict[str, float]]:
    """The lines of a run's ``accuracy.jsonl``: step, epoch, accuracy, top5."""
    path = out / ACCURACIES
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """Images to learn from and images to judge on.

    Args:
        train: Labelled images.
        held_out: Other images of the same classes.
        cache: Codes of the training images; None tokenises these at every step.
        workers: Processes that prepare batches; 0 prepares them in the process that trains.
    """

    train: ImageSource
    held_out: ImageSource
    cache: LatentCache | None = None
    workers: int = 0


def fit_size(classifier: Classifier, options: FeatureOptions) -> ImageSize:
    """Pixels of the images to come; the encoder is made to take them, in place.

    Raises:
        InputError: the grid differs from the trained one, and may not be interpolated.
    """
    encoder, tokenizer = classifier.model.encoder, classifier.tokenizer
    rows, columns = encoder.sizes.grid
    size = checked_size(options.image_size or (rows * tokenizer.stride, columns * tokenizer.stride))
    fit_grid(encoder, tokenizer.grid(size), interpolate=options.interpolate)
    return size


class ClassifierRun:
    """A classifier, its data and its options, checked against each other before long work.

    Args:
        classifier: whose encoder and tokenizer move to this process's device.
        data: labelled images.
        options: of the probe or the fine-tuning.
        out: the run folder; a run with other options is refused.

    Raises:
        InputError: images without labels, parts of different data, another token grid than the
            trained one, a batch that does not fit.
    """

    def __init__(
        self, classifier: Classifier, data: LabelledData, options: ClassifierOptions, out: Path
    ) -> None:
        self.classifier, self.data, self.options, self.out = classifier, data, options, out
        self.names, self.state = tuple(data.train.class_names), launched()
        for side in (data.train, data.held_out):
            if not side.class_names:
                raise InputError(
                    f"{side.name} has no labels, and a classifier needs them on both sides; sort "
                    "its images into class folders"
                )
        self.size = fit_size(classifier, options)
        cache = data.cache
        for part in (data.held_out, cache):
            if part is not None and tuple(part.class_names) != self.names:
                raise InputError(
                    f"{data.train.name} has {len(self.names)} classes, another part "
                    f"{len(part.class_names)} or of other names; give parts of one data set"
                )
        self.encoder = classifier.model.encoder.to(self.state.device)
        self.channels, grid = classifier.tokenizer.image_channels, self.encoder.sizes.grid
        if cache is not None and tuple(cache.grid) != grid:
            raise InputError(
                f"the cache has {cache.grid[0]}x{cache.grid[1]} tokens an image, the "
                f"encoder takes {grid[0]}x{grid[1]}; build another cache or leave --cache out"
            )
        self.encode: Extractor = classifier.tokenizer.to(self.state.device).encode
        self.training = options.training(len(cache or data.train))
        common: dict[str, Any] = {
            "source": cache or data.train,
            "transform": options.augment(self.size, self.channels),
            "batch_size": options.batch_size,
            "seed": options.seed,
            "steps": self.training.steps,
            "rank": self.state.process_index,
            "world": self.state.num_processes,
            "accumulate": options.accumulate,
        }
        self.batches = (
            ImageBatches(**common)
            if cache is None
            else StoredBatches(cache.tokens, cache.labels, views=cache.views, **common)
        )

    def train(
        self,
        objective: ClassifierObjective,
        batches: Dataset,
        extract: Extractor,
        *,
        model: TokenClassifier | None,
        from_scratch: bool = False,
    ) -> list[dict[str, float]]:
        """Train, continue or just finish; judge after every epoch.

        Args:
            objective: what is trained.
            batches: what it reads.
            extract: makes of held-out images what the trained part reads.
            model: what goes to ``best/`` and ``last/``, if anything.
            from_scratch: see :func:`unmask.train.loop.train`.

        Returns:
            The lines of ``accuracy.jsonl``, one an epoch.

        Raises:
            InputError: see :func:`unmask.train.loop.train`.
        """
        data, main, out = self.data, self.state.is_main_process, self.out
        images = {"images": len(data.cache or data.train), "cached": bool(data.cache)}
        made_from = {"model": self.classifier.name, "data": data.train.name, **images}
        config = {**self.options.stored(), MADE_FROM: made_from}
        by_main(lambda: check_run_folder(out, plain_config(config)))
        transform = self.options.still(self.size, self.channels)
        examples = labelled(Extraction(data.held_out, transform, extract, self.state.device))

        def _look(folder: Path, step: int, averaged: bool) -> None:
            found = measure_accuracy(objective.averaged, *examples, classes=len(self.names))
            self._write(found, folder, step, model)

        def _is_missing(out: Path, step: int) -> bool:
            return all(line["step"] != step for line in accuracies(out))

        every = self.training.preview_every
        train(
            objective,
            batches,
            settings=self.training,
            out=out,
            config=config,
            previews=[Preview(_look, every=every, missing=_is_missing)],
            num_workers=data.workers,
            from_scratch=from_scratch,
        )
        lines = accuracies(out)
        if main and model:
            self._save(model, LAST, lines[-1])
        if main and (news := self.batches.bad.news()):
            say(news)
        return lines

    def _write(
        self, found: Accuracy, folder: Path, step: int, model: TokenClassifier | None
    ) -> None:
        """Write what was found, by class and in all, and the model if none was better before.

        The best is told from ``accuracy.jsonl``, so a continued run knows it too.
        """
        epoch = step // self.training.preview_every
        facts = {"step": step, "epoch": epoch, "accuracy": found.top1, "top5": found.top5}
        earlier = [line for line in accuracies(self.out) if line["step"] < step]
        if model and all(found.top1 > line["accuracy"] for line in earlier):
            self._save(model, BEST, facts)
        table = found.table(self.names).encode("utf8", "surrogateescape")
        durable.replace_file(folder / f"step-{step:07d}.tsv", table, WHOLE)
        lines = "".join(json.dumps(line) + "\n" for line in (*earlier, facts))
        durable.replace_file(self.out / ACCURACIES, lines.encode(), WHOLE)
        say(f"epoch {epoch}: accuracy {found.top1:.4f}, among five {found.top5:.4f}")

    def _save(self, model: TokenClassifier, place: str, facts: dict[str, float]) -> None:
        saved = replace(self.classifier, model=model)
        save_classifier(saved, self.out / place, {**facts, "class_names": self.names})
