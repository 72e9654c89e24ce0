"""MaskGIT (arXiv 2202.04200): the published systems and the small ones of this project.

Two networks share the name: maskgit-pytorch's own pre-norm transformer, trained with label dropout,
and the original post-norm BERT, in JAX (tanh GELU) and as UnlockMGM's conversion (erf GELU).
"""

from __future__ import annotations

from dataclasses import replace

from unmask.counts import FixedCounts
from unmask.decode import Plan
from unmask.guidance import Guidance
from unmask.masking import TrainMasking
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.orders import Confidence
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import Ema, Training
from unmask.results import scores

PYTORCH_README = "xyfJASON/maskgit-pytorch, README"
JAX_README = "google-research/maskgit, README"
FASHION_REPORT = "benchmarks/reports/shipped_weights_amd-epyc.md"

# maskgit-pytorch, configs/*.yaml -----------------------------------------------------------------

PYTORCH_COUNTS = FixedCounts(pace="overall", precision="float64")
PYTORCH_MASKING = TrainMasking(shared=True, rounding="up")


def pytorch_plan(scale: float, temperature: float) -> Plan:
    """The 8-step plan of maskgit-pytorch, with its linear-r ramp."""
    return Plan(
        counts=PYTORCH_COUNTS,
        order=Confidence(temperature=temperature),
        guidance=Guidance(scale=scale, ramp="revealed"),
    )


PYTORCH_ROWS = ((1.0, 4.0, 7.25, 139.83), (2.0, 5.0, 5.22, 188.41), (3.0, 10.0, 4.86, 222.72))
"""Guidance scale, temperature, FID and inception score of each row of its table."""

PYTORCH_IMAGENET256 = Recipe(
    name="maskgit-pytorch-imagenet256",
    summary="maskgit-pytorch, ImageNet 256x256, class-conditional, 173 M parameters",
    tokenizer="maskgit-vqgan-imagenet-f16-256",
    image_size=256,
    network=MaskGITVitNetwork(
        codes=1024, width=768, depth=24, heads=8, length=256, classes=1000, dropout=0.1
    ),
    masking=PYTORCH_MASKING,
    training=Training(
        steps=1_500_000, lr=1e-4, schedule="cosine", warmup_steps=5000,
        weight_decay=0.045, clip_grad_norm=1.0,
        label_smoothing=0.1, label_dropout=0.1, normalize="micro",
        ema=Ema(decay=0.9999, warmup="power", power=2 / 3), seed=8888,
        log_every=100, preview_every=5000, save_every=50_000, keep_every=50_000,
    ),
    plan=pytorch_plan(3.0, 10.0),
    plans=tuple(
        NamedPlan(name=f"scale-{scale:g}", plan=pytorch_plan(scale, temperature))
        for scale, temperature, *_ in PYTORCH_ROWS
    ),
    results=tuple(
        result
        for scale, temperature, fid, inception in PYTORCH_ROWS
        for result in scores(
            f"plan scale-{scale:g}, temperature {temperature:g}", PYTORCH_README,
            fid=fid, inception=inception,
        )
    ),
)  # fmt: skip

PYTORCH_FFHQ256 = Recipe(
    name="maskgit-pytorch-ffhq256",
    summary="maskgit-pytorch, FFHQ 256x256, unconditional, 98 M parameters",
    tokenizer="amused-256",
    image_size=256,
    crop="whole",
    network=MaskGITVitNetwork(codes=8192, width=768, depth=12, heads=8, length=256, dropout=0.1),
    masking=PYTORCH_MASKING,
    training=replace(
        PYTORCH_IMAGENET256.training, steps=500_000, schedule="constant",
        clip_grad_norm=None,
        label_dropout=0.0, ema=Ema(decay=0.9999, warmup="power", power=0.75),
    ),
    plan=pytorch_plan(1.0, 4.5),
)  # fmt: skip

# The original, in JAX and in UnlockMGM's conversion ----------------------------------------------

JAX_PLAN = Plan(
    steps=16, counts=FixedCounts(least=1, precision="float32"), order=Confidence(temperature=4.5)
)

