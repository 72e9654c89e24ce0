"""What a probe and a fine-tuning share: their data, the training loop, judging, saving."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from unmask.data.augment import Augment
from unmask.data.batches import ImageBatches
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.data.transform import Crop, Transform
from unmask.errors import InputError
from unmask.probe.batches import StoredBatches
from unmask.probe.encoder import fit_grid
from unmask.probe.extract import labelled
from unmask.probe.judge import LAST, Save, Score, epoch_judge, score, scores_of
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.settings import FinetuneOptions, ProbeOptions
from unmask.probe.subject import Subject, save_classifier
from unmask.recipes.serial import MADE_FROM
from unmask.train.loop import train
from unmask.train.processes import launched
from unmask.train.run_folder import check_run_folder, plain_config

STILL: dict[Crop, Crop] = {"resized": "inner", "clipped": "inner", "random": "center"}


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


class Bench:
    """A model, its data and its options, checked against each other before long work.

    Args:
        subject: whose encoder and tokenizer move to this process's device.
        data: labelled images.
        options: of the probe or the fine-tuning.
        out: the run folder.

    Raises:
        InputError: images without labels, parts of different data, another token grid than the
            trained one, a batch that does not fit, a folder that holds anything but this run.
    """

    def __init__(
        self,
        subject: Subject,
        data: LabelledData,
        options: ProbeOptions | FinetuneOptions,
        *,
        out: Path,
    ) -> None:
        course, tokenizer = options.course, subject.tokenizer
        self.subject, self.data, self.out, self.course = subject, data, out, course
        self.names, self.state = check_classes(data), launched()
        self.encoder = subject.model.encoder
        self.size = course.image_size or self.encoder.sizes.grid[0] * tokenizer.stride
        grid = tokenizer.grid(self.size)
        fit_grid(self.encoder, grid, interpolate=course.interpolate)
        if data.cache is not None and tuple(data.cache.grid) != grid:
            raise InputError(
                f"the cache has {data.cache.grid[0]}x{data.cache.grid[1]} tokens an image, the "
                f"encoder takes {grid[0]}x{grid[1]}; build another cache or leave --cache out"
            )
        images = len(data.cache or data.train)
        self.training = course.training(images)
        made_from = {"model": subject.name, "data": data.train.name, "images": images}
        self.config = {**asdict(options), MADE_FROM: {**made_from, "cached": bool(data.cache)}}
        check_run_folder(out, plain_config(self.config))
        self.encoder.to(self.state.device)
        self.encode: Represent = tokenizer.to(self.state.device).encode

    def batches(self) -> ImageBatches:
        """This process's batches: of images, or of codes where there is a cache."""
        course, cache = self.course, self.data.cache
        transform = Augment(
            size=self.size,
            crop=course.crop,
            flip=course.flip,
            channels=self.subject.tokenizer.image_channels,
            operations=course.operations,
            magnitude=course.magnitude,
            erase=course.erase,
        )
        common = {
            "source": self.data.train if cache is None else cache,
            "transform": transform,
            "batch_size": course.batch_size,
            "seed": course.seed,
            "steps": self.training.steps,
            "rank": self.state.process_index,
            "world": self.state.num_processes,
            "accumulate": course.accumulate,
        }
        if cache is None:
            return ImageBatches(**common)
        return StoredBatches(cache.codes, cache.labels, views=cache.views, **common)

    def run(
        self,
        objective: ClassifierObjective,
        batches: Dataset,
        represent: Represent,
        *,
        save: bool = True,
    ) -> list[dict[str, float]]:
        """Train, continue or just finish; judge after every epoch.

        Args:
            objective: what is trained.
            batches: what it reads.
            represent: held-out images to what its trained part reads.
            save: write ``best/`` and ``last/``.

        Returns:
            The lines of ``accuracy.jsonl``, one an epoch.
        """
        main = self.state.is_main_process
        judge = epoch_judge(
            self.judged(objective.averaged, represent) if main else _elsewhere,
            self.names,
            out=self.out,
            epoch=self.training.preview_every,
            save=self._save if save else None,
        )
        train(
            objective,
            batches,
            settings=self.training,
            out=self.out,
            config=self.config,
            preview=judge,
            num_workers=self.data.workers,
        )
        found = scores_of(self.out)
        if save and main:
            self._save(self.out / LAST, found[-1])
        return found
