"""MAR (arXiv 2406.11838): the published systems, their parts told by one table, and a small one.

Its numbers come from the repository's README and defaults; what was trained longer than those say
(800 epochs, larger heads) from the authors' answers and the paper's appendix B.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from unmask.counts import FixedCounts
from unmask.decode import Plan
from unmask.guidance import Guidance
from unmask.masking import NormalMasking
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import RandomOrder
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import Ema, Training
from unmask.results import Result

README, PAPER = "LTH14/mar, README", "arXiv 2406.11838"
IMAGENET = 1_281_167  # training images


def epochs(number: int, batch_size: int) -> int:
    """Steps of so many epochs of ImageNet, each without its last, incomplete batch.

    800 epochs at 2,048 images are 800 x 625 = 500,000 steps; at 1,024, 800 x 1,251 = 1,000,800.
    """
    return number * (IMAGENET // batch_size)


PROCESSES = 32  # of a published training, each of which draws its own mask ratio


def training_at(batch_size: int) -> Training:
    """The published training (``main_mar.py``): 800 epochs, of which 100 are warm-up."""
    return Training(
        steps=epochs(800, batch_size),
        batch_size=batch_size,
        lr=1e-4 * batch_size / 256,
        schedule="constant",
        warmup_steps=epochs(100, batch_size),
        betas=(0.9, 0.95),
        weight_decay=0.02,
        decay_only_matrices=True,
        decay_head=False,
        clip_grad_norm=3.0,
        label_dropout=0.1,
        noise_repeats=4,
        precision="fp16",
        ema=Ema(decay=0.9999, warmup="none"),
        log_every=100,
        save_every=epochs(5, batch_size),
        preview_every=epochs(40, batch_size),
    )


class Sizes(NamedTuple):
    """One row of the table."""

    width: int
    """Of encoder and decoder."""
    depth: int
    """Blocks of each."""
    heads: int
    """Attention heads."""
    head: tuple[int, int]
    """Blocks and width of the diffusion head."""

    def network(self, *, channels: int = 16, tied: bool = False) -> LatentNetwork:
        """The network on 16 x 16 tokens with ImageNet's classes."""
        return LatentNetwork(
            channels=channels,
            width=self.width,
            depth=self.depth,
            heads=self.heads,
            decoder_width=self.width,
            decoder_depth=self.depth,
            decoder_heads=self.heads,
            length=256,
            head_depth=self.head[0],
            head_width=self.head[1],
            classes=1000,
            dropout=0.1,
            tied=tied,
        )


def plan(steps: int, guidance: Guidance, temperature: float = 1.0) -> Plan:
    """Cosine counts, random positions, 100 ancestral steps of the head."""
    return Plan(
        steps=steps,
        counts=FixedCounts(least=1),
        order=RandomOrder(),
        guidance=guidance,
        draw=DiffusionDraw(solver="ddpm", respacing="100", temperature=temperature),
    )


UNGUIDED = NamedPlan(name="unguided", plan=plan(256, Guidance(), 0.95))
QUICK = NamedPlan(name="quick", plan=plan(64, Guidance(scale=4.0)))  # its notebook's


def fast(slow: Plan, *, steps: int, head_steps: int, refresh: int) -> NamedPlan:
    """Fewer steps, DPM-Solver in the head, and a weak branch that is mostly reused.

    What it costs was measured on the small systems alone (docs/compare.md).
    """
    return NamedPlan(
        name="fast",
        plan=replace(
            slow,
            steps=steps,
            guidance=replace(slow.guidance, refresh=refresh),
            draw=DiffusionDraw(solver="dpm-solver", respacing=str(head_steps)),
        ),
    )


# width, blocks a half, heads, head; parameters; guidance; FID and IS with it and without
TABLE: dict[str, tuple[Sizes, str, float, tuple[float, float], tuple[float, float]]] = {
    "base": (Sizes(768, 12, 12, (6, 1024)), "208 M", 2.9, (2.31, 281.7), (3.48, 192.4)),
    "large": (Sizes(1024, 16, 16, (8, 1280)), "478 M", 3.0, (1.78, 296.0), (2.60, 221.4)),
    "huge": (Sizes(1280, 20, 16, (12, 1536)), "942 M", 3.2, (1.55, 303.7), (2.35, 227.8)),
}


def _recipe(name: str) -> Recipe:
    sizes, parameters, scale, guided, unguided = TABLE[name]
    best = plan(256, Guidance(scale=scale, ramp="revealed"))
    return Recipe(
        name=f"mar-{name}",
        summary=f"MAR, ImageNet 256x256 in KL-16 latents, {parameters} parameters",
        tokenizer="kl16",
        image_size=256,
        network=sizes.network(),
        masking=NormalMasking(mean=1.0, std=0.25, least=0.7, group=2048 // PROCESSES),
        training=training_at(2048),
        plan=best,
        plans=(UNGUIDED, QUICK, fast(best, steps=64, head_steps=14, refresh=4)),
        results=tuple(
            Result(metric=metric, value=value, setting=setting, source=source)
            for pair, setting, source in (
                (guided, f"guidance {scale}", README),
                (unguided, "plan unguided", PAPER),
            )
            for metric, value in zip(("FID-50k", "IS"), pair, strict=True)
        ),
    )


# A small one, trained here ------------------------------------------------------------------------

FASHION_NETWORK = LatentNetwork(
    channels=8, width=128, depth=2, heads=4, decoder_width=128, decoder_depth=3, decoder_heads=4,
    length=49, head_width=192, head_depth=3, classes=10, buffer=8,
)  # fmt: skip
FASHION_PLAN = Plan(
    steps=16,
    counts=FixedCounts(least=1),
    order=RandomOrder(),
    guidance=Guidance(scale=3.0, ramp="revealed"),
    # begins at step 960, which multiplies the head's errors by 16, and not at 999: by 20,000
    draw=DiffusionDraw(solver="ddpm", respacing="ddim25"),
)
FASHION = Recipe(
    name="fashion-mar",
    summary="Fashion-MNIST 28x28 in latents of fashion-kl, a quarter of an hour on two CPU cores",
    tokenizer="fashion-kl",
    image_size=28,
    crop="none",
    flip=False,  # every shoe of the data points the same way
    network=FASHION_NETWORK,
    masking=NormalMasking(mean=1.0, std=0.25, least=0.7),
    training=Training(
        steps=2000,
        batch_size=32,
        lr=1e-3,
        schedule="constant",
        warmup_steps=100,
        betas=(0.9, 0.95),
        weight_decay=0.02,
        decay_only_matrices=True,
        decay_head=False,
        clip_grad_norm=1.0,
        label_dropout=0.1,
        noise_repeats=4,
        ema=Ema(decay=0.998, warmup="inverse"),
        log_every=50,
        preview_every=1000,
        save_every=500,
    ),
    plan=FASHION_PLAN,
    plans=(fast(FASHION_PLAN, steps=8, head_steps=8, refresh=4),),
    results=(
        Result(
            metric="class accuracy", value=0.872, setting="shipped weights, 500 images",
            source="benchmarks/reports/small_systems_amd-epyc_2026-11-21.md",
        ),
    ),
)  # fmt: skip

PUBLISHED = tuple(map(_recipe, TABLE))
RECIPES: tuple[Recipe, ...] = (FASHION, *PUBLISHED)
