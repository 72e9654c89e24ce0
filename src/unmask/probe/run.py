"""What a probe and a fine-tuning share: their data, the training loop, judging, saving."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from unmask.data.batches import ImageBatches
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.errors import InputError
from unmask.probe.batches import LabelledBatches, StoredBatches
from unmask.probe.classifier import Saved, TokenClassifier, save_classifier
from unmask.probe.encoder import fit_grid
from unmask.probe.extract import held_out
from unmask.probe.judge import LAST, EpochJudge, Examples, Save, scores
from unmask.probe.mixing import Mixing
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.settings import Course
from unmask.probe.subject import Subject
from unmask.recipes.serial import MADE_FROM, to_dict
from unmask.train.loop import train
from unmask.train.processes import launched
from unmask.train.run_folder import check_run_folder, plain_config


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

    @property
    def class_names(self) -> tuple[str, ...]:
        """In label order, the same of every part.

        Raises:
            InputError: without labels, or where two parts differ.
        """
        names = tuple(self.train.class_names)
        if not names:
            raise InputError(f"{self.train.name} has no labels; a classifier needs them")
        others = {self.held_out.name: self.held_out.class_names}
        if self.cache is not None:
            others[f"the cache {self.cache.path}"] = self.cache.class_names
        for name, found in others.items():
            if tuple(found) != names:
                raise InputError(
                    f"{name} has {len(found)} classes, {self.train.name} has {len(names)}, or "
                    "their names differ; give parts of one data set"
                )
        return names


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    best: float
    """Highest accuracy after an epoch, in [0, 1]."""
    best_epoch: int
    """Which, from 1."""
    last: float
    """Accuracy after the last one."""


class Bench:
    """A model, its data and its options, checked against each other before long work.

    Args:
        subject: whose encoder and tokenizer move to this process's device.
        data: labelled images.
        options: of the probe or the fine-tuning.
        out: the run folder; None for judging alone.

    Raises:
        InputError: another token grid than the trained one, parts of different data, a batch that
            does not fit, a folder that holds anything but this run.
    """

    def __init__(
        self, subject: Subject, data: LabelledData, options: Course, *, out: Path | None = None
    ) -> None:
        self.subject, self.data, self.options = subject, data, options
        self.names = data.class_names
        self.state = launched()
        self.channels = subject.tokenizer.image_channels
        sizes = subject.encoder.sizes
        self.size = options.image_size or sizes.grid[0] * subject.tokenizer.stride
        grid = subject.tokenizer.grid(self.size)
        fit_grid(subject.encoder, grid, interpolate=options.interpolate)
        if data.cache is not None and tuple(data.cache.grid) != grid:
            raise InputError(
                f"the cache has {data.cache.grid[0]}x{data.cache.grid[1]} tokens an image, the "
                f"encoder takes {grid[0]}x{grid[1]}; build another cache or leave --cache out"
            )
        self.training = options.training(len(data.cache or data.train))
        if out is not None:
            check_run_folder(out, plain_config(self._config()))
        self.encoder = subject.encoder.to(self.state.device)
        self.encode: Represent = subject.tokenizer.to(self.state.device).encode

    def batches(self, mixing: Mixing | None = None) -> LabelledBatches:
        """This process's batches: of images, or of codes where there is a cache.

        Raises:
            InputError: mixing groups do not divide a micro-batch.
        """
        share = {"rank": self.state.process_index, "world": self.state.num_processes}
        return LabelledBatches(self._inputs(share), self.training, mixing=mixing, **share)

    def _inputs(self, share: dict[str, int]) -> ImageBatches | StoredBatches:
        cache, training = self.data.cache, self.training
        if cache is not None:
            return StoredBatches(
                cache.codes, cache.labels, views=cache.views, training=training, **share
            )
        return ImageBatches(
            self.data.train,
            self.options.transform(self.size, self.channels),
            batch_size=training.batch_size,
            seed=training.seed,
            steps=training.steps,
            accumulate=training.accumulate,
            **share,
        )

    def held_out(self, represent: Represent) -> Examples:
        """The held-out images as ``represent`` has them; none but on the main process."""
        if not self.state.is_main_process:
            return Examples(torch.empty(0), torch.empty(0))
        transform = self.options.judged_transform(self.size, self.channels)
        return held_out(self.data.held_out, transform, represent, device=self.state.device)

    def saver(self, model: TokenClassifier) -> Save:
        """Writes the classifier as it is."""
        saved = Saved(model=model, tokenizer=self.subject.tokenizer, class_names=self.names)
        return lambda folder, facts: save_classifier(saved, folder, facts)

    def run(
        self,
        objective: ClassifierObjective,
        batches: LabelledBatches,
        examples: Examples,
        *,
        out: Path,
        save: Save | None,
    ) -> Outcome:
        """Train, continue or just finish; judge after every epoch.

        Args:
            objective: what is trained.
            batches: what it reads.
            examples: what its trained part is judged on.
            out: the run folder; gets ``best/``, ``last/`` and ``accuracy.jsonl`` besides.
            save: writes a classifier; None where there is none to write.
        """
        judge = EpochJudge(
            model=objective.averaged,
            examples=examples,
            names=self.names,
            out=out,
            epoch=self.training.preview_every,
            save=save,
        )
        train(
            objective,
            batches,
            settings=self.training,
            out=out,
            config=self._config(),
            preview=judge,
            num_workers=self.data.workers,
        )
        found = scores(out)
        if self.state.is_main_process:
            if isinstance(batches.inputs, ImageBatches) and (news := batches.inputs.bad.news()):
                print(news)
            if save:
                save(out / LAST, found[-1])
        best, last = max(found, key=lambda line: line["accuracy"]), found[-1]
        return Outcome(best=best["accuracy"], best_epoch=int(best["epoch"]), last=last["accuracy"])

    def _config(self) -> dict[str, object]:
        data = {"data": self.data.train.name, "images": len(self.data.cache or self.data.train)}
        made_from = {"model": self.subject.name, **data, "cached": self.data.cache is not None}
        kind = type(self.options).__name__
        return {"task": kind, **to_dict(self.options), MADE_FROM: made_from}
