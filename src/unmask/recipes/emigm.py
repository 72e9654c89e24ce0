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
from unmask.recipes.latents import PROCESSES, Row, fast
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import imagenet_epochs
from unmask.results import scores

PAPER = "arXiv 2503.07197"
AT_256, AT_512 = ((0.1, 0.3), (0.18, 0.6)), ((0.15, 0.35), (0.25, 0.5))
BASE, HUGE = ((0.1, 0.3), (0.05, 0.4)), ((0.2, 0.4), (0.3, 0.7))
ROWS_256 = (
    Row("xsmall", (3, 1024),  millions=69,  fid=(4.23, 3.62), intervals=AT_256, batch_size=1024),
    Row("small",  (3, 1024),  millions=97,  fid=(3.44, 2.87), intervals=AT_256, batch_size=1024),
    Row("base",   (6, 1024),  millions=208, fid=(2.79, 2.32), intervals=BASE),
    Row("large",  (8, 1280),  millions=478, fid=(2.22, 1.72), intervals=AT_256),
    Row("huge",   (12, 1536), millions=942, fid=(2.02, 1.57), intervals=HUGE),
)  # fmt: skip
ROWS_512 = (
    Row("xsmall", (6, 1280), millions=105, fid=(4.63, 4.45), intervals=AT_512, batch_size=1024),
    Row("small",  (6, 1280), millions=132, fid=(3.65, 3.29), intervals=AT_512, batch_size=1024),
    Row("base",   (8, 1280), millions=244, fid=(2.78, 2.31), intervals=AT_512),
    Row("large",  (8, 1280), millions=478, fid=(2.19, 1.77), intervals=AT_512),
)  # fmt: skip


class Latents(NamedTuple):
    """What a system's tokens are.

    Args:
        title: Name in the list of recipes.
        tokenizer: Name of the published autoencoder.
        channels: Numbers a token.
    """

    title: str
    tokenizer: str
    channels: int


KL16, DC_AE = Latents("KL-16", "kl16", 16), Latents("DC-AE", "dc-ae-f32c32-in-1.0", 32)


def plan(steps: int, head_steps: int, row: Row, which: int) -> Plan:
    """Random counts of the exp function, scale 4 in an interval of the plan's time."""
    assert row.intervals is not None, "eMIGM guides in a part of the time"
    return Plan(
        steps=steps,
        counts=AncestralCounts(curve="exp"),
        order=RandomOrder(),
        guidance=Guidance(scale=row.scale, interval=row.intervals[which]),
        draw=DiffusionDraw(solver="dpm-solver", respacing=str(head_steps)),
    )


def _recipe(row: Row, latents: Latents, *, image_size: int, slow: int) -> Recipe:
    few = plan(16, 8, row, 0)
    size = f"{image_size}x{image_size}"
    return Recipe(
        name=f"emigm-{row.size}-{image_size}",
        summary=f"eMIGM, ImageNet {size} in {latents.title} latents, {row.millions} M parameters",
        tokenizer=latents.tokenizer,
        image_size=image_size,
        network=row.network(channels=latents.channels, tied=True),
        masking=BernoulliMasking(curve="exp", least_time=0.2, group=row.batch_size // PROCESSES),
        training=replace(  # "--save_epoch_name" of its scripts
            row.training(), keep_every=imagenet_epochs(50, row.batch_size)
        ),
        plan=few,
        plans=(
            NamedPlan(name=f"{slow}-steps", plan=plan(slow, 14, row, 1)),
            fast(few, steps=16, head_steps=8, refresh=4),
        ),
        results=(
            *scores("16 steps", PAPER, fid_50k=row.fid[0]),
            *scores(f"{slow} steps", PAPER, fid_50k=row.fid[1]),
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
    plans=(fast(FASHION_PLAN, steps=4, head_steps=8, refresh=2),),
    results=(replace(mar.FASHION.results[0], value=0.918),),
)

PUBLISHED = (
    *(_recipe(row, KL16, image_size=256, slow=128) for row in ROWS_256),
    *(_recipe(row, DC_AE, image_size=512, slow=64) for row in ROWS_512),
)
RECIPES: tuple[Recipe, ...] = (FASHION, *PUBLISHED)
