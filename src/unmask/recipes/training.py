"""Everything that decides a training run besides the network, the data and the objective."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from unmask.errors import InputError
from unmask.ranges import Between, Name, Place, Ranged, Seed

MOST_STEPS = 10**9
IMAGENET = 1_281_167  # training images
Steps = Annotated[int, Between(0, MOST_STEPS)]
IN_PLACE_OF = {"epochs": "steps", "blr": "lr", "warmup_epochs": "warmup_steps"}
"""Options in the words of MAE, MAGE and MAR, and what each decides; see :func:`in_steps`."""


@dataclass(frozen=True, kw_only=True)
class Ema(Ranged, path="training.ema"):
    """Exponential moving average of the weights."""

    decay: Annotated[float, Between(0, below=1)] = 0.9999
    """Share of the average that an update keeps, at most."""
    warmup: Literal["none", "inverse", "power"] = "power"
    """Rise of the decay with the number n of updates: "none" is constant, "inverse" is
    (1+n)/(10+n) (TensorFlow's), "power" is 1-(1+n)^-power (k-diffusion's)."""
    power: Annotated[float, Between(above=0, at_most=10)] = 2 / 3
    """Exponent of the average's warm-up (warmup="power" only)."""
    after_step: Steps = 0
    """Updates before averaging begins; until then the average is a copy of the weights."""


