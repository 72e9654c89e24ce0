"""Everything that decides a training run besides the network, the data and the objective."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from unmask.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Ema:
    """Exponential moving average of the weights."""

    decay: float = 0.9999
    """Largest decay, in [0, 1)."""
    warmup: Literal["none", "inverse", "power"] = "power"
    """How the decay rises with the update count n: "none" is constant, "inverse" is
    (1+n)/(10+n) (TensorFlow's), "power" is 1-(1+n)^-power (k-diffusion's)."""
    power: float = 2 / 3
    """Exponent of the "power" warm-up."""
    after_step: int = 0
    """Updates before this one copy the weights instead of averaging."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """Optimiser, schedule, precision and how often things happen. Frequencies count steps."""

    steps: int
    """Optimiser steps of the whole run."""
    batch_size: int = 256
    """Images a step over all processes and accumulated micro-batches."""
    accumulate: int = 1
    """Micro-batches a step on each process; batch_size must divide by accumulate x processes."""
    lr: float = 1e-4
    """Peak learning rate."""
    min_lr: float = 0.0
    """Where the cosine schedule ends."""
    schedule: Literal["constant", "cosine", "linear", "restarts"] = "cosine"
    """Course of the learning rate after the warm-up."""
    cycles: int = 1
    """Of the "restarts" schedule: cosines after the warm-up, each falling to 0."""
    warmup_steps: int = 0
    """Steps of linear warm-up from 0; the first step then has learning rate 0, as published."""
    betas: tuple[float, float] = (0.9, 0.96)
    """AdamW's two decay rates."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    weight_decay: float = 0.0
    """AdamW's decoupled decay."""
    decay_only_matrices: bool = False
    """Spare biases, norms and other one-dimensional parameters from weight decay."""
    decay_head: bool = True
    """False also spares everything in the head (MAR)."""
    clip_grad_norm: float | None = None
    """Largest global gradient norm; None means no clipping."""
    label_smoothing: float = 0.0
    """Share of the target spread over all codes, in [0, 1)."""
    label_dropout: float = 0.0
    """Probability that a class label becomes the null class, in [0, 1)."""
    noise_repeats: int = 1
    """Diffusion steps learnt of each hidden token in one go (MAR's diffusion_batch_mul); of heads
    that diffuse."""
    normalize: Literal["global", "micro"] = "global"
    """Mean over the masked tokens of the whole batch, or of each micro-batch (maskgit-pytorch)."""
    precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast type; weights stay float32."""
    recompute: bool = False
    """Compute each block's activations twice instead of keeping them (gradient checkpointing):
    about a third more time, much less memory, the same results."""
    ema: Ema | None = field(default_factory=Ema)
    """None trains without an average; samples then come from the raw weights."""
    seed: int = 0
    """Batch k is a pure function of (seed, k)."""
    log_every: int = 50
    """Steps between log lines."""
    preview_every: int = 0
    """Steps between sample sheets; 0 means only at the end."""
    evaluate_every: int = 0
    """Steps between scores of generated images beside real ones, which are also taken at the end;
    0 means never. Of generators."""
    evaluate_images: int = 2000
    """Images that are scored, with guidance and without; scores of other numbers do not compare."""
    evaluate_classifier: str | None = None
    """Judge of their classes: "fashion", or a file of ``TrainedClassifier.save``."""
    save_every: int = 0
    """Steps between checkpoints; 0 means only the last step."""
    keep: int = 2
    """Newest checkpoints kept on disk."""
    tracker: str = "tensorboard"
    """Where figures also go, beside log.jsonl: any name that accelerate knows ("wandb", "mlflow",
    "comet_ml", ...), or "none"."""

    def __post_init__(self) -> None:
        """Reject values that no run can use."""
        positive = {"steps": self.steps, "batch_size": self.batch_size, "keep": self.keep}
        for name, value in {
            **positive,
            "accumulate": self.accumulate,
            "cycles": self.cycles,
            "noise_repeats": self.noise_repeats,
        }.items():
            if value < 1:
                raise InputError(f"training.{name}={value} must be at least 1")
        if self.evaluate_every and self.evaluate_images < 2:
            raise InputError(
                f"training.evaluate_images={self.evaluate_images} must be at least 2; 2000 is a "
                "fair start"
            )
        for name in ("label_smoothing", "label_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"training.{name}={getattr(self, name)} must lie in [0, 1)")
        if self.batch_size % self.accumulate:
            raise InputError(
                f"training.batch_size={self.batch_size} does not divide by "
                f"accumulate={self.accumulate}; choose a multiple"
            )
