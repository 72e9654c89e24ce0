"""Options of a linear probe and of a fine-tuning.

The defaults are MAGE's published ones for ViT-B, but for the batch (4096 images of the probe, 1024
of the fine-tuning) and the precision (fp16).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from unmask.data.augment import Augment
from unmask.data.batches import check_batch_size
from unmask.data.transform import Crop, Transform
from unmask.errors import InputError
from unmask.image_size import ImageSize, checked_size
from unmask.probe.encoder import Pool
from unmask.probe.mixing import Mixing
from unmask.ranges import Between, Name, Ranged, Seed
from unmask.recipes.training import Training

STILL: dict[Crop, Crop] = {"resized": "inner", "clipped": "inner", "random": "center"}


@dataclass(frozen=True, kw_only=True)
class Course(Ranged):
    """What both share. Lengths count passes over the training images."""

    pool: Pool = "mean"
    """Average the image tokens, or take the class slot's feature."""
    image_size: ImageSize | None = None
    """Pixels: one number for a square, or height and width; None means the size that gives the
    encoder its trained grid."""
    interpolate: bool = False
    """Allow a grid other than the trained one, with resized positions."""
    crop: Crop
    """Of training images; held-out ones are cropped likewise, but without chance."""
    flip: bool = True
    """Mirror half of the training images; wrong for digits and letters."""
    operations: Annotated[int, Between(0, 100)] = 0
    """RandAugment's changes an image."""
    magnitude: Annotated[float, Between(0, 10)] = 9.0
    """RandAugment's mean strength."""
    erase: Annotated[float, Between(0, 1)] = 0.0
    """Probability of a random hole."""
    epochs: Annotated[int, Between(1, 10**6)]
    """Passes over the training images. Published: 90 for the probe, and for fine-tuning 100 of
    ViT-B, 50 of ViT-L."""
    warmup_epochs: Annotated[float, Between(0, 10**6)]
    """Of which with a rising learning rate."""
    batch_size: Annotated[int, Between(1, 10**6)] = 256
    """Images a step over all processes and micro-batches. Published: 4096 for the probe, 1024 for
    fine-tuning."""
    accumulate: Annotated[int, Between(1, 10**6)] = 1
    """Micro-batches a step on each process; where the images do not divide, the last one is
    smaller."""
    base_lr: Annotated[float, Between(above=0, at_most=1000)]
    """Peak learning rate for 256 images a step, proportional to the batch; ViT-L probes at half."""
    min_lr: Annotated[float, Between(0, 1000)] = 0.0
    """Where the cosine ends."""
    weight_decay: Annotated[float, Between(0, 1000)] = 0.0
    """Of matrices and tables."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast type of all that computes, tokenizer included. Published: fp16."""
    seed: Seed = 0
    """Batch k is a pure function of (seed, k)."""
    tracker: Name = "tensorboard"
    """See :class:`unmask.recipes.training.Training`."""

    def __post_init__(self) -> None:
        """Reject lengths that no run can have."""
        super().__post_init__()
        if self.image_size is not None:
            object.__setattr__(self, "image_size", checked_size(self.image_size))
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs} must lie in [0, epochs] and epochs="
                f"{self.epochs}; give fewer, or more epochs"
            )

    def training(self, images: int) -> Training:
        """The loop's options for so many training images; an epoch's remainder is left out.

        Raises:
            InputError: the batch exceeds the images.
        """
        check_batch_size(images, self.batch_size)
        each = images // self.batch_size
        return Training(
            steps=self.epochs * each,
            batch_size=self.batch_size,
            accumulate=self.accumulate,
            lr=self.base_lr * self.batch_size / 256,
            min_lr=self.min_lr,
            warmup_steps=round(self.warmup_epochs * each),
            betas=(0.9, 0.999),
            weight_decay=self.weight_decay,
            precision=self.precision,
            ema=None,
            seed=self.seed,
            log_every=max(1, each // 4),
            preview_every=each,
            save_every=each,
            tracker=self.tracker,
        )

    def transform(self, size: ImageSize, channels: int) -> Transform:
        """Of training images."""
        return Augment(
            size=size,
            crop=self.crop,
            flip=self.flip,
            channels=channels,
            operations=self.operations,
            magnitude=self.magnitude,
            erase=self.erase,
        )

    def still_transform(self, size: ImageSize, channels: int) -> Transform:
        """Of held-out images."""
        return Transform(size=size, crop=STILL.get(self.crop, self.crop), channels=channels)


PROBE = Course(crop="clipped", epochs=90, warmup_epochs=10, base_lr=0.1)
FINETUNE = Course(
    crop="resized",
    operations=2,
    epochs=100,
    warmup_epochs=5,
    base_lr=2.5e-4,
    min_lr=1e-6,
    weight_decay=0.05,
)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(Ranged):
    """A linear classifier on frozen features (MAGE, ``main_linprobe.py``)."""

    course: Annotated[Course, tyro.conf.arg(name="")] = PROBE
    """How it is trained."""
    embedding_dropout: bool = True
    """Keep the embedding's dropout on while the head trains, as published; without it the features
    of a cached view are constant and computed once."""
    baseline: Literal["none", "random", "pixels"] = "none"
    """Probe an encoder with random weights, or the pixels themselves (averaged to at most 32x32),
    for comparison."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Ranged):
    """Training of encoder and head together (MAGE, ``main_finetune.py``)."""

    course: Annotated[Course, tyro.conf.arg(name="")] = FINETUNE
    """How they are trained; 50 epochs for ViT-L."""
    layer_decay: Annotated[float, Between(above=0, at_most=1)] = 0.65
    """Learning rate of a block as a share of the next one's; 0.75 for ViT-L."""
    drop_path: Annotated[float, Between(0, below=1)] = 0.1
    """Rate at the last block; 0.2 for ViT-L."""
    smoothing: Annotated[float, Between(0, below=1)] = 0.1
    """Share of the target spread over all classes."""
    mixing: Mixing = field(default_factory=Mixing)
    """Mixup and cutmix."""
    new_head: bool = False
    """Start another head where the weights come with one."""
