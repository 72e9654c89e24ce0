"""Everything that decides a training run besides the network, the data and the objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from unmask.errors import InputError
from unmask.ranges import Between, Name, Place, Ranged, Seed

MOST_STEPS = 10**9
IMAGENET = 1_281_167  # training images
Steps = Annotated[int, Between(0, MOST_STEPS)]


@dataclass(frozen=True, kw_only=True)
class Ema(Ranged, path="training.ema"):
    """Exponential moving average of the weights."""

    decay: Annotated[float, Between(0, below=1)] = 0.9999
    """Largest decay."""
    warmup: Literal["none", "inverse", "power"] = "power"
    """How the decay rises with the update count n: "none" is constant, "inverse" is
    (1+n)/(10+n) (TensorFlow's), "power" is 1-(1+n)^-power (k-diffusion's)."""
    power: Annotated[float, Between(above=0, at_most=10)] = 2 / 3
    """Exponent of the "power" warm-up."""
    after_step: Steps = 0
    """Updates before this one copy the weights instead of averaging."""


@dataclass(frozen=True, kw_only=True)
class Training(Ranged, path="training"):
    """Optimiser, schedule, precision and how often things happen. Frequencies count steps."""

    steps: Annotated[int, Between(1, MOST_STEPS)]
    """Optimiser steps of the whole run."""
    batch_size: Annotated[int, Between(1, 10**6)] = 256
    """Images a step over all processes and accumulated micro-batches."""
    accumulate: Annotated[int, Between(1, 10**6)] = 1
    """Micro-batches a step on each process; where the images do not divide, the last one is
    smaller."""
    micro_batch_size: Annotated[int, Between(1, 10**6)] | None = None
    """Images of a micro-batch on each process instead of their number, as maskgit-pytorch states
    it."""
    lr: Annotated[float, Between(0, 1000)] = 1e-4
    """Peak learning rate."""
    min_lr: Annotated[float, Between(0, 1000)] = 0.0
    """Where the cosine schedule ends."""
    schedule: Literal["constant", "cosine", "linear", "restarts"] = "cosine"
    """Course of the learning rate after the warm-up."""
    cycles: Annotated[int, Between(1, 10**6)] = 1
    """Of the "restarts" schedule: cosines after the warm-up, each falling to 0."""
    warmup_steps: Steps = 0
    """Steps of linear warm-up from 0; the first step then has learning rate 0, as published."""
    betas: Annotated[tuple[float, float], Between(0, below=1)] = (0.9, 0.96)
    """AdamW's two decay rates."""
    eps: Annotated[float, Between(0, 1)] = 1e-8
    """AdamW's epsilon."""
    weight_decay: Annotated[float, Between(0, 1000)] = 0.0
    """AdamW's decoupled decay."""
    decay_only_matrices: bool = False
    """Spare biases, norms and other one-dimensional parameters from weight decay."""
    decay_head: bool = True
    """False also spares everything in the head (MAR)."""
    clip_grad_norm: Annotated[float | None, Between(above=0)] = None
    """Largest global gradient norm; None means no clipping."""
    label_smoothing: Annotated[float, Between(0, below=1)] = 0.0
    """Share of the target spread over all codes."""
    label_dropout: Annotated[float, Between(0, below=1)] = 0.0
    """Probability that a class label becomes the null class."""
    noise_repeats: Annotated[int, Between(1, 10**4)] = 1
    """Diffusion steps learnt of each hidden token in one go (MAR's diffusion_batch_mul); of heads
    that diffuse."""
    normalize: Literal["global", "micro"] = "global"
    """Mean over the masked tokens of the whole batch or, if set, of each group of the masking; or
    of each micro-batch, which also draws its own ratio then (maskgit-pytorch)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast type; weights stay float32."""
    recompute: bool = False
    """Compute each block's activations twice instead of keeping them (gradient checkpointing):
    about a third more time, much less memory, the same results."""
    ema: Ema | None = field(default_factory=Ema)
    """None trains without an average; samples then come from the raw weights."""
    seed: Seed = 0
    """Batch k is a pure function of (seed, k)."""
    log_every: Steps = 50
    """Steps between log lines; 0 means only at the end."""
    preview_every: Steps = 0
    """Steps between sheets of samples; 0 means only at the end."""
    preview_images: Annotated[int, Between(0, 10**4)] = 40
    """Images of a sheet; 0 means no sheets at all, not even at the end."""
    preview_share: Annotated[float, Between(0, 1)] = 0.01
    """Largest share of the time that sheets take: one that would exceed it is left out, but never
    the one at the end. 1 leaves out none."""
    evaluate_every: Steps = 0
    """Steps between scores of generated images beside real ones, which are also taken at the end;
    0 means never. Of generators."""
    evaluate_images: Annotated[int, Between(2, 10**6)] = 2000
    """Images that are scored, with guidance and without; scores of other numbers do not compare."""
    evaluate_classifier: Place | None = None
    """Judge of their classes: "fashion", or a file of ``TrainedClassifier.save``."""
    save_every: Steps = 0
    """Steps between checkpoints, beside those by the clock; 0 means only the last step."""
    save_minutes: Annotated[float, Between(0, 10**6)] = 10.0
    """Minutes without a checkpoint after which one is made all the same, more where saving would
    take over 2 % of the time; 0 means never."""
    keep: Annotated[int, Between(0, 10**6)] = 2
    """Checkpoints kept on disk: the newest, then the newest at multiples of save_every, then those
    that a clock or a signal asked for; 0 keeps all."""
    keep_every: Steps = 0
    """Checkpoints at multiples of this many steps are made and kept for good; 0 means none."""
    tracker: Name = "tensorboard"
    """Where figures also go, beside log.jsonl: any name that accelerate knows ("wandb", "mlflow",
    "comet_ml", ...), or "none"."""

    def __post_init__(self) -> None:
        """Reject values that no run can use."""
        super().__post_init__()
        if self.accumulate > self.batch_size:
            raise InputError(
                f"training.accumulate={self.accumulate} exceeds training.batch_size="
                f"{self.batch_size}; use at most one micro-batch an image"
            )
        if self.micro_batch_size is not None and self.accumulate > 1:
            raise InputError(
                f"training.micro_batch_size={self.micro_batch_size} and training.accumulate="
                f"{self.accumulate} both say how a batch is cut; give one of them"
            )


def imagenet_epochs(number: int, batch_size: int) -> int:
    """Steps of so many epochs of ImageNet, each without its last, incomplete batch.

    800 epochs at 2,048 images are 800 x 625 = 500,000 steps; at 1,024, 800 x 1,251 = 1,000,800.
    """
    return number * (IMAGENET // batch_size)
