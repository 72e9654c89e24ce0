"""MAGE (LTH14): pre-training checkpoints, with the tokenizer in the same file under ``vqgan.``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from unmask.checkpoints.names import Rule, Table, drop, rename, rename_layer
from unmask.checkpoints.vqgan import count_of, shape_of
from unmask.nn.mage_embed import CLASS_ROWS
from unmask.nn.mage_network import MageNetwork

HEAD_WIDTH = 64  # of both published encoders; shapes do not tell the number of heads
DECODER_HEADS = 16  # of both published decoders

# In the files, but no part of any computation: what the source's base class brings along, and
# what its authors left behind.
DEAD = (
    "cls_token",
    "mask_token",
    "pos_embed",
    "decoder_pos_embed",
    "patch_embed.*",
    "decoder_pred.*",
    "token_emb.position_ids",
)


def _flat(parts: Sequence[Tensor]) -> Tensor:
    (bias,) = parts
    return bias.flatten()


def _blocks(source: str, own: str) -> Table:
    return (
        *rename_layer(f"{source}.norm1", f"{own}.attention_norm"),
        *rename_layer(f"{source}.attn.qkv", f"{own}.attention.qkv"),
        *rename_layer(f"{source}.attn.proj", f"{own}.attention.out"),
        *rename_layer(f"{source}.norm2", f"{own}.feed_forward_norm"),
        *rename_layer(f"{source}.mlp.fc1", f"{own}.feed_forward.expand"),
        *rename_layer(f"{source}.mlp.fc2", f"{own}.feed_forward.contract"),
    )


EMBED: Table = (
    rename("token_emb.position_embeddings.weight", "embed.positions.weight"),
    *rename_layer("token_emb.LayerNorm", "embed.norm"),
)
TABLE: Table = (
    Rule(("token_emb.word_embeddings.weight",), ("embed.tokens.weight", "head.out.weight")),
    *EMBED,
    *_blocks("blocks.{i}", "trunk.encoder.{i}"),
    *rename_layer("norm", "trunk.encoder_norm"),
    *rename_layer("decoder_embed", "trunk.join"),
    rename("decoder_pos_embed_learned", "trunk.positions"),
    *_blocks("decoder_blocks.{i}", "trunk.decoder.{i}"),
    *rename_layer("decoder_norm", "trunk.decoder_norm"),
    *rename_layer("mlm_layer.fc", "head.dense"),
    *rename_layer("mlm_layer.ln", "head.norm"),
    Rule(("mlm_layer.bias",), ("head.out.bias",), _flat, lambda bias: [bias.view(1, 1, -1)]),
    *map(drop, DEAD),
)


def network_of(
    own: Mapping[str, Tensor],
    origin: str,
    *,
    heads: int | None = None,
    decoder_heads: int = DECODER_HEADS,
) -> MageNetwork:
    """The sizes of a translated state.

    Args:
        own: by our names.
        origin: file, named in errors.
        heads: of the encoder; None means heads of 64, as published.
        decoder_heads: likewise.

    Raises:
        InputError: when parts are missing.
    """
    rows, width = shape_of(own, "embed.tokens.weight", origin)
    _, positions, inner = shape_of(own, "trunk.positions", origin)
    return MageNetwork(
        codes=rows - CLASS_ROWS - 1,
        width=width,
        depth=count_of(own, "trunk.encoder.{i}.attention.qkv.weight"),
        heads=heads or width // HEAD_WIDTH,
        decoder_width=inner,
        decoder_depth=count_of(own, "trunk.decoder.{i}.attention.qkv.weight"),
        decoder_heads=decoder_heads,
        length=positions - 1,
        position_rows=shape_of(own, "embed.positions.weight", origin)[0],
    )