JAX_IMAGENET256 = Recipe(
    name="maskgit-jax-imagenet256",
    summary="the original MaskGIT, ImageNet 256x256, 174 M parameters, tanh GELU",
    tokenizer="maskgit-jax-vqgan-256",
    image_size=256,
    network=MaskGITBertNetwork(
        codes=1024, width=768, depth=24, heads=16, feed_forward=3072, length=256, classes=1000,
        gelu="tanh", tie_embeddings=True, drop_attention_output=True,
    ),
    masking=TrainMasking(least_ratio=0.5, group=1),  # the one part that is published, its loss
    training=Training(
        steps=2_000_000, lr=1e-4, schedule="constant", warmup_steps=5000,
        weight_decay=0.045,
        label_smoothing=0.1, ema=Ema(decay=0.999, warmup="none"),
    ),
    plan=JAX_PLAN,
    plans=(NamedPlan(name="paper", plan=replace(JAX_PLAN, steps=8)),),
    results=(
        *scores("published weights", JAX_README, fid=6.06),
        *scores("plan paper, 8 steps", "arXiv 2202.04200", fid=6.18, inception=182.1),
    ),
)  # fmt: skip

JAX_IMAGENET512 = replace(
    JAX_IMAGENET256,
    name="maskgit-jax-imagenet512",
    summary="the original MaskGIT, ImageNet 512x512, 175 M parameters, tanh GELU",
    tokenizer="maskgit-jax-vqgan-512",
    image_size=512,
    network=replace(JAX_IMAGENET256.network, length=1024),
    plans=(),
    results=scores("published weights", JAX_README, fid=7.32),
)

# UnlockMGM converted weights and trained adapters only. This training joins the original's numbers
# with open-muse's masks, and nobody ran it.
UNLOCKMGM_IMAGENET256 = replace(
    JAX_IMAGENET256,
    name="maskgit-unlockmgm-imagenet256",
    summary="UnlockMGM's conversion of the original, ImageNet 256x256, erf GELU",
    network=MaskGITBertNetwork(
        codes=1024, width=768, depth=24, heads=16, feed_forward=3072, length=256, classes=1000
    ),
    masking=TrainMasking(),
    plan=Plan(
        steps=18,
        counts=FixedCounts(least=1, precision="float32"),
        order=Confidence(temperature=1.0, anneal="compound", known="rescore"),
    ),
    plans=(),
    results=(),
)

UNLOCKMGM_IMAGENET512 = replace(
    UNLOCKMGM_IMAGENET256,
    name="maskgit-unlockmgm-imagenet512",
    summary="UnlockMGM's conversion of the original, ImageNet 512x512, erf GELU",
    tokenizer="maskgit-jax-vqgan-512",
    image_size=512,
    network=replace(UNLOCKMGM_IMAGENET256.network, length=1024),
)

# Small ones, trained here ------------------------------------------------------------------------

FASHION_PLAN = pytorch_plan(2.0, 4.5)
FASHION = Recipe(
    name="fashion-maskgit",
    summary="Fashion-MNIST 28x28 in minutes on two CPU cores; weights shipped",
    tokenizer="fashion-vq",
    image_size=28,
    crop="none",
    flip=False,  # every shoe of the data points the same way
    network=MaskGITVitNetwork(codes=256, width=128, depth=5, heads=4, length=49, classes=10),
    masking=TrainMasking(rounding="up"),
    training=Training(
        steps=1400, batch_size=32, lr=1.5e-3, schedule="cosine", warmup_steps=100,
        weight_decay=0.03, decay_only_matrices=True, clip_grad_norm=1.0,
        label_dropout=0.1, ema=Ema(decay=0.99, warmup="inverse"),
        log_every=50, preview_every=700, save_every=700,
    ),
    plan=FASHION_PLAN,
    plans=(
        NamedPlan(
            name="fast",
            plan=replace(FASHION_PLAN, steps=4, guidance=replace(FASHION_PLAN.guidance, refresh=2)),
        ),
    ),
    results=scores("shipped weights, 3 x 2,000 images", FASHION_REPORT, accuracy=0.930),
)  # fmt: skip

SMALL_64 = Recipe(
    name="small-maskgit-64",
    summary="any folder of 64x64 colour images with classes, hours on a CPU or minutes on a GPU",
    tokenizer="small-vq-64",
    image_size=64,
    network=MaskGITVitNetwork(
        codes=1024, width=256, depth=8, heads=8, length=64, classes=10, dropout=0.1
    ),
    masking=TrainMasking(rounding="up"),
    training=replace(
        FASHION.training, steps=20_000, batch_size=128, lr=5e-4, warmup_steps=500,
        ema=Ema(decay=0.999, warmup="inverse"), preview_every=2000, save_every=2000,
    ),
    plan=FASHION.plan,
)  # fmt: skip

RECIPES: tuple[Recipe, ...] = (
    FASHION,
    SMALL_64,
    PYTORCH_IMAGENET256,
    PYTORCH_FFHQ256,
    JAX_IMAGENET256,
    JAX_IMAGENET512,
    UNLOCKMGM_IMAGENET256,
    UNLOCKMGM_IMAGENET512,
)
