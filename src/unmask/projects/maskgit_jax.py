"""MaskGIT's own JAX checkpoints (google-research): one flax msgpack file each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unmask.checkpoints.names import Rule, Table, count_of, rename
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.projects.project import Checkpoint, Project
from unmask.recipes import maskgit

PUBLISHED = {
    name: f"https://storage.googleapis.com/maskgit-public/checkpoints/{name}"
    for name in ("maskgit_imagenet256_checkpoint", "maskgit_imagenet512_checkpoint")
}

WORDS, POSITIONS = (f"params/Embed_0/{what}_embeddings/embedding" for what in ("word", "position"))
LAYER = "params/TransformerLayer_{i}"
SELF = f"{LAYER}/Attention_0/self_attention"
OWN_BLOCK = "trunk.blocks.{i}"


def _transposed(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].T.contiguous()  # a flax kernel is (in, out)


def _query_key_value(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1).T for part in parts])  # (D, H, D / H) each


def _biases(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in parts])  # (H, D / H) each


def _output(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].flatten(0, 1).T.contiguous()  # (H, D / H, D)


def _norm(source: str, own: str) -> Table:
    return (rename(f"{source}/scale", f"{own}.weight"), rename(f"{source}/bias", f"{own}.bias"))


def _dense(source: str, own: str) -> Table:
    kernel = Rule((f"{source}/kernel",), (f"{own}.weight",), _transposed, None)
    return (kernel, rename(f"{source}/bias", f"{own}.bias"))


def _three(part: str) -> tuple[str, ...]:
    return tuple(f"{SELF}/{name}/{part}" for name in ("query", "key", "value"))


TABLE: Table = (
    Rule((WORDS,), ("embed.tokens.weight", "head.out.weight")),
    rename(POSITIONS, "embed.positions.weight"),
    *_norm("params/Embed_0/embeddings_ln", "embed.norm"),
    Rule(_three("kernel"), (f"{OWN_BLOCK}.attention.qkv.weight",), _query_key_value, None),
    Rule(_three("bias"), (f"{OWN_BLOCK}.attention.qkv.bias",), _biases, None),
    Rule((f"{SELF}/out/kernel",), (f"{OWN_BLOCK}.attention.out.weight",), _output, None),
    rename(f"{SELF}/out/bias", f"{OWN_BLOCK}.attention.out.bias"),
    *_norm(f"{LAYER}/Attention_0/attention_output_ln", f"{OWN_BLOCK}.attention_norm"),
    *_dense(f"{LAYER}/Mlp_0/intermediate_output", f"{OWN_BLOCK}.feed_forward.expand"),
    *_dense(f"{LAYER}/Mlp_0/layer_output", f"{OWN_BLOCK}.feed_forward.contract"),
    *_norm(f"{LAYER}/Mlp_0/layer_output_ln", f"{OWN_BLOCK}.feed_forward_norm"),
    *_dense("params/MlmLayer_0/mlm_dense", "head.dense"),
    *_norm("params/MlmLayer_0/mlm_ln", "head.norm"),
    rename("params/MlmLayer_0/mlm_bias/bias", "head.out.bias"),
)


def network_of(found: Checkpoint) -> MaskGITBertNetwork:
    """The sizes of a checkpoint, with the JAX model's own activation, tying and dropouts.

    Raises:
        InputError: when ``classes`` leaves no codes, or the tokens do not fill the grid.
    """
    state, classes = found.state, found.classes
    rows, width = state[WORDS].shape
    if not 1 <= classes < rows - 1:
        limit = f"a vocabulary of {rows} rows"
        raise InputError(f"{found.file}: classes={classes} does not fit {limit}")
    length = state[POSITIONS].shape[0] - 1
    return MaskGITBertNetwork(
        codes=rows - classes - 1,
        width=width,
        depth=count_of(state, f"{SELF}/query/kernel"),
        heads=state[f"{SELF}/query/kernel".format(i=0)].shape[1],
        feed_forward=state[f"{LAYER}/Mlp_0/intermediate_output/kernel".format(i=0)].shape[1],
        length=length,
        classes=classes,
        grid=found.grid_of(length),
        gelu="tanh",
        tie_embeddings=True,
        drop_attention_output=True,
    )


PROJECT = Project(
    name="maskgit-jax",
    network=MaskGITBertNetwork,
    rules=TABLE,
    mark=WORDS,
    sizes=network_of,
    published=PUBLISHED,
    recipes=(maskgit.JAX_IMAGENET256, maskgit.JAX_IMAGENET512),
)
