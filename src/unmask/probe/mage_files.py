"""MAGE's fine-tuned classifiers: ``vit_base_patch16`` and ``vit_large_patch16``.

The tokenizer lies in the same file under ``vqgan.``. What timm's base class brings along and the
network never uses (patches, fixed positions, class token) is left aside.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unmask.checkpoints.names import (
    Rule,
    Table,
    count_of,
    drop,
    rename_layer,
    shape_of,
    to_own,
)
from unmask.checkpoints.store import load_state, single
from unmask.errors import InputError
from unmask.memory import skeleton
from unmask.networks.sizes import token_grid
from unmask.nn.embed import CLASS_ROWS
from unmask.probe.encoder import Encoder, EncoderSizes, Pool, TokenClassifier, build_head
from unmask.projects import mage
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.published import tokenizer_of

PLACES = {"embed.": "encoder.embed.", "trunk.encoder.": "encoder.blocks."}
DEAD = ("cls_token", "pos_embed", "patch_embed.*", "token_emb.position_ids")
MARKS = ("token_emb.word_embeddings.weight",)  # a tensor that every such file has


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
    norm = rename_layer("fc_norm" if pool == "mean" else "norm", "encoder.norm")
    return (*kept, *norm, *rename_layer("head", "head"), *map(drop, DEAD))


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


def translate_vit(
    state: Mapping[str, Tensor], origin: str
) -> tuple[Pool, EncoderSizes, dict[str, Tensor]]:
    """A fine-tuned file's classifier by our names, float32, with its pooling and sizes.

    Raises:
        InputError: when it is no such file.
    """
    if "token_emb.word_embeddings.weight" not in state or "head.weight" not in state:
        raise InputError(
            f"{origin} is no fine-tuned MAGE classifier; a pre-trained MAGE file must first go "
            "through unmask convert"
        )
    pool: Pool = "mean" if "fc_norm.weight" in state else "class"
    own = to_own(state, table_of(pool), origin, cast=single)
    return pool, sizes_of(own, origin), own


def load_vit(state: Mapping[str, Tensor], origin: str) -> tuple[TokenClassifier, ImageTokenizer]:
    """Classifier and frozen tokenizer of a fine-tuned file.

    Args:
        state: all of its tensors, by its own keys.
        origin: file, named in errors.

    Raises:
        InputError: when it is no such file, or does not fill its networks exactly.
    """
    vit, vqgan = mage.split_tokenizer(state)
    pool, sizes, own = translate_vit(vit, origin)
    with skeleton():
        encoder = Encoder(sizes, pool=pool)
        head = build_head(sizes.width, own["head.weight"].shape[0], normed=False)
        classifier = TokenClassifier(encoder, head)
    load_state(classifier, own, origin)
    return classifier.eval(), tokenizer_of(vqgan, {}, origin)
