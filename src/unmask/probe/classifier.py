"""MAGE's encoder and its tokenizer as a classifier of images: opened and saved.

MAGE's own files are its fine-tuned ``vit_base_patch16`` and ``vit_large_patch16``, with the
tokenizer under ``vqgan.``. What timm's base class brings along and the network never uses (patches,
fixed positions, class token) is left aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import torch
from torch import Tensor

from unmask.checkpoints import store
from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.names import Rule, Table, count_of, drop, renames, shape_of, to_own
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError
from unmask.files.json_files import read_json
from unmask.files.serial import from_dict, to_dict
from unmask.memory import skeleton
from unmask.networks.mage import MageNetwork
from unmask.networks.sizes import token_grid
from unmask.nn.embed import CLASS_ROWS
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.pipeline import TOKENIZER, Pipeline
from unmask.probe.encoder import Encoder, EncoderSizes, Pool, TokenClassifier, build_head
from unmask.projects import mage
from unmask.tokenizers.folder import load_tokenizer, saved_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.published import tokenizer_of

FORMAT = "unmask-classifier"
MOST_CLASSES = 10**7
PLACES = {"embed.": "encoder.embed.", "trunk.encoder.": "encoder.blocks."}
UNUSED = ("cls_token", "pos_embed", "patch_embed.*", "token_emb.position_ids")
MARKS = ("token_emb.word_embeddings.weight",)  # a tensor that every fine-tuned file has


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """A model to judge or to train further.

    Args:
        name: Name or path that the user gave.
        model: Codes to features and, with a head, to scores.
        tokenizer: Images to codes, frozen.
    """

    name: str
    model: TokenClassifier
    tokenizer: ImageTokenizer


def open_classifier(name: str | Path, *, pool: Pool) -> Classifier:
    """Open whatever has an encoder of MAGE.

    Args:
        name: a MAGE model in any form that ``unmask.load`` takes; a folder that a probe or a
            fine-tuning wrote; or a fine-tuned file of the MAGE project.
        pool: how features are pooled.

    Raises:
        InputError: nothing there, another system, or a classifier that pools otherwise.
    """
    if Path(name).is_file():
        model, tokenizer = load_mage(read_tensors(Path(name), MARKS), str(name))
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
    return Classifier(name=str(name), model=model, tokenizer=tokenizer)


def _holds_classifier(folder: Path) -> bool:
    config = read_json(folder / store.CONFIG)
    return isinstance(config, dict) and config.get("format") == FORMAT


def encoder_of(pipeline: Pipeline, *, pool: Pool = "mean") -> Encoder:
    """The encoder of a MAGE generator, with its weights.

    With "mean" the norm after pooling is a fresh one, as in the published probe and fine-tuning;
    with "class" it is the generator's.

    Raises:
        InputError: for a generator of another system.
    """
    network, trunk = pipeline.recipe.network, pipeline.model.trunk
    if not isinstance(network, MageNetwork) or not isinstance(trunk, EncoderDecoder):
        raise InputError(
            f"the weights are of {pipeline.recipe.name!r}, which is no MAGE: it has no encoder "
            "with a class slot to probe; give a MAGE model"
        )
    encoder = Encoder(EncoderSizes.of(network), pool=pool)
    encoder.embed.load_state_dict(pipeline.model.embed.state_dict())
    encoder.blocks.load_state_dict(trunk.encoder.state_dict())
    if pool == "class":
        encoder.norm.load_state_dict(trunk.encoder_norm.state_dict())
    return encoder


def save_classifier(classifier: Classifier, folder: Path, facts: Mapping[str, object]) -> None:
    """Write a folder that :func:`open_classifier` takes: the tokenizer first, the weights last.

    Args:
        classifier: with a head.
        folder: new, or an earlier classifier to replace.
        facts: further entries of its ``config.json``, such as its accuracy and its classes.

    Raises:
        InputError: when the disk refuses; a classifier that was there is whole.
    """
    model, encoder = classifier.model, classifier.model.encoder
    config = {
        **facts,
        "format": FORMAT,
        "encoder": to_dict(encoder.sizes),
        "pool": encoder.pool,
        "probe": isinstance(model.head, torch.nn.Sequential),
        "classes": model.classes,
    }
    saved = [store.Saved(folder, model.state_dict(), config)]
    if not (folder / TOKENIZER / store.CONFIG).exists():
        saved.insert(0, saved_tokenizer(classifier.tokenizer, folder / TOKENIZER))
    store.save_together(*saved)


def load_classifier(folder: Path) -> tuple[TokenClassifier, ImageTokenizer]:
    """Network and tokenizer that :func:`save_classifier` wrote, in evaluation mode.

    Raises:
        InputError: when it is damaged.
    """
    state, config = store.load_weights(folder)
    sizes = from_dict(EncoderSizes, store.entry(config, "encoder", dict, folder), str(folder))
    classes = store.entry(config, "classes", int, folder)
    pool = store.entry(config, "pool", str, folder)
    if pool not in get_args(Pool) or not 1 <= classes <= MOST_CLASSES:
        raise InputError(f"{folder}: pool={pool!r}, classes={classes} are of no classifier")
    normed = store.entry(config, "probe", bool, folder)
    model = filled(sizes, cast(Pool, pool), classes, state, str(folder), normed=normed)
    return model, load_tokenizer(folder / TOKENIZER)


def filled(
    sizes: EncoderSizes,
    pool: Pool,
    classes: int,
    state: Mapping[str, Tensor],
    origin: str,
    *,
    normed: bool,
) -> TokenClassifier:
    """The network with these weights, in evaluation mode.

    Args:
        sizes: of the encoder.
        pool: how features are pooled.
        classes: K.
        state: weights by our names.
        origin: file or folder, named in errors.
        normed: whether the head normalises first, as a probe's does.

    Raises:
        InputError: when the weights do not fill the network exactly.
    """
    with skeleton():
        head = build_head(sizes.width, classes, normed=normed)
        model = TokenClassifier(Encoder(sizes, pool=pool), head)
    store.load_state(model, state, origin)
    return model.eval()


def table_of(pool: Pool) -> Table:
    """MAGE's own rules for its encoder at our places, and the head.

    The last norm has another name in each variant.
    """
    kept = [
        Rule(rule.source, (name.replace(there, here, 1),))
        for rule in mage.TABLE
        for name in rule.own[:1]
        for there, here in PLACES.items()
        if name.startswith(there)
    ]
    norm = "fc_norm" if pool == "mean" else "norm"
    ends = renames({f"{norm}.{{part}}": "encoder.norm.{part}", "head.{part}": "head.{part}"})
    return (*kept, *ends, *map(drop, UNUSED))


def sizes_of(
    own: Mapping[str, Tensor],
    origin: str,
    *,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
) -> EncoderSizes:
    """The sizes of a translated state.

    Args:
        own: by our names.
        origin: file, named in errors.
        heads: H; None means heads of 64, as published.
        grid: (h, w) tokens, which shapes do not tell either; None means a square of all positions.

    Raises:
        InputError: when parts are missing, or the positions form no square and no grid is given.
    """
    positions = shape_of(own, "encoder.embed.positions.weight", origin)[0] - 1
    rows, width = shape_of(own, "encoder.embed.tokens.weight", origin)
    return EncoderSizes(
        codes=rows - CLASS_ROWS - 1,
        width=width,
        depth=count_of(own, "encoder.blocks.{i}.attention.qkv.weight"),
        heads=heads or width // mage.HEAD_WIDTH,
        feed_forward=shape_of(own, "encoder.blocks.0.feed_forward.expand.weight", origin)[0],
        positions=positions,
        grid=grid or token_grid(positions),
    )


def translate_mage(
    state: Mapping[str, Tensor], origin: str
) -> tuple[Pool, EncoderSizes, dict[str, Tensor]]:
    """A fine-tuned file's classifier by our names, float32, with its pooling and sizes.

    Raises:
        InputError: when it is no such file.
    """
    if MARKS[0] not in state or "head.weight" not in state:
        raise InputError(
            f"{origin} is no fine-tuned MAGE classifier; a pre-trained MAGE file must first go "
            "through unmask convert"
        )
    pool: Pool = "mean" if "fc_norm.weight" in state else "class"
    own = to_own(state, table_of(pool), origin, cast=store.single)
    return pool, sizes_of(own, origin), own


def load_mage(state: Mapping[str, Tensor], origin: str) -> tuple[TokenClassifier, ImageTokenizer]:
    """Classifier and frozen tokenizer of a fine-tuned file.

    Args:
        state: all of its tensors, by its own keys.
        origin: file, named in errors.

    Raises:
        InputError: when it is no such file, or does not fill its networks exactly.
    """
    vit, vqgan = mage.split_tokenizer(state)
    pool, sizes, own = translate_mage(vit, origin)
    model = filled(sizes, pool, shape_of(own, "head.weight", origin)[0], own, origin, normed=False)
    return model, tokenizer_of(vqgan, {}, origin)
