"""A MAGE encoder small enough for every test: 16x16 pixels, 4x4 tokens of 16 codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from toy_system import TOY, toy_tokenizer

from unmask.counts import FixedCounts
from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.masking import NormalMasking
from unmask.networks.mage import MageNetwork
from unmask.pipeline import Pipeline
from unmask.probe.classifier import Classifier, save_classifier
from unmask.probe.encoder import (
    Encoder,
    EncoderSizes,
    TokenClassifier,
    build_head,
)

SIZES = EncoderSizes(
    codes=16, width=24, depth=2, heads=2, feed_forward=48, positions=20, grid=(4, 4)
)


def toy_encoder(pool: str = "mean", sizes: EncoderSizes = SIZES) -> Encoder:
    """With random weights."""
    encoder = Encoder(sizes, pool=pool)
    encoder.initialize(keyed_generator("toy encoder"))
    return encoder.eval()


def toy_classifier(pool: str = "mean", classes: int = 0) -> Classifier:
    """With a head if there are classes."""
    head = build_head(SIZES.width, classes, normed=False) if classes else None
    model = TokenClassifier(toy_encoder(pool), head)
    return Classifier(name="toy", model=model, tokenizer=toy_tokenizer())


def save_toy(folder: Path, classes: int = 2) -> Path:
    """A fine-tuned one on disk."""
    save_classifier(toy_classifier(classes=classes), folder, {})
    return folder


def toy_generator() -> Pipeline:
    """The whole MAGE, with weights of torch's own choice."""
    sizes = {"codes": 16, "width": 24, "depth": 2, "heads": 2, "length": 16}
    network = MageNetwork(**sizes, decoder_width=12, decoder_depth=1, decoder_heads=2)
    recipe = replace(
        TOY,
        name="toy-mage",
        network=network,
        masking=NormalMasking(mean=0.55, least=0.5, drop="least"),
        training=replace(TOY.training, label_dropout=0.0),
        plan=Plan(steps=4, counts=FixedCounts(least=1)),
    )
    return Pipeline(recipe, network.build(), toy_tokenizer())


def write_labelled(root: Path, train: int = 48, val: int = 24) -> Path:
    """Two classes of 16x16 pixels that differ by how bright they are."""
    for side, count in (("train", train), ("val", val)):
        for index in range(count):
            noise = torch.rand(16, 16, 3, generator=keyed_generator(side, index)) * 60
            name = "light" if index % 2 else "dark"
            noise += 150 if index % 2 else 0
            file = root / side / name / f"{index:03d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.numpy().astype(np.uint8)).save(file)
    return root
