"""maskgit-pytorch (xyfJASON): stage-2 checkpoints. None are published; users have their own."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unmask.checkpoints.names import Table, rename, rename_layer
from unmask.errors import InputError
from unmask.networks.maskgit import PreNormNetwork
from unmask.networks.sizes import stated_grid

BLOCK = "blocks.{i}"
OWN_BLOCK = "trunk.blocks.{i}"

TABLE: Table = (
    rename("pos_emb", "embed.positions"),
    rename("token_emb.weight", "embed.tokens.weight"),
    rename("class_emb.weight", "embed.classes.weight"),
    *rename_layer(f"{BLOCK}.ln1", f"{OWN_BLOCK}.attention_norm"),
    rename(f"{BLOCK}.attn.qkv.weight", f"{OWN_BLOCK}.attention.qkv.weight"),
    *rename_layer(f"{BLOCK}.attn.out", f"{OWN_BLOCK}.attention.out"),
    *rename_layer(f"{BLOCK}.ln2", f"{OWN_BLOCK}.feed_forward_norm"),
    *rename_layer(f"{BLOCK}.mlp.0", f"{OWN_BLOCK}.feed_forward.expand"),
    *rename_layer(f"{BLOCK}.mlp.2", f"{OWN_BLOCK}.feed_forward.contract"),
    *rename_layer("classifier.0", "head.norm"),
    *rename_layer("classifier.1", "head.out"),
)


def network_of(
    state: Mapping[str, Tensor],
    *,
    heads: int | None,
    dropout: float = 0.0,
    grid: tuple[int, int] | None = None,
    origin: str,
) -> PreNormNetwork:
    """The sizes of a checkpoint.

    Args:
        state: by the source's keys.
        heads: attention heads, which no shape tells.
        dropout: only matters for further training.
        grid: (h, w) tokens, which no shape tells; None means square.
        origin: file, named in errors.

    Raises:
        InputError: without ``heads``, or when the tokens do not fill the grid.
    """
    if heads is None:
        raise InputError(
            f"{origin}: the number of attention heads is not in the weights; put the run's "
            "config-*.yaml beside its ckpt folder, or give heads (8 in the published configs)"
        )
    codes, width = state["token_emb.weight"].shape
    length = state["pos_emb"].shape[1]
    classes = state["class_emb.weight"].shape[0] - 1 if "class_emb.weight" in state else 0
    return PreNormNetwork(
        codes=codes - 1,
        width=width,
        depth=sum(key.endswith(".attn.qkv.weight") for key in state),
        heads=heads,
        length=length,
        classes=classes,
        dropout=dropout,
        grid=stated_grid(length, grid, origin),
    )
