"""MAGE (arXiv 2211.09117): the published systems, and a small one of this project."""

from __future__ import annotations

from dataclasses import replace

from unmask.counts import FixedCounts
from unmask.decode import Plan
from unmask.masking import NormalMasking
from unmask.networks.mage import MageNetwork
from unmask.orders import Confidence
from unmask.recipes.objectives import Contrastive
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.recipes.training import Ema, Training, imagenet_epochs
from unmask.results import scores

README, PAPER = "LTH14/mage, README", "arXiv 2211.09117"
UNRELEASED = "weaker augmentation; weights not released"
MASKING = NormalMasking(mean=0.55, std=0.25, least=0.5, drop="least", group=64)


def training(batch_size: int, lr: float) -> Training:
    """1,600 epochs, of which 40 are warm-up; the script's own defaults are 400 at a rate of 1.6e-2.

    What was published is 64 processes of 64 images, each with a mask ratio of its own.
    """
    warmup = imagenet_epochs(40, batch_size)
    return Training(
        steps=imagenet_epochs(1600, batch_size), batch_size=batch_size, lr=lr, schedule="cosine",
        warmup_steps=warmup,
        betas=(0.9, 0.95), weight_decay=0.05, decay_only_matrices=True, clip_grad_norm=3.0,
        label_smoothing=0.1, precision="fp16", ema=None,
        log_every=imagenet_epochs(1, 4096), preview_every=warmup, save_every=warmup,
        keep_every=warmup,
    )  # fmt: skip


TRAINING = training(4096, lr=2.4e-3)


def plan(steps: int, temperature: float) -> Plan:
    """Cosine counts, confidence with linearly falling noise."""
    return Plan(steps=steps, counts=FixedCounts(least=1), order=Confidence(temperature=temperature))


VIT_B = MageNetwork(
    codes=1024, width=768, depth=12, heads=12,
    decoder_width=768, decoder_depth=8, decoder_heads=16, length=256, position_rows=257,
)  # fmt: skip
VIT_L = replace(VIT_B, width=1024, depth=24, heads=16, decoder_width=1024)

BASE = Recipe(
    name="mage-base",
    summary="MAGE ViT-B, ImageNet 256x256, unconditional, 145 M parameters",
    tokenizer="mage-vqgan",
    image_size=256,
    crop="resized",
    judged_crop="center-bilinear",
    network=VIT_B,
    masking=MASKING,
    training=TRAINING,
    plan=plan(20, 6.0),
    plans=(NamedPlan(name="script", plan=plan(12, 4.5)),),  # its script's defaults
    results=(
        *scores("published weights", README, fid_50k=11.1, inception=81.2),
        *scores("mean pooling", README, linear_probe=74.7),
        *scores("100 epochs", README, fine_tune=82.5),
        *scores(UNRELEASED, PAPER, fid_50k=8.67, inception=94.8),
    ),
)

LARGE = replace(
    BASE,
    name="mage-large",
    summary="MAGE ViT-L, ImageNet 256x256, unconditional, 408 M parameters",
    network=VIT_L,
    results=(
        *scores("published weights", README, fid_50k=9.10, inception=105.1),
        *scores("mean pooling", README, linear_probe=78.9),
        *scores("50 epochs", README, fine_tune=83.9),
        *scores(UNRELEASED, PAPER, fid_50k=7.04, inception=123.5),
    ),
)

C_BASE = replace(
    BASE,
    name="mage-c-base",
    summary="MAGE-C ViT-B: MAGE with a contrastive loss between two crops",
    contrastive=Contrastive(),
    results=scores("mean pooling", PAPER, linear_probe=78.2),
)

C_LARGE = replace(
    LARGE,
    name="mage-c-large",
    summary="MAGE-C ViT-L: MAGE with a contrastive loss between two crops",
    training=training(2048, lr=1.2e-3),  # this batch is from memory of the paper
    contrastive=Contrastive(),
    results=scores("mean pooling", PAPER, linear_probe=80.9),
)  # fmt: skip

FASHION = Recipe(
    name="fashion-mage",
    summary="Fashion-MNIST 28x28 without labels, minutes on two CPU cores",
    tokenizer="fashion-vq",
    image_size=28,
    crop="none",
    flip=False,
    network=MageNetwork(
        codes=256, width=128, depth=4, heads=4,
        decoder_width=128, decoder_depth=2, decoder_heads=4, length=49, dropout=0.0,
    ),
    masking=replace(MASKING, group=None),
    training=replace(
        TRAINING, steps=4000, batch_size=64, lr=2e-3, warmup_steps=200,
        label_smoothing=0.0, precision="no", ema=Ema(decay=0.999, warmup="inverse"),
        log_every=50, preview_every=1000, save_every=1000, keep_every=0,
    ),
    plan=plan(12, 2.0),
    results=scores(
        "shipped weights; random encoder 46.3, pixels 83.7",
        "benchmarks/reports/fashion_mage_amd-epyc.md",
        linear_probe=70.3,
    ),
)  # fmt: skip

RECIPES: tuple[Recipe, ...] = (FASHION, BASE, LARGE, C_BASE, C_LARGE)
