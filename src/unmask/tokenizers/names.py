"""The published tokenizers: how each project names the same skeleton's parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import (
    Rule,
    Table,
    check_architecture,
    count_of,
    drop,
    match,
    ours,
    rename,
    rename_module,
    renames,
    shape_of,
)
from unmask.errors import InputError
from unmask.tokenizers.vqgan import KLVAE, VQGAN, MaskGITVQGAN
from unmask.tokenizers.vqgan_blocks import GROUPS

CODEBOOK = "quantize.embedding.weight"
OWN_CODEBOOK, OWN_IDLE = "quantizer.codebook", "quantizer.idle"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How one project names the parts of a tokenizer. ``{i}`` is a level, ``{j}`` a block.

    Args:
        down: Pattern of a level of the encoder, finest first.
        up: Pattern of a level of the decoder.
        coarse_first: True where the decoder's level 0 is the lowest resolution, which runs first.
        block: Pattern of a residual block inside a level.
        attention: Pattern of an attention block inside a level; empty where no level has one.
        halve: Name of the convolution that ends an encoder level; empty for pooling.
        double: Name of the convolution that ends a decoder level.
        shortcut: Name of the 1x1 convolution inside a residual block.
        middle: Patterns of the blocks at the lowest resolution, and their places in our list.
        norm_out: Name of the last normalisation.
        dropped: Keys of training that are left aside.
        marks: Keys that all its files have, and those of no layout before it.
        codes: False for an autoencoder of latents, which has no codebook.
    """

    down: str
    up: str
    coarse_first: bool
    block: str
    attention: str = ""
    halve: str = ""
    double: str
    shortcut: str = "nin_shortcut"
    middle: tuple[tuple[str, str], ...]
    norm_out: str = "norm_out"
    dropped: tuple[str, ...] = ()
    marks: tuple[str, ...]
    codes: bool = True


TAMING = Layout(
    down="down.{i}",
    up="up.{i}",
    coarse_first=False,
    block="block.{j}",
    attention="attn.{j}",
    halve="downsample.conv",
    double="upsample.conv",
    middle=(("mid.block_1", "0"), ("mid.attn_1", "1"), ("mid.block_2", "2")),
    dropped=("loss.*",),
    marks=("encoder.mid.attn_1.norm.weight",),
)
POOLED = replace(TAMING, attention="", halve="", dropped=())
NUMBERED = (("mid.{i}", "{i}"),)

LAYOUTS: dict[str, Layout] = {
    "llamagen-vq": Layout(
        down="conv_blocks.{i}",
        up="conv_blocks.{i}",
        coarse_first=True,
        block="res.{j}",
        attention="attn.{j}",
        halve="downsample.conv",
        double="upsample.conv",
        middle=NUMBERED,
        dropped=("quantize.codebook_used",),
        marks=("encoder.conv_blocks.0.res.0.norm1.weight",),
    ),
    "amused-vq": Layout(
        down="down_blocks.{i}",
        up="up_blocks.{i}",
        coarse_first=True,
        block="resnets.{j}",
        halve="downsamplers.0.conv",
        double="upsamplers.0.conv",
        shortcut="conv_shortcut",
        middle=(("mid_block.resnets.{i}", "{i}"),),
        norm_out="conv_norm_out",
        marks=("encoder.down_blocks.0.resnets.0.norm1.weight",),
    ),
    "taming-vqgan": TAMING,
    "mage-vqgan": replace(
        POOLED,
        middle=(("mid.block_1", "0"), ("mid.block_2", "1")),
        marks=("encoder.mid.block_1.norm1.weight",),
    ),
    # fun-research/TiTok's file and UnlockMGM's folders
    "maskgit-vqgan": replace(
        POOLED, middle=NUMBERED, double="upsample_conv", marks=("encoder.mid.0.norm1.weight",)
    ),
    "kl16": replace(
        TAMING, marks=(*TAMING.marks, "quant_conv.weight", "post_quant_conv.weight"), codes=False
    ),
}
"""Every project's names; a file is of the first whose marks it has."""

# diffusers' VQModel can also be another network.
AMUSED_FIXED: dict[str, object] = {
    "act_fn": "silu",
    "norm_type": "group",
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}


