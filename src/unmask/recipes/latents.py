"""What the published MAR and eMIGM have in common: sizes, training, and a fast way to sample."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from unmask.decode import Plan
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw
from unmask.recipes.recipe import NamedPlan
from unmask.recipes.training import Ema, Training, imagenet_epochs

PROCESSES = 32  # of a published training, each of which draws its own mask ratio
BODIES = {  # width, blocks and heads of the encoder, and again of the decoder
    "xsmall": (448, 10, 8),
    "small": (512, 12, 8),
    "base": (768, 12, 12),
    "large": (1024, 16, 16),
    "huge": (1280, 20, 16),
}
Interval = tuple[float, float]


class Row(NamedTuple):
    """One published system.

    Args:
        size: Key of :data:`BODIES`.
        head: Blocks and width of the diffusion head.
        millions: Parameters, a tied vector counted once.
        fid: FID of 50,000 images by two plans: MAR's guided and unguided, eMIGM's fast and slow.
        inception: Inception scores by the same plans; None where none are published.
        scale: Guidance scale.
        intervals: Guided part of the time in either plan; None means all of it.
        batch_size: Images a step of the training.
    """

    size: str
    head: tuple[int, int]
    millions: int
    fid: tuple[float, float]
    inception: tuple[float, float] | None = None
    scale: float = 4.0
    intervals: tuple[Interval, Interval] | None = None
    batch_size: int = 2048

    def network(self, *, channels: int = 16, tied: bool = False) -> LatentNetwork:
        """The network on 16 x 16 tokens with ImageNet's classes."""
        width, depth, heads = BODIES[self.size]
        return LatentNetwork(
            channels=channels, length=256, classes=1000, dropout=0.1, tied=tied,
            width=width, depth=depth, heads=heads,
            decoder_width=width, decoder_depth=depth, decoder_heads=heads,
            head_depth=self.head[0], head_width=self.head[1],
        )  # fmt: skip

    def training(self) -> Training:
        """The published training (``main_mar.py``): 800 epochs, of which 100 are warm-up."""
        return Training(
            steps=imagenet_epochs(800, self.batch_size), batch_size=self.batch_size,
            lr=1e-4 * self.batch_size / 256, schedule="constant",
            warmup_steps=imagenet_epochs(100, self.batch_size),
            betas=(0.9, 0.95), weight_decay=0.02, decay_only_matrices=True, decay_head=False,
            clip_grad_norm=3.0,
            label_dropout=0.1, noise_repeats=4, precision="fp16",
            ema=Ema(decay=0.9999, warmup="none"),
            log_every=100, preview_every=imagenet_epochs(40, self.batch_size),
            save_every=imagenet_epochs(5, self.batch_size),
        )  # fmt: skip


def fast(slow: Plan, *, steps: int, head_steps: int, refresh: int) -> NamedPlan:
    """The plan with these steps, DPM-Solver in the head, and a weak branch that is mostly reused.

    MAR's best plans become shorter by all three. eMIGM's have few steps and that solver already, so
    that the reuse alone is new. What it costs was measured on the small systems alone
    (docs/compare.md).
    """
    plan = replace(
        slow,
        steps=steps,
        guidance=replace(slow.guidance, refresh=refresh),
        draw=DiffusionDraw(solver="dpm-solver", respacing=str(head_steps)),
    )
    return NamedPlan(name="fast", plan=plan)
