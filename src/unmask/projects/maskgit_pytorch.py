"""maskgit-pytorch (xyfJASON): stage-2 checkpoints. None are published; users have their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import Table, renames
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.projects.project import Checkpoint, Project
from unmask.recipes import maskgit

TABLE: Table = renames(
    {
        "pos_emb": "embed.positions",
        "token_emb.weight": "embed.tokens.weight",
        "class_emb.weight": "embed.classes.weight",
        "blocks.{i}.ln1.{part}": "trunk.blocks.{i}.attention_norm.{part}",
        "blocks.{i}.attn.qkv.weight": "trunk.blocks.{i}.attention.qkv.weight",
        "blocks.{i}.attn.out.{part}": "trunk.blocks.{i}.attention.out.{part}",
        "blocks.{i}.ln2.{part}": "trunk.blocks.{i}.feed_forward_norm.{part}",
        "blocks.{i}.mlp.0.{part}": "trunk.blocks.{i}.feed_forward.expand.{part}",
        "blocks.{i}.mlp.2.{part}": "trunk.blocks.{i}.feed_forward.contract.{part}",
        "classifier.0.{part}": "head.norm.{part}",
        "classifier.1.{part}": "head.out.{part}",
    }
)
STEP = "ckpt/step0000000"


def network_of(found: Checkpoint) -> MaskGITVitNetwork:
    """The network of a run, whose configuration tells heads and dropout.

    Raises:
        InputError: without a number of heads, or when the tokens do not fill the grid.
    """
    heads = found.heads if found.heads is not None else _number(found, "n_heads", int)
    if heads is None:
        raise InputError(
            f"{found.file}: the number of attention heads is not in the weights; put the run's "
            "config-*.yaml beside its ckpt folder, or give heads (8 in the published configs)"
        )
    codes, width = found.shape("embed.tokens.weight")
    length = found.shape("embed.positions")[1]
    classes = "embed.classes.weight"
    return MaskGITVitNetwork(
        codes=codes - 1,
        width=width,
        depth=found.count("trunk.blocks.{i}.attention.qkv.weight"),
        heads=heads,
        length=length,
        classes=found.shape(classes)[0] - 1 if classes in found.own else 0,
        dropout=_number(found, "dropout", float) or 0.0,
        grid=found.grid_of(length),
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
    weights = {f"{STEP}/{name}": {"model": state} for name in ("model.pt", "model_ema.pt")}
    return weights | {"config-exported.yaml": {"transformer": {"params": sizes}}}


PROJECT = Project(
    name="maskgit-pytorch",
    network=MaskGITVitNetwork,
    rules=TABLE,
    mark="pos_emb",
    sizes=network_of,
    recipes=(maskgit.PYTORCH_IMAGENET256, maskgit.PYTORCH_FFHQ256),
    limits=lambda network: {"feedback": None},
    files=_files,
    untold=("grid",),
)
