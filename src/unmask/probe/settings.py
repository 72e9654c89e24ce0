"""Options of a linear probe and of a fine-tuning.

The defaults are MAGE's published ones for ViT-B, but for the batch (4096 images of the probe, 1024
of the fine-tuning) and the precision (fp16).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

from unmask.data.augment import Augment
from unmask.data.batches import check_batch_size
from unmask.data.transform import Crop, Transform
from unmask.errors import InputError
from unmask.files.serial import to_dict
from unmask.image_size import ImageSize
from unmask.probe.encoder import Pool
from unmask.probe.mixing import Mixing
from unmask.ranges import Between, Name, Ranged, Seed
from unmask.recipes.training import Training

STILL: dict[Crop, Crop] = {"resized": "inner", "clipped": "inner", "random": "center"}
Count = Annotated[int, Between(1, 10**6)]
Rate = Annotated[float, Between(above=0, at_most=1000)]
Decay = Annotated[float, Between(0, 1000)]
Operations = Annotated[int, Between(0, 100)]
WarmUp = Annotated[float, Between(0, 10**6)]


@dataclass(frozen=True, kw_only=True)
class FeatureOptions(Ranged):
    """Choices that make one feature of an image."""

    pool: Pool = "mean"
    """One feature of an image: the average of its tokens, or the class slot."""
    image_size: ImageSize | None = None
    """Pixels: one number, or height and width; None gives the encoder its trained grid."""
    interpolate: bool = False
    """Allow a grid of tokens other than the trained one; the position table is resized to it."""


@dataclass(frozen=True, kw_only=True)
class ClassifierOptions(FeatureOptions):
    """How a classifier is trained on MAGE's encoder, frozen or not; the defaults are a probe's."""

    crop: Crop = "clipped"
    """Crop of training images. Validation images get the deterministic version of this crop."""
    flip: bool = True
    """Mirror half of the training images; wrong for digits and letters."""
    operations: Operations = 0
    """RandAugment: changes to an image."""
    magnitude: Annotated[float, Between(0, 10)] = 9.0
    """RandAugment: mean strength of a change, 10 being the strongest."""
    erase: Annotated[float, Between(0, 1)] = 0.0
    """Random erasing: probability of a hole in a training image."""
    epochs: Count = 90
    """Passes over the training images."""
    warmup_epochs: WarmUp = 10.0
    """Warm-up epochs, counted within the epochs."""
    batch_size: Count = 256
    """Images a step over all processes. Published: 4096 for the probe, 1024 for fine-tuning."""
    accumulate: Count = 1
    """Micro-batches a step on each process; the last one may be smaller."""
    base_lr: Rate = 0.1
    """Learning rate after warm-up per 256 images of a step. Published for ViT-L: 0.05."""
    min_lr: Decay = 0.0
    """Learning rate at the end of the cosine schedule."""
    weight_decay: Decay = 0.0
    """Weight decay of matrices and tables."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast type of network and tokenizer. Published: fp16."""
    seed: Seed = 0
    """Seed of weights, batches and augmentation; batch k is a pure function of (seed, k)."""
    tracker: Name = "tensorboard"
    """Where figures also go, beside log.jsonl: any name that accelerate knows ("wandb", "mlflow",
    "comet_ml", ...), or "none"."""

    def __post_init__(self) -> None:
        """Reject lengths that no run can have."""
        super().__post_init__()
        if self.warmup_epochs > self.epochs:
            raise InputError(
                f"warmup_epochs={self.warmup_epochs} must lie in [0, epochs] and epochs="
                f"{self.epochs}; give fewer, or more epochs"
            )

    def stored(self) -> dict[str, Any]:
        """The options as a run keeps them: what probe and fine-tuning share under one key."""
        everything = to_dict(self)
        shared = [field.name for field in fields(ClassifierOptions)]
        return {"course": {name: everything.pop(name) for name in shared}, **everything}

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

    def augment(self, size: ImageSize, channels: int) -> Augment:
        """The transform of training images."""
        return Augment(
            size=size,
            crop=self.crop,
            flip=self.flip,
            channels=channels,
            operations=self.operations,
            magnitude=self.magnitude,
            erase=self.erase,
        )

    def still(self, size: ImageSize, channels: int) -> Transform:
        """The transform of held-out images."""
        return Transform(size=size, crop=STILL.get(self.crop, self.crop), channels=channels)


@dataclass(frozen=True, kw_only=True)
class ProbeOptions(ClassifierOptions):
    """A linear classifier on frozen features (MAGE, ``main_linprobe.py``)."""

    embedding_dropout: bool = True
    """Keep the embedding's dropout on while the head trains, as published; without it the features
    of a cached view are constant and computed once."""
    baseline: Literal["none", "random", "pixels"] = "none"
    """Probe random weights, or pixels (averaged to at most 32x32), for comparison."""


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(ClassifierOptions):
    """Training of encoder and head together (MAGE, ``main_finetune.py``)."""

    crop: Crop = "resized"
    """Crop of training images. Validation images get the deterministic version of this crop."""
    operations: Operations = 2
    """RandAugment: changes to an image."""
    epochs: Count = 100
    """Passes over the training images. Published for ViT-L: 50."""
    warmup_epochs: WarmUp = 5.0
    """Warm-up epochs, counted within the epochs."""
    base_lr: Rate = 2.5e-4
    """Learning rate after warm-up per 256 images of a step."""
    min_lr: Decay = 1e-6
    """Learning rate at the end of the cosine schedule."""
    weight_decay: Decay = 0.05
    """Weight decay of matrices and tables."""
    layer_decay: Annotated[float, Between(above=0, at_most=1)] = 0.65
    """Learning rate of a block over that of the next one. Published for ViT-L: 0.75."""
    drop_path: Annotated[float, Between(0, below=1)] = 0.1
    """Stochastic depth: rate in the last block, falling to 0 in the first. ViT-L: 0.2."""
    smoothing: Annotated[float, Between(0, below=1)] = 0.1
    """Label smoothing: share of the target spread over all classes."""
    mixing: Mixing = field(default_factory=Mixing)
    """Mixup and cutmix of training images."""
    new_head: bool = False
    """Start another head where the weights come with one."""