@dataclass(frozen=True, kw_only=True)
class Training(Ranged, path="training"):
    """Optimiser, schedule, precision, and how often things happen."""

    # The text of a recipe identifies folders of evaluations: what came later stays out of it.

    steps: Annotated[int, Between(1, MOST_STEPS)]
    """Optimiser steps of the whole run."""
    epochs: Annotated[float, Between(above=0, at_most=10**6)] | None = field(
        default=None, repr=False
    )
    """Passes over the images, of batch_size each without the remainder, in place of `steps`. None
    leaves `steps`."""
    batch_size: Annotated[int, Between(1, 10**6)] = 256
    """Images a step over all processes and accumulated micro-batches."""
    accumulate: Annotated[int, Between(1, 10**6)] = 1
    """Micro-batches a step on each process; the last one is smaller where images do not divide."""
    micro_batch_size: Annotated[int, Between(1, 10**6)] | None = None
    """Images of a micro-batch on each process, as maskgit-pytorch states it; None means that
    `accumulate` says how many micro-batches there are."""
    lr: Annotated[float, Between(0, 1000)] = 1e-4
    """Learning rate after warm-up, the highest of the run."""
    base_rate: Annotated[float | None, Between(0, 1)] = field(default=None, repr=False)
    """Factor on the learning rate of what a training with a base takes from it; None means 1, the
    rate of what begins anew."""
    blr: Annotated[float, Between(0, 1000)] | None = field(default=None, repr=False)
    """Learning rate for 256 images, in place of `lr`: lr is blr x batch_size / 256, as in MAE, MAGE
    and MAR. None leaves `lr`."""
    min_lr: Annotated[float, Between(0, 1000)] = 0.0
    """Learning rate at the end of the run (schedule="cosine" only)."""
    schedule: Literal["constant", "cosine", "linear", "restarts"] = "cosine"
    """Course of the learning rate after warm-up; all but "constant" fall."""
    cycles: Annotated[int, Between(1, 10**6)] = 1
    """Number of cosine cycles after warm-up, each falling to 0 (schedule="restarts" only)."""
    warmup_steps: Steps = 0
    """Steps in which the learning rate rises linearly from 0, its value in the first of them."""
    warmup_epochs: Annotated[float, Between(0, 10**6)] | None = field(default=None, repr=False)
    """Passes over the images in which the learning rate rises, in place of `warmup_steps`. None
    leaves `warmup_steps`."""
    betas: Annotated[tuple[float, float], Between(0, below=1)] = (0.9, 0.96)
    """Decay rates of AdamW's two moments, of the gradient and of its square."""
    eps: Annotated[float, Between(0, 1)] = 1e-8
    """Number that AdamW adds to the root of the second moment."""
    weight_decay: Annotated[float, Between(0, 1000)] = 0.0
    """Decoupled weight decay of AdamW, multiplied by the learning rate."""
    decay_only_matrices: bool = False
    """Leave biases, norms and other one-dimensional parameters without weight decay."""
    decay_head: bool = True
    """Give the head of the network weight decay; MAR gives it none."""
    clip_grad_norm: Annotated[float | None, Between(above=0)] = None
    """Largest norm of all gradients together; None means no clipping."""
    label_smoothing: Annotated[float, Between(0, below=1)] = 0.0
    """Share of the target that is spread over all codes."""
    label_dropout: Annotated[float, Between(0, below=1)] = 0.0
    """Probability that an example's class label becomes the null class, which guidance needs."""
    noise_repeats: Annotated[int, Between(1, 10**4)] = 1
    """Diffusion steps that are learnt of each hidden token in a training step, by heads that
    diffuse (MAR's diffusion_batch_mul)."""
    normalize: Literal["global", "micro"] = "global"
    """Tokens over which the loss is a mean: the hidden ones of the whole batch or of each group of
    the masking ("global"), or those of each micro-batch, which then also draws a mask ratio of its
    own ("micro", maskgit-pytorch)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Type of numbers in autocast regions, "no" for float32; weights stay float32."""
    recompute: bool = False
    """Compute each block's activations twice instead of keeping them (gradient checkpointing):
    about a third more time, much less memory, equal results."""
    ema: Ema | None = field(default_factory=Ema)
    """Moving average of the weights, which samples are made with; None keeps none."""
    seed: Seed = 0
    """Seed of initial weights, batches, masks and dropout."""
    log_every: Steps = 50
    """Steps between log lines; 0 means only at the end."""
    preview_every: Steps = 0
    """Steps between sheets of samples; 0 means only at the end."""
    preview_images: Annotated[int, Between(0, 10**4)] = 40
    """Images on a sheet of samples; 0 means no sheets at all, not even at the end."""
    preview_share: Annotated[float, Between(0, 1)] = 0.01
    """Largest share of the time that sheets of samples take: one that would exceed it is left out,
    but never the one at the end. 1 leaves out none."""
    evaluate_every: Steps = 0
    """Steps between scores of a generator's images beside real ones, which are also taken at the
    end; 0 means never."""
    evaluate_images: Annotated[int, Between(2, 10**6)] = 2000
    """Images that are scored during the training; scores of different numbers do not compare."""
    evaluate_classifier: Place | None = None
    """Classifier that judges the classes of scored images: "fashion", or a file of
    ``TrainedClassifier.save``; None leaves that score out."""
    evaluate_inception: Place | None = field(default=None, repr=False)
    """File of the 2015 Inception network's weights (torch-fidelity's release), whose features are
    scored during the training; None takes EfficientNet's."""
    evaluate_reference: Place | None = field(default=None, repr=False)
    """File or folder that scores during the training compare with in place of held-out images:
    statistics of the same features, or images. None takes the held-out images."""
    evaluate_temperature: Annotated[float | None, Between(0, 1e6)] = field(default=None, repr=False)
    """Temperature of the images that are scored without guidance; None takes the plan's."""
    keep_best: bool = field(default=False, repr=False)
    """Keep the weights of the lowest eval/fd so far as a model of their own, best/ in the run."""
    save_every: Steps = 0
    """Steps between checkpoints, beside those by the clock; 0 means only the last step."""
    save_minutes: Annotated[float, Between(0, 10**6)] = 10.0
    """Minutes without a checkpoint after which one is made all the same, more where saving would
    take over 2 % of the time; 0 means never."""
    keep: Annotated[int, Between(0, 10**6)] | Literal["all"] = 2
    """Checkpoints kept on disk: the newest, then the newest at multiples of `save_every`, then
    those that a clock or a signal asked for; "all" (or 0) keeps every one."""
    keep_every: Steps = 0
    """Steps between checkpoints that are kept for good; 0 means none."""
    tracker: Name = "tensorboard"
    """Tracker that figures go to beside log.jsonl: any name that accelerate knows ("wandb",
    "mlflow", "comet_ml", ...), or "none"."""

    def __post_init__(self) -> None:
        """Reject values that no run can use."""
        super().__post_init__()
        if self.keep_best and not self.evaluate_every:
            raise InputError("training.keep_best goes by scores; give training.evaluate_every too")
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


def in_steps(training: Training, images: int) -> Training:
    """A training whose epochs and base rate have become steps and a rate, as they are stored.

    Args:
        training: in either words.
        images: N that there are; an epoch has N // batch_size steps.

    Raises:
        InputError: the steps exceed what an option can hold.
    """
    epoch = max(1, images // training.batch_size)
    found: dict[str, Any] = dict.fromkeys(IN_PLACE_OF)
    if training.epochs is not None:
        found["steps"] = max(1, round(training.epochs * epoch))
    if training.blr is not None:
        found["lr"] = training.blr * training.batch_size / 256
    if training.warmup_epochs is not None:
        found["warmup_steps"] = round(training.warmup_epochs * epoch)
    return replace(training, **found)


def imagenet_epochs(number: int, batch_size: int) -> int:
    """Steps of so many epochs of ImageNet, each without its last, incomplete batch.

    800 epochs at 2,048 images are 800 x 625 = 500,000 steps; at 1,024, 800 x 1,251 = 1,000,800.
    """
    return number * (IMAGENET // batch_size)
