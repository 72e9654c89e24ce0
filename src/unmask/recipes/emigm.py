"""eMIGM (arXiv 2503.07197): MAR with other masks, random counts and a fast solver in its head.

The published models, as ``bash/train`` and ``bash/evaluate`` of its repository set them: the mask
token is the null class's vector, masks follow the exp function from time 0.2 on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from unmask.counts import AncestralCounts
from unmask.decode import Plan
from unmask.guidance import Guidance
from unmask.masking import BernoulliMasking
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import RandomOrder
from unmask.recipes import mar
from unmask.recipes.mar import Sizes, epochs, training_at
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.results import Result

PAPER = "arXiv 2503.07197"
Interval = tuple[float, float]


def plan(steps: int, head_steps: int, interval: Interval) -> Plan:
    """Random counts of the exp function, scale 4 in an interval of the plan's time."""
    return Plan(
        steps=steps,
        counts=AncestralCounts(curve="exp"),
        order=RandomOrder(),
        guidance=Guidance(scale=4.0, interval=interval),
        draw=DiffusionDraw(solver="dpm-solver", respacing=str(head_steps)),
    )


class Row(NamedTuple):
    """One published model."""

    sizes: Sizes
    """Of the network."""
    parameters: str
    """The tied vector once."""
    batch_size: int
    """Images a step."""
    fast: Interval
    """Guided part of the plan with 16 steps."""
    slow: Interval
    """Of the one with 128 (at 256x256) or 64."""
    fid: tuple[float, float]
    """Of both plans, 50,000 images."""


# width, blocks a half, heads, head; parameters; batch; guided interval and FID of both plans
AT_256, AT_512 = ((0.1, 0.3), (0.18, 0.6)), ((0.15, 0.35), (0.25, 0.5))
TABLE_256 = {
    "xsmall": Row(Sizes(448, 10, 8, (3, 1024)), "69 M", 1024, *AT_256, (4.23, 3.62)),
    "small": Row(Sizes(512, 12, 8, (3, 1024)), "97 M", 1024, *AT_256, (3.44, 2.87)),
    "base": Row(Sizes(768, 12, 12, (6, 1024)), "208 M", 2048, AT_256[0], (0.05, 0.4), (2.79, 2.32)),
    "large": Row(Sizes(1024, 16, 16, (8, 1280)), "478 M", 2048, *AT_256, (2.22, 1.72)),
    "huge": Row(
        Sizes(1280, 20, 16, (12, 1536)), "942 M", 2048, (0.2, 0.4), (0.3, 0.7), (2.02, 1.57)
    ),
}
TABLE_512 = {
    "xsmall": Row(Sizes(448, 10, 8, (6, 1280)), "105 M", 1024, *AT_512, (4.63, 4.45)),
    "small": Row(Sizes(512, 12, 8, (6, 1280)), "132 M", 1024, *AT_512, (3.65, 3.29)),
    "base": Row(Sizes(768, 12, 12, (8, 1280)), "244 M", 2048, *AT_512, (2.78, 2.31)),
    "large": Row(Sizes(1024, 16, 16, (8, 1280)), "478 M", 2048, *AT_512, (2.19, 1.77)),
}


def _recipe(name: str, row: Row, *, image_size: int) -> Recipe:
    many = 128 if image_size == 256 else 64
    few = plan(16, 8, row.fast)
    latents, channels = ("KL-16", 16) if image_size == 256 else ("DC-AE", 32)
    return Recipe(
        name=f"emigm-{name}-{image_size}",
        summary=f"eMIGM, ImageNet {image_size}x{image_size} in {latents} latents, "
        f"{row.parameters} parameters",
        tokenizer="kl16" if image_size == 256 else "dc-ae-f32c32-in-1.0",
        image_size=image_size,
        network=row.sizes.network(channels=channels, tied=True),
        masking=BernoulliMasking(
            curve="exp", least_time=0.2, group=row.batch_size // mar.PROCESSES
        ),
        training=replace(
            training_at(row.batch_size),
            keep_every=epochs(50, row.batch_size),  # "--save_epoch_name" of its scripts
        ),
        plan=few,
        plans=(
            NamedPlan(name=f"{many}-steps", plan=plan(many, 14, row.slow)),
            mar.fast(few, steps=16, head_steps=8, refresh=4),
        ),
        results=tuple(
            Result(metric="FID-50k", value=fid, setting=f"{steps} steps", source=PAPER)
            for steps, fid in zip((16, many), row.fid, strict=True)
        ),
    )


FASHION_PLAN = replace(
    mar.FASHION_PLAN, counts=AncestralCounts(curve="exp"), guidance=Guidance(scale=2.5)
)
FASHION = replace(
    mar.FASHION,
    name="fashion-emigm",
    summary="the same as fashion-mar with eMIGM's masks, tied token and random counts",
    network=replace(mar.FASHION_NETWORK, tied=True),
    masking=BernoulliMasking(curve="exp", least_time=0.2),
    plan=FASHION_PLAN,
    plans=(mar.fast(FASHION_PLAN, steps=4, head_steps=8, refresh=2),),
    results=(replace(mar.FASHION.results[0], value=0.918),),
)

PUBLISHED = (
    *(_recipe(name, row, image_size=256) for name, row in TABLE_256.items()),
    *(_recipe(name, row, image_size=512) for name, row in TABLE_512.items()),
)
RECIPES: tuple[Recipe, ...] = (FASHION, *PUBLISHED)
