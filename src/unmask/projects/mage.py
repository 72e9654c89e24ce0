"""MAGE (LTH14): pre-training checkpoints, with the tokenizer in the same file under ``vqgan.``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from unmask.checkpoints.names import (
    Rule,
    Table,
    count_of,
    drop,
    pick,
    rename,
    rename_layer,
    shape_of,
)
from unmask.errors import InputError
from unmask.networks.mage import MageNetwork
from unmask.networks.sizes import stated_grid
from unmask.nn.embed import CLASS_ROWS
from unmask.projects import tokenizer_forms
from unmask.projects.project import Parts, Project, Tensors, square, timm_blocks
from unmask.recipes import mage
from unmask.tokenizers.image_tokenizer import ImageTokenizer

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
POSITION_ROWS = 257  # of the encoder's position table, written into the source's code
PATCH = 16  # pixels, of the layers that the source never uses

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


EMBED: Table = (
    rename("token_emb.position_embeddings.weight", "embed.positions.weight"),
    *rename_layer("token_emb.LayerNorm", "embed.norm"),
)
TABLE: Table = (
    Rule(("token_emb.word_embeddings.weight",), ("embed.tokens.weight", "head.out.weight")),
    *EMBED,
    *timm_blocks("blocks", "trunk.encoder"),
    *rename_layer("norm", "trunk.encoder_norm"),
    *rename_layer("decoder_embed", "trunk.join"),
    rename("decoder_pos_embed_learned", "trunk.positions"),
    *timm_blocks("decoder_blocks", "trunk.decoder"),
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
        heads: heads of the encoder; None means heads of 64 numbers, as published.
        decoder_heads: heads of the decoder.
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


def _parts(state: Tensors) -> Parts:
    """Network, tokenizer, and the keys of neither, which MAGE-C's files may have."""
    network, tokenizer = split_tokenizer(state)
    unknown = extra_keys(network)
    kept = pick(network, {key: key for key in network if key not in unknown})
    return Parts(kept, tokenizer, tuple(unknown))


def _more(network: MageNetwork, tokenizer: ImageTokenizer | None) -> dict[str, Tensor]:
    """The tokenizer, and zeros for what no computation reads."""
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer, which MAGE's files hold; convert or train it with one "
            "(--tokenizer mage-vqgan)"
        )
    form = tokenizer_forms.MAGE
    form.check(tokenizer.config)
    vqgan = form.state(tokenizer.config, tokenizer.state_dict())
    width, inner, positions = network.width, network.decoder_width, network.length + 1
    dead = {
        "cls_token": (1, 1, width),
        "mask_token": (1, 1, inner),
        "pos_embed": (1, positions, width),
        "decoder_pos_embed": (1, positions, inner),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
        "decoder_pred.weight": (3 * PATCH**2, inner),
        "decoder_pred.bias": (3 * PATCH**2,),
    }
    return {
        "token_emb.position_ids": torch.arange(POSITION_ROWS).unsqueeze(0),
        **{key: torch.zeros(shape) for key, shape in dead.items()},
        **{TOKENIZER + key: tensor for key, tensor in vqgan.items()},
    }


def _limits(network: MageNetwork) -> dict[str, Any]:
    rows = network.position_rows or network.length + 1
    return square(network) | ({} if rows == POSITION_ROWS else {"position_rows": POSITION_ROWS})


PROJECT = Project(
    name="mage",
    network=MageNetwork,
    rules=TABLE,
    mark="mlm_layer.fc.weight",
    sizes=lambda found: network_of(found.own, found.origin, heads=found.heads, grid=found.grid),
    parts=_parts,
    published=PUBLISHED,
    recipes=(mage.BASE, mage.LARGE),
    limits=_limits,
    more=_more,
    files=lambda network, state: {"checkpoint-last.pth": {"model": state}},
    untold=("heads", "decoder_heads", "dropout"),
)
