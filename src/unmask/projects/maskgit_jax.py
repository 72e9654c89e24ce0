"""MaskGIT's own JAX checkpoints (google-research): one flax msgpack file each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from unmask.checkpoints.names import Rule, Table
from unmask.errors import InputError
from unmask.networks.maskgit import PostNormNetwork
from unmask.networks.sizes import stated_grid

PUBLISHED = {
    name: f"https://storage.googleapis.com/maskgit-public/checkpoints/{name}"
    for name in ("maskgit_imagenet256_checkpoint", "maskgit_imagenet512_checkpoint")
}

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


def _copy(source: str, *own: str) -> Rule:
    return Rule((source,), own)


def _norm(source: str, own: str) -> Table:
    return (_copy(f"{source}/scale", f"{own}.weight"), _copy(f"{source}/bias", f"{own}.bias"))


def _dense(source: str, own: str) -> Table:
    kernel = Rule((f"{source}/kernel",), (f"{own}.weight",), _transposed, None)
    return (kernel, _copy(f"{source}/bias", f"{own}.bias"))


def _three(part: str) -> tuple[str, ...]:
    return tuple(f"{SELF}/{name}/{part}" for name in ("query", "key", "value"))


TABLE: Table = (
    _copy("params/Embed_0/word_embeddings/embedding", "embed.tokens.weight", "head.out.weight"),
    _copy("params/Embed_0/position_embeddings/embedding", "embed.positions.weight"),
    *_norm("params/Embed_0/embeddings_ln", "embed.norm"),
    Rule(_three("kernel"), (f"{OWN_BLOCK}.attention.qkv.weight",), _query_key_value, None),
    Rule(_three("bias"), (f"{OWN_BLOCK}.attention.qkv.bias",), _biases, None),
    Rule((f"{SELF}/out/kernel",), (f"{OWN_BLOCK}.attention.out.weight",), _output, None),
    _copy(f"{SELF}/out/bias", f"{OWN_BLOCK}.attention.out.bias"),
    *_norm(f"{LAYER}/Attention_0/attention_output_ln", f"{OWN_BLOCK}.attention_norm"),
    *_dense(f"{LAYER}/Mlp_0/intermediate_output", f"{OWN_BLOCK}.feed_forward.expand"),
    *_dense(f"{LAYER}/Mlp_0/layer_output", f"{OWN_BLOCK}.feed_forward.contract"),
    *_norm(f"{LAYER}/Mlp_0/layer_output_ln", f"{OWN_BLOCK}.feed_forward_norm"),
    *_dense("params/MlmLayer_0/mlm_dense", "head.dense"),
    *_norm("params/MlmLayer_0/mlm_ln", "head.norm"),
    _copy("params/MlmLayer_0/mlm_bias/bias", "head.out.bias"),
)


def network_of(
    state: Mapping[str, Tensor],
    *,
    classes: int = 1000,
    grid: tuple[int, int] | None = None,
    origin: str,
) -> PostNormNetwork:
    """The sizes of a checkpoint, with the JAX model's own activation, tying and dropouts.

    Args:
        state: by paths joined with "/".
        classes: N, which no shape tells apart from the codes.
        grid: (h, w) tokens, which no shape tells; None means square.
        origin: file, named in errors.

    Raises:
        InputError: when ``classes`` leaves no codes, or the tokens do not fill the grid.
    """
    rows, width = state["params/Embed_0/word_embeddings/embedding"].shape
    if not 1 <= classes < rows - 1:
        raise InputError(f"{origin}: classes={classes} does not fit a vocabulary of {rows} rows")
    length = state["params/Embed_0/position_embeddings/embedding"].shape[0] - 1
    first = LAYER.replace("{i}", "0")
    return PostNormNetwork(
        codes=rows - classes - 1,
        width=width,
        depth=sum(key.endswith("/query/kernel") for key in state),
        heads=state[f"{first}/Attention_0/self_attention/query/kernel"].shape[1],
        feed_forward=state[f"{first}/Mlp_0/intermediate_output/kernel"].shape[1],
        length=length,
        classes=classes,
        grid=stated_grid(length, grid, origin),
        gelu="tanh",
        tie_embeddings=True,
        drop_attention_output=True,
    )
