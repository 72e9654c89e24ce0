"""Options of a linear probe and of a fine-tuning.

The defaults are MAGE's published ones for ViT-B, but for the batch: 4096 images of the probe, 1024
of the fine-tuning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from unmask.data.augment import Augment
from unmask.data.batches import check_batch_size
from unmask.data.transform import Crop, Transform
from unmask.errors import InputError
from unmask.probe.encoder import Pool
from unmask.probe.mixing import Mixing
from unmask.train.settings import Training

STILL: dict[Crop, Crop] = {"resized": "inner", "clipped": "inner", "random": "center"}


@dataclass(frozen=True, kw_only=True)
class Course:
    """What both share. Lengths count passes over the training images."""

    pool: Pool = "mean"
    """Average the image tokens, or take the class slot's feature."""
    image_size: int | None = None
    """Pixels a side; None means the size that gives the encoder its trained grid."""
    interpolate: bool = False
    """Allow a grid other than the trained one, with resized positions."""
    crop: Crop
    """Of training images; held-out ones are cropped likewise, but without chance."""
    flip: bool = True
    """Mirror half of the training images; wrong for digits and letters."""
    operations: int = 0
    """RandAugment's changes an image."""
    magnitude: float = 9.0
    """RandAugment's mean strength, in [0, 10]."""
    erase: float = 0.0
    """Probability of a random hole."""
    epochs: int
    """Passes over the training images."""
    warmup_epochs: float
    """Of which with a rising learning rate."""
    batch_size: int = 256
    """Images a step over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches a step on each process."""
    base_lr: float
    """Peak learning rate for 256 images a step, proportional to the batch; ViT-L probes at half."""
    min_lr: float = 0.0
    """Where the cosine ends."""
    weight_decay: float = 0.0
    """Of matrices and tables."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast type of all that computes, tokenizer included."""
    seed: int = 0
    """Batch k is a pure function of (seed, k)."""
    tracker: str = "tensorboard"
    """See :class:`unmask.train.settings.Training`."""

    def __post_init__(self) -> None:
        """Reject lengths that no run can have."""
        if self.epochs < 1 or not 0 <= self.warmup_epochs <= self.epochs:
            raise InputError(
                f"epochs={self.epochs} must be at least 1 and warmup_epochs={self.warmup_epochs} "
                "in [0, epochs]"
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

    def transform(self, size: int, channels: int) -> Transform:
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

    def still_transform(self, size: int, channels: int) -> Transform:
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
class ProbeOptions:
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
class FinetuneOptions:
    """Training of encoder and head together (MAGE, ``main_finetune.py``)."""

    course: Annotated[Course, tyro.conf.arg(name="")] = FINETUNE
    """How they are trained; 50 epochs for ViT-L."""
    layer_decay: float = 0.65
    """Learning rate of a block as a share of the next one's; 0.75 for ViT-L."""
    drop_path: float = 0.1
    """Rate at the last block, in [0, 1); 0.2 for ViT-L."""
    smoothing: float = 0.1
    """Share of the target spread over all classes, in [0, 1)."""
    mixing: Mixing = field(default_factory=Mixing)
    """Mixup and cutmix."""
    new_head: bool = False
    """Start another head where the weights come with one."""

    def __post_init__(self) -> None:
        """Reject shares out of range."""
        for name in ("drop_path", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay={self.layer_decay} must lie in (0, 1]")
