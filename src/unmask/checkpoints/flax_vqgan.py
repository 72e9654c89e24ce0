"""MaskGIT's own tokenizer files (google-research): flax msgpack, numbered modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from unmask.checkpoints.names import Rule, Table, match, ours, rename
from unmask.checkpoints.vqgan import OWN_CODEBOOK, OWN_IDLE
from unmask.errors import InputError

CODEBOOK = "params/quantizer/codebook"
PARTS = {"GroupNorm_0": "norm1", "GroupNorm_1": "norm2"}
CONVOLUTIONS = {"Conv_0": "conv1", "Conv_1": "conv2", "Conv_2": "shortcut"}


def is_flax_tokenizer(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict, by paths joined with "/", is of this kind."""
    return CODEBOOK in state


def _to_torch(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].permute(3, 2, 0, 1).contiguous()  # a flax kernel is (h, w, in, out)


def _to_flax(tensor: Tensor) -> list[Tensor]:
    return [tensor.permute(2, 3, 1, 0).contiguous()]


def _conv(source: str, own: str, *, bias: bool) -> Table:
    kernel = Rule((f"params/{source}/kernel",), (f"{own}.weight",), _to_torch, _to_flax)
    return (kernel, rename(f"params/{source}/bias", f"{own}.bias")) if bias else (kernel,)


def _norm(source: str, own: str) -> Table:
    names = {"scale": "weight", "bias": "bias"}
    return tuple(rename(f"params/{source}/{s}", f"{own}.{o}") for s, o in names.items())


def _block(source: str, own: str) -> Table:
    rules: list[Rule] = []
    for part, name in PARTS.items():
        rules += _norm(f"{source}/{part}", f"{own}.{name}")
    for part, name in CONVOLUTIONS.items():
        rules += _conv(f"{source}/{part}", f"{own}.{name}", bias=False)
    return tuple(rules)


def table_of(state: Mapping[str, Tensor], origin: str) -> Table:
    """The rules of a checkpoint, whose modules are numbered in the order of their use.

    Args:
        state: by paths joined with "/".
        origin: file, named in errors.

    Raises:
        InputError: when it has no decoder.
    """
    levels = _count(state, "params/decoder/Conv_{i}/kernel") - 1
    if levels < 1:
        raise InputError(f"{origin} holds no decoder; is it of another network?")
    blocks = _count(state, "params/encoder/ResBlock_{i}/GroupNorm_0/scale") // (levels + 1)
    rules = [rename(CODEBOOK, OWN_CODEBOOK), ours(OWN_IDLE)]
    rules += _conv("encoder/Conv_0", "encoder.conv_in", bias=False)
    rules += _conv("encoder/Conv_1", "encoder.conv_out", bias=True)
    rules += _conv("decoder/Conv_0", "decoder.conv_in", bias=True)
    rules += _conv(f"decoder/Conv_{levels}", "decoder.conv_out", bias=True)
    for level in range(levels - 1):
        resample = f"decoder.levels.{level}.resample"
        rules += _conv(f"decoder/Conv_{level + 1}", resample, bias=True)
    for side in ("encoder", "decoder"):
        rules += _norm(f"{side}/GroupNorm_0", f"{side}.norm_out")
        for number, own in enumerate(_places(side, levels, blocks)):
            rules += _block(f"{side}/ResBlock_{number}", f"{side}.{own}")
    return tuple(rules)


def _places(side: str, levels: int, blocks: int) -> list[str]:
    """Our names of the residual blocks, in the order in which they run."""
    ladder = [f"levels.{level}.blocks.{b}" for level in range(levels) for b in range(blocks)]
    middle = [f"middle.{b}" for b in range(blocks)]
    return ladder + middle if side == "encoder" else middle + ladder


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    return sum(match(pattern, key) is not None for key in state)
