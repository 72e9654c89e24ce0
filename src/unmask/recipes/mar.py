"""MAR (arXiv 2406.11838): the published systems, one line of a table each, and a small one.

Its numbers come from the repository's README and defaults; what was trained longer than those say
(800 epochs, larger heads) from the authors' answers and the paper's appendix B.
"""

from __future__ import annotations

from dataclasses import replace

from unmask.counts import FixedCounts
from unmask.decode import Plan
from unmask.guidance import Guidance
from unmask.masking import NormalMasking
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import RandomOrder
from unmask.recipes.latents import PROCESSES, Row, fast
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import Ema, Training
from unmask.results import scores

README, PAPER = "LTH14/mar, README", "arXiv 2406.11838"
FASHION_REPORT = "benchmarks/reports/small_systems_amd-epyc.md"

ROWS = (
    Row("base",  (6, 1024),  millions=208, fid=(2.31, 3.48), inception=(281.7, 192.4), scale=2.9),
    Row("large", (8, 1280),  millions=478, fid=(1.78, 2.60), inception=(296.0, 221.4), scale=3.0),
    Row("huge",  (12, 1536), millions=942, fid=(1.55, 2.35), inception=(303.7, 227.8), scale=3.2),
)  # fmt: skip


def plan(steps: int, guidance: Guidance, temperature: float = 1.0) -> Plan:
    """Cosine counts, random positions, 100 ancestral steps of the head."""
    return Plan(
        steps=steps,
        counts=FixedCounts(least=1),
        order=RandomOrder(),
        guidance=guidance,
        draw=DiffusionDraw(solver="ddpm", respacing="100", temperature=temperature),
    )


UNGUIDED_TEMPERATURE = 0.95
UNGUIDED = NamedPlan(name="unguided", plan=plan(256, Guidance(), UNGUIDED_TEMPERATURE))
QUICK = NamedPlan(name="quick", plan=plan(64, Guidance(scale=4.0)))  # its notebook's


def _recipe(row: Row) -> Recipe:
    assert row.inception is not None, "MAR states both"
    best = plan(256, Guidance(scale=row.scale, ramp="revealed"))
    named = zip((f"guidance {row.scale}", "plan unguided"), (README, PAPER), strict=True)
    found = zip(named, row.fid, row.inception, strict=True)
    return Recipe(
        name=f"mar-{row.size}",
        summary=f"MAR, ImageNet 256x256 in KL-16 latents, {row.millions} M parameters",
        tokenizer="kl16",
        image_size=256,
        network=row.network(),
        masking=NormalMasking(mean=1.0, std=0.25, least=0.7, group=row.batch_size // PROCESSES),
        training=replace(row.training(), evaluate_temperature=UNGUIDED_TEMPERATURE),
        plan=best,
        plans=(UNGUIDED, QUICK, fast(best, steps=64, head_steps=14, refresh=4)),
        results=tuple(
            result
            for (setting, source), fid, inception in found
            for result in scores(setting, source, fid_50k=fid, inception=inception)
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
        steps=2000, batch_size=32, lr=1e-3, schedule="constant", warmup_steps=100,
        betas=(0.9, 0.95), weight_decay=0.02, decay_only_matrices=True, decay_head=False,
        clip_grad_norm=1.0,
        label_dropout=0.1, noise_repeats=4, ema=Ema(decay=0.998, warmup="inverse"),
        log_every=50, preview_every=1000, save_every=500,
    ),
    plan=FASHION_PLAN,
    plans=(fast(FASHION_PLAN, steps=8, head_steps=8, refresh=4),),
    results=scores("shipped weights, 500 images", FASHION_REPORT, accuracy=0.872),
)  # fmt: skip

PUBLISHED = tuple(map(_recipe, ROWS))
RECIPES: tuple[Recipe, ...] = (FASHION, *PUBLISHED)
