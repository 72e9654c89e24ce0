"""Self-guidance (arXiv 2410.13136; UnlockMGM): adapters for networks that are trained already.

The published numbers of a plan translate so: its s = 1 is guidance scale 2 here. The published
trainings started from the original MaskGIT: ``unmask convert maskgit_imagenet256_checkpoint BASE``,
then ``unmask train selfguidance-imagenet256 --base BASE``.
"""

from __future__ import annotations

from dataclasses import replace

from unmask.decode import Plan
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.networks.network import Network
from unmask.nn.feedback import Feedback
from unmask.orders import Confidence
from unmask.recipes import maskgit
from unmask.recipes.objectives import Substitution
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import Ema, Training
from unmask.results import scores

# Its four processes did not exchange gradients, and the first one's weights were published: 64 is
# the batch behind them, 256 the one that the configuration files say.
BATCH_AS_RUN = 64


def published_plan(temperature: float) -> Plan:
    """18 steps at s = 1; the heat restores the diversity that guidance costs."""
    return replace(
        maskgit.UNLOCKMGM_IMAGENET256.plan,
        order=Confidence(temperature=temperature, anneal="compound", known="rescore"),
        guidance=Guidance(weak="self", scale=2.0),
    )


def with_adapter(network: Network) -> Network:
    """The network and a feedback adapter of its sizes."""
    assert isinstance(network, (MaskGITVitNetwork, MaskGITBertNetwork)), "others have no adapter"
    return replace(network, feedback=Feedback())


IMAGENET256 = replace(
    maskgit.UNLOCKMGM_IMAGENET256,
    name="selfguidance-imagenet256",
    summary="self-guidance on the original MaskGIT, ImageNet 256x256, 42 M parameters trained",
    crop="random-bilinear",
    flip=False,
    network=with_adapter(maskgit.UNLOCKMGM_IMAGENET256.network),
    substitution=Substitution(proposal="double-softmax", fully_masked="mask"),
    training=Training(
        steps=50_000, batch_size=BATCH_AS_RUN, lr=1e-4, schedule="cosine", warmup_steps=5000,
        label_smoothing=0.1, precision="bf16",
        ema=Ema(decay=0.9999, warmup="inverse", after_step=5000), seed=208,
        preview_every=2000, save_every=10_000, keep_every=10_000,
    ),
    plan=published_plan(25.0),
)  # fmt: skip

IMAGENET512 = replace(
    IMAGENET256,
    name="selfguidance-imagenet512",
    summary="self-guidance on the original MaskGIT, ImageNet 512x512, 42 M parameters trained",
    tokenizer=maskgit.UNLOCKMGM_IMAGENET512.tokenizer,
    image_size=512,
    network=replace(IMAGENET256.network, length=1024),
    training=replace(IMAGENET256.training, accumulate=2),
    plan=published_plan(45.0),
)


def fashion_plan(name: str, guidance: Guidance) -> NamedPlan:
    """The small system's plan with another guidance."""
    return NamedPlan(name=name, plan=replace(maskgit.FASHION.plan, guidance=guidance))


FASHION = replace(
    maskgit.FASHION,
    name="fashion-selfguidance",
    summary="self-guidance on the shipped fashion-maskgit, in minutes on two CPU cores",
    base="fashion-maskgit",
    network=with_adapter(maskgit.FASHION.network),
    substitution=Substitution(),
    training=replace(
        maskgit.FASHION.training, steps=400, lr=2e-3, warmup_steps=40,
        preview_every=200, save_every=200,
    ),
    plan=replace(maskgit.FASHION.plan, guidance=Guidance(weak="self", scale=1.5)),
    plans=(
        fashion_plan("unguided", Guidance()),
        fashion_plan("by-class", maskgit.FASHION.plan.guidance),
        fashion_plan("both", replace(maskgit.FASHION.plan.guidance, self_scale=2.0)),
    ),
    results=scores(
        "shipped weights, 3 x 600 images; 0.874 without guidance",
        "benchmarks/reports/self_guidance_sweep_amd-epyc.md",
        accuracy=0.921,
    ),
)  # fmt: skip

RECIPES: tuple[Recipe, ...] = (FASHION, IMAGENET256, IMAGENET512)
