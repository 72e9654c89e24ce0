"""MAGE (LTH14): pre-training checkpoints, with the tokenizer in the same file under ``vqgan.``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from torch import Tensor

from unmask.checkpoints.names import Rule, Table, drop, pick, rename, rename_layer
from unmask.networks.mage import MageNetwork
from unmask.networks.sizes import stated_grid
from unmask.nn.embed import CLASS_ROWS
from unmask.tokenizers.names import count_of, shape_of

Value = TypeVar("Value")

DRIVE = "https://drive.google.com/file/d/{}/view"
PUBLISHED = {
    "MAGE ViT-B": DRIVE.format("1Q6tbt3vF0bSrv5sPrjpFu8ksG3vTsVX2"),
    "MAGE ViT-L": DRIVE.format("15xBPa8EIa0IRUiRYtXiYOC9JZVyMIFrB"),
    "MAGE-C ViT-B": DRIVE.format("1069p6ZURt-xLFYrHfUiySQt1VCmWsun3"),
    "MAGE-C ViT-L": DRIVE.format("1GOz8l6N-3LcUrM6a--TnBztN7NJpZ-Hp"),
}

TOKENIZER = "vqgan."
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


PARTS = {pattern.partition(".")[0] for rule in TABLE for pattern in rule.source}


def split_tokenizer(
    state: Mapping[str, Value],
) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
    """Network and tokenizer of one file, each by its own keys."""
    tokenizer = {key.removeprefix(TOKENIZER): key for key in state if key.startswith(TOKENIZER)}
    network = {key: key for key in state if not key.startswith(TOKENIZER)}
    return pick(state, network), pick(state, tokenizer)


def extra_keys(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of parts that MAGE has not, without its tokenizer's: MAGE-C's projection head.

    What its files are called is written nowhere, so no rule can name them.
    """
    return [key for key in state if key.partition(".")[0] not in PARTS | {TOKENIZER[:-1]}]


def network_of(
    own: Mapping[str, Tensor],
    origin: str,
    *,
    heads: int | None = None,
    decoder_heads: int = DECODER_HEADS,
    grid: tuple[int, int] | None = None,
) -> MageNetwork:
    """The sizes of a translated state.

    Args:
        own: by our names.
        origin: file, named in errors.
        heads: of the encoder; None means heads of 64, as published.
        decoder_heads: likewise.
        grid: (h, w) tokens, which no shape tells; None means square.

    Raises:
        InputError: when parts are missing, or the tokens do not fill the grid.
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
        mlp_ratio=shape_of(own, "trunk.encoder.0.feed_forward.expand.weight", origin)[0] / width,
        position_rows=shape_of(own, "embed.positions.weight", origin)[0],
        grid=stated_grid(positions - 1, grid, origin),
    )
