"""MAGE (LTH14): pre-training checkpoints, with the tokenizer in the same file under ``vqgan.``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from unmask.checkpoints.names import Rule, Table, drop, pick, rename, renames
from unmask.errors import InputError
from unmask.networks.mage import MageNetwork
from unmask.nn.embed import CLASS_ROWS
from unmask.projects import tokenizer_forms
from unmask.projects.project import TIMM_LAYERS, Checkpoint, Parts, Project, Tensors, square
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


TABLE: Table = (
    Rule(("token_emb.word_embeddings.weight",), ("embed.tokens.weight", "head.out.weight")),
    rename("token_emb.position_embeddings.weight", "embed.positions.weight"),
    rename("decoder_pos_embed_learned", "trunk.positions"),
    *renames(TIMM_LAYERS, "blocks.{i}.", "trunk.encoder.{i}."),
    *renames(TIMM_LAYERS, "decoder_blocks.{i}.", "trunk.decoder.{i}."),
    *renames(
        {
            "token_emb.LayerNorm.{part}": "embed.norm.{part}",
            "norm.{part}": "trunk.encoder_norm.{part}",
            "decoder_embed.{part}": "trunk.join.{part}",
            "decoder_norm.{part}": "trunk.decoder_norm.{part}",
            "mlm_layer.fc.{part}": "head.dense.{part}",
            "mlm_layer.ln.{part}": "head.norm.{part}",
        }
    ),
    Rule(("mlm_layer.bias",), ("head.out.bias",), _flat, lambda bias: [bias.view(1, 1, -1)]),
    *map(drop, DEAD),
)
PARTS = {pattern.partition(".")[0] for rule in TABLE for pattern in rule.source}


def split_tokenizer(state: Mapping[str, Value]) -> tuple[Mapping[str, Value], Mapping[str, Value]]:
    """Network and tokenizer of one file, each by its own keys."""
    tokenizer = {key.removeprefix(TOKENIZER): key for key in state if key.startswith(TOKENIZER)}
    network = {key: key for key in state if not key.startswith(TOKENIZER)}
    return pick(state, network), pick(state, tokenizer)


def extra_keys(state: Mapping[str, Tensor]) -> list[str]:
    """Keys of parts that MAGE has not, without its tokenizer's: MAGE-C's projection head.

    What its files are called is written nowhere, so no rule can name them.
    """
    return [key for key in state if key.partition(".")[0] not in PARTS | {TOKENIZER[:-1]}]


def network_of(found: Checkpoint) -> MageNetwork:
    """The sizes of a checkpoint.

    Heads that are not stated are as published: of 64 numbers in the encoder, 16 in the decoder.

    Raises:
        InputError: when parts are missing, or the tokens do not fill the grid.
    """
    rows, width = found.shape("embed.tokens.weight")
    _, positions, inner = found.shape("trunk.positions")
    return MageNetwork(
        codes=rows - CLASS_ROWS - 1,
        width=width,
        depth=found.count("trunk.encoder.{i}.attention.qkv.weight"),
        heads=found.heads or width // HEAD_WIDTH,
        decoder_width=inner,
        decoder_depth=found.count("trunk.decoder.{i}.attention.qkv.weight"),
        decoder_heads=found.decoder_heads or DECODER_HEADS,
        length=positions - 1,
        mlp_ratio=found.shape("trunk.encoder.0.feed_forward.expand.weight")[0] / width,
        position_rows=found.shape("embed.positions.weight")[0],
        grid=found.grid_of(positions - 1),
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
    sizes=network_of,
    parts=_parts,
    published=PUBLISHED,
    recipes=(mage.BASE, mage.LARGE),
    limits=_limits,
    more=_more,
    files=lambda network, state: {"checkpoint-last.pth": {"model": state}},
    untold=("heads", "decoder_heads", "dropout"),
)
