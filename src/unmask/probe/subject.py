"""What is probed: MAGE's encoder, of a generator or of an earlier classifier, and its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch

from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.store import CONFIG, Saved, entry, load_state, load_weights, save_together
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError
from unmask.files.json_files import read_json
from unmask.files.serial import from_dict, to_dict
from unmask.memory import skeleton
from unmask.nn.block import PreNormBlock
from unmask.nn.embed import MageEmbed
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.pipeline import TOKENIZER, Pipeline
from unmask.probe.encoder import Encoder, EncoderSizes, Pool, TokenClassifier, build_head
from unmask.probe.mage_files import MARKS, load_vit
from unmask.tokenizers.folder import load_tokenizer, saved_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer

FORMAT = "unmask-classifier"
MOST_CLASSES = 10**7


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model to judge or to train further."""

    name: str
    """What the user called it."""
    model: TokenClassifier
    """Codes to features and, with a head, to scores."""
    tokenizer: ImageTokenizer
    """Images to codes, frozen."""


def open_subject(name: str | Path, *, pool: Pool) -> Subject:
    """Open whatever has an encoder of MAGE.

    Args:
        name: a MAGE model in any form that ``unmask.load`` takes; a folder that a probe or a
            fine-tuning wrote; or a fine-tuned file of the MAGE project.
        pool: how features are pooled.

    Raises:
        InputError: nothing there, another system, or a classifier that pools otherwise.
    """
    if Path(name).is_file():
        model, tokenizer = load_vit(read_tensors(Path(name), MARKS), str(name))
    elif _holds_classifier(folder := find_folder(name)):
        model, tokenizer = load_classifier(folder)
    else:
        pipeline = Pipeline.from_pretrained(name)
        model = TokenClassifier(encoder_of(pipeline, pool=pool))
        tokenizer = pipeline.tokenizer
    if model.encoder.pool != pool:
        raise InputError(
            f"{name} pools by {model.encoder.pool!r}, not {pool!r}; give --pool "
            f"{model.encoder.pool}, or the model before it was fine-tuned"
        )
    return Subject(name=str(name), model=model, tokenizer=tokenizer)


def _holds_classifier(folder: Path) -> bool:
    config = read_json(folder / CONFIG)
    return isinstance(config, dict) and config.get("format") == FORMAT


def encoder_of(pipeline: Pipeline, *, pool: Pool = "mean") -> Encoder:
    """The encoder of a MAGE generator, with its weights.

    With "mean" the norm after pooling is a fresh one, as in the published probe and fine-tuning;
    with "class" it is the generator's.

    Raises:
        InputError: for a generator of another system.
    """
    embed, trunk = pipeline.model.embed, pipeline.model.trunk
    if not isinstance(embed, MageEmbed) or not isinstance(trunk, EncoderDecoder):
        raise InputError(
            f"the weights are of {pipeline.recipe.name!r}, which is no MAGE: it has no encoder "
            "with a class slot to probe; give a MAGE model"
        )
    first = trunk.encoder[0]
    assert isinstance(first, PreNormBlock), "MAGE's blocks are normalised before each branch"
    sizes = EncoderSizes(
        codes=embed.codes,
        width=embed.positions.embedding_dim,
        depth=len(trunk.encoder),
        heads=first.attention.heads,
        feed_forward=first.feed_forward.expand.out_features,
        positions=embed.positions.num_embeddings - 1,
        grid=pipeline.model.grid,
        dropout=embed.dropout.p,
    )
    encoder = Encoder(sizes, pool=pool)
    encoder.embed.load_state_dict(embed.state_dict())
    encoder.blocks.load_state_dict(trunk.encoder.state_dict())
    if pool == "class":
        encoder.norm.load_state_dict(trunk.encoder_norm.state_dict())
    return encoder


def save_classifier(subject: Subject, folder: Path, facts: Mapping[str, object]) -> None:
    """Write a folder that :func:`open_subject` takes: the tokenizer first, the weights last.

    Args:
        subject: with a head.
        folder: new, or an earlier classifier to replace.
        facts: further entries of its ``config.json``, such as its accuracy and its classes.

    Raises:
        InputError: when the disk refuses; a classifier that was there is whole.
    """
    model, encoder = subject.model, subject.model.encoder
    config = {
        **facts,
        "format": FORMAT,
        "encoder": to_dict(encoder.sizes),
        "pool": encoder.pool,
        "probe": isinstance(model.head, torch.nn.Sequential),
        "classes": model.classes,
    }
    saved = [Saved(folder, model.state_dict(), config)]
    if not (folder / TOKENIZER / CONFIG).exists():
        saved.insert(0, saved_tokenizer(subject.tokenizer, folder / TOKENIZER))
    save_together(*saved)


def load_classifier(folder: Path) -> tuple[TokenClassifier, ImageTokenizer]:
    """What :func:`save_classifier` wrote, in evaluation mode.

    Raises:
        InputError: when it is damaged.
    """
    state, config = load_weights(folder)
    sizes = from_dict(EncoderSizes, entry(config, "encoder", dict, folder), str(folder))
    classes, normed = entry(config, "classes", int, folder), entry(config, "probe", bool, folder)
    pool = entry(config, "pool", str, folder)
    if pool not in get_args(Pool) or not 1 <= classes <= MOST_CLASSES:
        raise InputError(f"{folder}: pool={pool!r}, classes={classes} are of no classifier")
    with skeleton():
        head = build_head(sizes.width, classes, normed=normed)
        model = TokenClassifier(Encoder(sizes, pool=cast(Pool, pool)), head)
    load_state(model, state, str(folder))
    return model.eval(), load_tokenizer(folder / TOKENIZER)
