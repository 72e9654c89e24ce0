"""What is probed: the encoder of a generator or of an earlier classifier, with its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.store import CONFIG
from unmask.checkpoints.tensor_files import read_tensors
from unmask.checkpoints.vit import load_vit
from unmask.errors import InputError
from unmask.nn.block import PreNormBlock
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.nn.mage_embed import MageEmbed
from unmask.pipeline import Pipeline
from unmask.probe.classifier import FORMAT, Saved, load_saved
from unmask.probe.encoder import Encoder, EncoderSizes, Pool
from unmask.tokenizers.vq_tokenizer import VQTokenizer


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An encoder to judge or to train further."""

    name: str
    """What the user called it."""
    encoder: Encoder
    """Codes to features."""
    tokenizer: VQTokenizer
    """Images to codes, frozen."""
    classifier: Saved | None = None
    """What the encoder was taken from, if that was a classifier."""


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
        model, tokenizer = load_vit(read_tensors(Path(name)), str(name))
        return _of_classifier(str(name), Saved(model=model, tokenizer=tokenizer), pool)
    folder = find_folder(name)
    if json.loads((folder / CONFIG).read_bytes()).get("format") == FORMAT:
        return _of_classifier(str(name), load_saved(folder), pool)
    pipeline = Pipeline.from_pretrained(name)
    encoder, found = encoder_of(pipeline, pool=pool), pipeline.tokenizer
    assert isinstance(found, VQTokenizer), "MAGE's tokens are codes"
    return Subject(name=str(name), encoder=encoder, tokenizer=found)


def _of_classifier(name: str, saved: Saved, pool: Pool) -> Subject:
    if saved.encoder.pool != pool:
        raise InputError(
            f"{name} pools by {saved.encoder.pool!r}, not {pool!r}; give --pool "
            f"{saved.encoder.pool}, or the model before it was fine-tuned"
        )
    return Subject(name=name, encoder=saved.encoder, tokenizer=saved.tokenizer, classifier=saved)


def encoder_of(pipeline: Pipeline, *, pool: Pool = "mean") -> Encoder:
    """The encoder of a MAGE generator, with its weights.

    With "mean" the norm after pooling is a fresh one, as in the published probe and fine-tuning;
    with "class" it is the generator's.

    Raises:
        InputError: for a generator of another system.
    """
    model = pipeline.model
    embed, trunk = model.embed, model.trunk
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
        grid=model.grid,
        dropout=embed.dropout.p,
    )
    encoder = Encoder(sizes, pool=pool)
    encoder.embed.load_state_dict(embed.state_dict())
    encoder.blocks.load_state_dict(trunk.encoder.state_dict())
    if pool == "class":
        encoder.norm.load_state_dict(trunk.encoder_norm.state_dict())
    return encoder
