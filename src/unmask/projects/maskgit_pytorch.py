"""maskgit-pytorch (xyfJASON): stage-2 checkpoints. None are published; users have their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import Table, count_of, rename, rename_layer, rename_layers
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.networks.sizes import stated_grid
from unmask.projects.project import Checkpoint, Project
from unmask.recipes import maskgit

TABLE: Table = (
    rename("pos_emb", "embed.positions"),
    rename("token_emb.weight", "embed.tokens.weight"),
    rename("class_emb.weight", "embed.classes.weight"),
    rename("blocks.{i}.attn.qkv.weight", "trunk.blocks.{i}.attention.qkv.weight"),
    *rename_layers(
        "blocks.{i}",
        "trunk.blocks.{i}",
        {
            "ln1": "attention_norm",
            "attn.out": "attention.out",
            "ln2": "feed_forward_norm",
            "mlp.0": "feed_forward.expand",
            "mlp.2": "feed_forward.contract",
        },
    ),
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
) -> MaskGITVitNetwork:
    """The sizes of a checkpoint.

    Args:
        state: by the source's keys.
        heads: attention heads, which no shape tells.
        dropout: dropout rate, which only matters for further training.
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
    return MaskGITVitNetwork(
        codes=codes - 1,
        width=width,
        depth=count_of(state, "blocks.{i}.attn.qkv.weight"),
        heads=heads,
        length=length,
        classes=state["class_emb.weight"].shape[0] - 1 if "class_emb.weight" in state else 0,
        dropout=dropout,
        grid=stated_grid(length, grid, origin),
    )


def _sizes(found: Checkpoint) -> MaskGITVitNetwork:
    """The network of a run, whose configuration tells heads and dropout."""
    heads = found.heads if found.heads is not None else _number(found, "n_heads", int)
    dropout = _number(found, "dropout", float) or 0.0
    return network_of(
        found.state, heads=heads, dropout=dropout, grid=found.grid, origin=found.origin
    )


def _number(found: Checkpoint, key: str, kind: type) -> Any:
    """A number of a run's configuration, or None."""
    value = _find_value(found.config, key)
    if value is None or type(value) is kind or (type(value) is int and kind is float):
        return value
    raise InputError(f"{found.config_file}: {key}={str(value)[:40]!r} is no number for it")


def _find_value(tree: Mapping[str, Any], key: str) -> Any:
    """The outermost value of ``key`` in nested maps, each of them looked at once, else None."""
    waiting, seen = [tree], {id(tree)}
    for branch in waiting:
        if branch.get(key) is not None:
            return branch[key]
        below = [v for v in branch.values() if isinstance(v, dict) and id(v) not in seen]
        waiting += below
        seen |= set(map(id, below))
    return None


def _files(network: MaskGITVitNetwork, state: dict[str, Tensor]) -> dict[str, Any]:
    """A run with one step, whose averaged weights are the weights, and its configuration."""
    sizes = {
        "vocab_size": network.codes,
        "embed_dim": network.width,
        "n_heads": network.heads,
        "n_layers": network.depth,
        "n_tokens": network.length,
        "n_classes": network.classes,
        "dropout": network.dropout,
    }
    step = "ckpt/step0000000"
    return {
        f"{step}/model.pt": {"model": state},
        f"{step}/model_ema.pt": {"model": state},
        "config-exported.yaml": {"transformer": {"params": sizes}},
    }


PROJECT = Project(
    name="maskgit-pytorch",
    network=MaskGITVitNetwork,
    rules=TABLE,
    mark="pos_emb",
    sizes=_sizes,
    recipes=(maskgit.PYTORCH_IMAGENET256, maskgit.PYTORCH_FFHQ256),
    limits=lambda network: {"feedback": None},
    files=_files,
    untold=("grid",),
)