def layout_of(state: Mapping[str, Tensor]) -> str | None:
    """The key of :data:`LAYOUTS` that a state dict follows, or None."""
    for name, layout in LAYOUTS.items():
        if layout.codes == (CODEBOOK in state) and all(mark in state for mark in layout.marks):
            return name
    return None


def count_levels(state: Mapping[str, Tensor], layout: Layout) -> int:
    """Resolutions of a state dict by the project's keys."""
    pattern = f"encoder.{layout.down}.{layout.block}.norm1.weight"
    found = (match(pattern, key) for key in state)
    return len({dict(places)["i"] for places in found if places is not None})


def table_of(layout: Layout, levels: int) -> Table:
    """The rules of one project for a network of so many levels."""
    rules = [drop(pattern) for pattern in layout.dropped]
    if layout.codes:
        rules += [rename(CODEBOOK, OWN_CODEBOOK), ours(OWN_IDLE)]
    if layout.halve:
        rules += [rename_module("quant_conv", "encoder.project")]
        rules += [rename_module("post_quant_conv", "decoder.project")]
    for side in ("encoder", "decoder"):
        rules += [rename_module(f"{side}.conv_in", f"{side}.conv_in")]
        rules += [rename_module(f"{side}.{s}", f"{side}.middle.{o}") for s, o in layout.middle]
        rules += [rename_module(f"{side}.{layout.norm_out}", f"{side}.norm_out")]
        rules += [rename_module(f"{side}.conv_out", f"{side}.conv_out")]
    rules += _level_rules(layout, f"encoder.{layout.down}", "encoder.levels.{i}", layout.halve)
    for level in range(levels):
        stored = level if layout.coarse_first else levels - 1 - level
        source = f"decoder.{layout.up.replace('{i}', str(stored))}"
        rules += _level_rules(layout, source, f"decoder.levels.{level}", layout.double)
    return tuple(rules)


def _level_rules(layout: Layout, source: str, own: str, resample: str) -> Table:
    block, own_block = f"{source}.{layout.block}", f"{own}.blocks.{{j}}"
    rules = [
        rename_module(f"{block}.{layout.shortcut}", f"{own_block}.shortcut"),
        rename_module(block, own_block),
    ]
    if layout.attention:
        rules.append(rename_module(f"{source}.{layout.attention}", f"{own}.attention.{{j}}"))
    if resample:
        rules.append(rename_module(f"{source}.{resample}", f"{own}.resample"))
    return tuple(rules)


def network_of(
    own: Mapping[str, Tensor], kind: str | None, config: Mapping[str, object], origin: str
) -> MaskGITVQGAN | VQGAN | KLVAE:
    """The sizes of a translated state.

    Args:
        own: by our names.
        kind: key of :data:`LAYOUTS`; None for the JAX original of MaskGIT's tokenizer.
        config: aMUSEd's ``config.json``, which tells what shapes do not; may be empty.
        origin: file, named in errors.

    Raises:
        InputError: when parts are missing, or the config is of another architecture.
    """
    stem, image_channels = shape_of(own, "encoder.conv_in.weight", origin)[:2]
    down = widths_of(own, "encoder", origin)
    blocks = count_of(own, "encoder.levels.0.blocks.{j}.conv1.weight")
    sizes: dict[str, Any] = {"stem": stem, "widths": down, "blocks": blocks}
    sizes["image_channels"] = image_channels
    if kind != "kl16":
        sizes["codes"], sizes["code_dim"] = shape_of(own, OWN_CODEBOOK, origin)
    if kind in (None, "maskgit-vqgan", "mage-vqgan"):
        return MaskGITVQGAN(**sizes, middle=count_of(own, "encoder.middle.{j}.conv1.weight"))
    first_q = "encoder.levels.{}.attention.0.q.weight"
    sizes["attention"] = tuple(n for n in range(len(down)) if first_q.format(n) in own)
    sizes["groups"] = _groups(config, origin)
    if kind == "kl16":
        return KLVAE(**sizes, channels=shape_of(own, "decoder.project.weight", origin)[0])
    check_architecture(config, AMUSED_FIXED, "aMUSEd", origin)
    up = widths_of(own, "decoder", origin)[::-1]
    return VQGAN(
        **sizes,
        decoder_widths=() if up == down else up,
        middle_attention="encoder.middle.1.q.weight" in own,
        latent_channels=shape_of(own, "encoder.conv_out.weight", origin)[0],
        l2_normalised=kind == "llamagen-vq",
    )


