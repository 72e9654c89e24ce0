"""Options of a linear probe and of a fine-tuning; the defaults are MAGE's published ones for ViT-B,
but for the batch, which the published runs had on 32 devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unmask.data.augment import Augment
from unmask.data.batches import check_batch_size
from unmask.data.transform import Crop, Transform
from unmask.errors import InputError
from unmask.probe.encoder import Pool
from unmask.probe.mixing import Mixing
from unmask.train.settings import Training

JUDGED: dict[Crop, Crop] = {"resized": "inner", "clipped": "inner", "random": "center"}  # crops of held-out images


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
    """Of training images; held-out ones are cropped the same way but without chance."""
    flip: bool = True
    """Mirror half of the training images; wrong for digits and letters."""
    epochs: int
    """Passes over the training images."""
    warmup_epochs: float
    """Of which with a rising learning rate."""
    batch_size: int = 256
    """Images a step over all processes and micro-batches."""
    accumulate: int = 1
    """Micro-batches a step on each process."""
    base_lr: float
    """Peak learning rate for 256 images a step; it is proportional to the batch."""
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
        return Transform(size=size, crop=self.crop, flip=self.flip, channels=channels)

    def judged_transform(self, size: int, channels: int) -> Transform:
        """Of held-out images."""
        return Transform(size=size, crop=JUDGED.get(self.crop, self.crop), channels=channels)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(Course):
    """A linear classifier on frozen features (MAGE, ``main_linprobe.py``: batch 4096)."""

    crop: Crop = "clipped"
    """See :class:`Course`."""
    epochs: int = 90
    """See :class:`Course`."""
    warmup_epochs: float = 10
    """See :class:`Course`."""
    base_lr: float = 0.1
    """See :class:`Course`; 0.05 for ViT-L."""
    embedding_dropout: bool = True
    """Keep the embedding's dropout on while the head trains, as published; without it the features
    of a cached view are constant and computed once."""
    baseline: Literal["none", "random", "pixels"] = "none"
    """Probe an encoder with random weights, or the pixels themselves (averaged to at most 32x32),
    for comparison."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Course):
    """Training of encoder and head together (MAGE, ``main_finetune.py``: batch 1024)."""

    crop: Crop = "resized"
    """See :class:`Course`."""
    epochs: int = 100
    """See :class:`Course`; 50 for ViT-L."""
    warmup_epochs: float = 5
    """See :class:`Course`."""
    base_lr: float = 2.5e-4
    """See :class:`Course`."""
    min_lr: float = 1e-6
    """See :class:`Course`."""
    weight_decay: float = 0.05
    """See :class:`Course`."""
    layer_decay: float = 0.65
    """Learning rate of a block as a share of the next one's; 0.75 for ViT-L."""
    drop_path: float = 0.1
    """Rate at the last block, in [0, 1); 0.2 for ViT-L."""
    smoothing: float = 0.1
    """Share of the target spread over all classes, in [0, 1)."""
    operations: int = 2
    """RandAugment's changes an image."""
    magnitude: float = 9.0
    """RandAugment's mean strength, in [0, 10]."""
    erase: float = 0.0
    """Probability of a random hole."""
    mixing: Mixing = field(default_factory=Mixing)
    """Mixup and cutmix."""
    new_head: bool = False
    """Start another head where the weights come with one."""

    def __post_init__(self) -> None:
        """Reject shares out of range."""
        super().__post_init__()
        for name in ("drop_path", "smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.layer_decay <= 1:
            raise InputError(f"layer_decay={self.layer_decay} must lie in (0, 1]")

    def transform(self, size: int, channels: int) -> Transform:
        """Of training images, with their colours and shapes changed."""
        return Augment(
            size=size,
            crop=self.crop,
            flip=self.flip,
            channels=channels,
            operations=self.operations,
            magnitude=self.magnitude,
            erase=self.erase,
        )
