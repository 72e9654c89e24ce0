"""Everything that is chosen about an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from unmask.errors import InputError
from unmask.machine.compute import Precision
from unmask.machine.devices import resolve_device
from unmask.ranges import Between, Length, Name, Ranged, Seed

BATCH = 64


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Ranged):
    """How many images are scored, on which features, beside what."""

    count: Annotated[int, Between(2, 10**7)] = 2000
    """Images of every set; scores of other counts do not compare."""
    seed: Seed = 0
    """Seed of the first generated image; image k has seed + k."""
    repeats: Annotated[int, Between(1, 1000)] = 1
    """Sets to generate, each from the seeds after the last one's; of several, mean and standard
    deviation of every score are reported."""
    resize: Annotated[int, Between(32, 2**11)] = 128
    """Height and width in pixels that EfficientNet sees; 224 is its own size and five times
    slower."""
    inception: Path | None = None
    """Weights of the 2015 Inception network (torch-fidelity's releases), whose features then take
    the place of EfficientNet's; it always sees 299 pixels."""
    features: Annotated[str | None, Length(1, 1000)] = None
    """Your own feature network in place of EfficientNet: module:attribute, a callable of
    (B, 3, H, W) floats in [0, 1] that gives (B, F)."""
    reference: Path | None = None
    """File that fd compares with in place of the held-out images: statistics of the same features
    (.npz, .pt, .pkl), or images (.npz, a folder of pictures). FID needs it and 50,000 images."""
    classifier: Literal["none", "fashion", "train"] = "none"
    """Network that judges the classes of conditional samples: the shipped Fashion-MNIST one, or
    one trained now on the real training images."""
    neighbours: Annotated[int, Between(1, 10**6)] = 3
    """Neighbour whose distance is a ball's radius in precision and recall; 3 as published."""
    inception_split: Annotated[int, Between(1, 10**9)] = 5000
    """Images whose inception score is taken together; 5,000 as in ADM's evaluator."""
    manifold_images: Annotated[int, Between(2, 10**6)] = 50_000
    """Images of a generated set or floor that precision and recall keep in memory, chosen by
    chance if there are more."""
    manifold_reference: Annotated[int, Between(2, 10**6)] = 10_000
    """Images of the reference that precision and recall keep in memory, chosen by chance if there
    are more; ADM's reference files hold 10,000."""
    batch_size: Annotated[int, Between(1, 2**16)] | Literal["auto"] = BATCH
    """Images a batch; auto generates as many at once as the device's memory holds, and measures 64
    at once."""
    device: Name = "auto"
    """Device of the generator and of the feature network: cpu, cuda, mps; auto takes the machine's
    accelerator if it has one."""
    compute: Precision | None = None
    """Arithmetic of a generator's network: float32, tf32, bf16 or fp16; feature networks always
    compute in float32. None takes bf16 on a GPU that has it natively and else float32."""

    @property
    def measured(self) -> int:
        """Images that are measured at once."""
        return BATCH if self.batch_size == "auto" else self.batch_size

    @property
    def place(self) -> torch.device:
        """The device that ``device`` names."""
        return resolve_device(self.device)

    def __post_init__(self) -> None:
        """Reject two networks, and more neighbours than images."""
        super().__post_init__()
        if self.features is not None and self.inception is not None:
            raise InputError("give one network: --features or --inception")
        kept = min(self.manifold_images, self.manifold_reference)
        if self.neighbours >= kept:
            raise InputError(
                f"neighbours={self.neighbours} must lie in [1, {kept}), the smaller of "
                "manifold_images and manifold_reference"
            )