def _groups(config: Mapping[str, object], origin: str) -> int:
    """Groups of every normalisation, which a ``config.json`` may state."""
    groups = config.get("norm_num_groups", GROUPS)
    if not isinstance(groups, int) or groups < 1:
        raise InputError(f"{origin}: norm_num_groups={groups!r} must be a whole number from 1")
    return groups


def widths_of(own: Mapping[str, Tensor], side: str, origin: str) -> tuple[int, ...]:
    """Channels of the levels of "encoder" or "decoder", in the order in which they run.

    Raises:
        InputError: when there is none.
    """
    levels = count_of(own, f"{side}.levels.{{j}}.blocks.0.conv2.weight")
    if not levels:
        raise InputError(f"{origin} holds no {side}; is it of another network?")
    names = [f"{side}.levels.{level}.blocks.0.conv2.weight" for level in range(levels)]
    return tuple(shape_of(own, name, origin)[0] for name in names)


FLAX_CODEBOOK = "params/quantizer/codebook"
FLAX_NORMS = {"GroupNorm_0": "norm1", "GroupNorm_1": "norm2"}
FLAX_CONVOLUTIONS = {"Conv_0": "conv1", "Conv_1": "conv2", "Conv_2": "shortcut"}


def _to_torch(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].permute(3, 2, 0, 1).contiguous()  # a flax kernel is (h, w, in, out)


def _to_flax(tensor: Tensor) -> list[Tensor]:
    return [tensor.permute(2, 3, 1, 0).contiguous()]


def flax_table(state: Mapping[str, Tensor], origin: str) -> Table:
    """The rules of a checkpoint, whose modules are numbered in the order of their use.

    Args:
        state: by paths joined with "/".
        origin: file, named in errors.

    Raises:
        InputError: when it has no decoder.
    """
    levels = count_of(state, "params/decoder/Conv_{i}/kernel") - 1
    if levels < 1:
        raise InputError(f"{origin} holds no decoder; is it of another network?")
    blocks = count_of(state, "params/encoder/ResBlock_{i}/GroupNorm_0/scale") // (levels + 1)
    ladder = [
        f"levels.{level}.blocks.{block}" for level in range(levels) for block in range(blocks)
    ]
    middle = [f"middle.{block}" for block in range(blocks)]
    convolutions = {
        "encoder/Conv_0": "encoder.conv_in",
        "encoder/Conv_1": "encoder.conv_out",
        "decoder/Conv_0": "decoder.conv_in",
        f"decoder/Conv_{levels}": "decoder.conv_out",
        **{f"decoder/Conv_{n}": f"decoder.levels.{n - 1}.resample" for n in range(1, levels)},
    }
    norms = {f"{side}/GroupNorm_0": f"{side}.norm_out" for side in ("encoder", "decoder")}
    for side, places in (("encoder", ladder + middle), ("decoder", middle + ladder)):
        for number, place in enumerate(places):
            source, own = f"{side}/ResBlock_{number}", f"{side}.{place}"
            norms |= {f"{source}/{s}": f"{own}.{o}" for s, o in FLAX_NORMS.items()}
            convolutions |= {f"{source}/{s}": f"{own}.{o}" for s, o in FLAX_CONVOLUTIONS.items()}
    kernels = [
        Rule((f"params/{source}/kernel",), (f"{own}.weight",), _to_torch, _to_flax)
        for source, own in convolutions.items()
    ]
    names = {
        f"params/{source}/bias": f"{own}.bias" for source, own in (convolutions | norms).items()
    }
    names |= {f"params/{source}/scale": f"{own}.weight" for source, own in norms.items()}
    return (rename(FLAX_CODEBOOK, OWN_CODEBOOK), ours(OWN_IDLE), *kernels, *renames(names))
