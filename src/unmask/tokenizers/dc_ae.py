"""DC-AE, the deterministic autoencoder of stride 32 whose latents eMIGM generates at 512 pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unmask.errors import InputError
from unmask.files.serial import from_dict
from unmask.networks.sizes import Channels
from unmask.tokenizers.image_tokenizer import BlockCounts, LevelConfig, Levels, Widths
from unmask.tokenizers.latent_tokenizer import Grouped, LatentTokenizer, Scale

CLASS = "AutoencoderDC"  # in a diffusers config.json
NAMES = {
    "image_channels": "in_channels",
    "channels": "latent_channels",
    "head_dim": "attention_head_dim",
    "widths": "encoder_block_out_channels",
    "encoder_blocks": "encoder_layers_per_block",
    "decoder_blocks": "decoder_layers_per_block",
}
"""Our names for what diffusers calls otherwise."""


@dataclass(frozen=True, kw_only=True)
class DCAE(Grouped, LevelConfig):
    """Sizes of a :class:`DCAETokenizer`; the defaults are those of f32c32."""

    widths: Widths = (128, 256, 512, 512, 1024, 1024)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""
    encoder_blocks: BlockCounts = (0, 4, 8, 2, 2, 2)
    """Blocks at each level of the encoder, finest first."""
    decoder_blocks: BlockCounts = (0, 5, 10, 2, 2, 2)
    """Blocks at each level of the decoder, finest first."""
    attention: Levels = (3, 4, 5)
    """Levels whose blocks have linear attention (EfficientViT), 0 the finest; the decoder's other
    levels normalise over batches in training."""
    head_dim: Channels = 32
    """Channels per attention head."""
    channels: Channels = 32
    """C, numbers at each place of the encoder's map."""
    scale: Scale = 0.3189
    """Factor from latents to tokens (eMIGM at 512 pixels)."""

    def __post_init__(self) -> None:
        """Reject shapes that cannot be built."""
        super().__post_init__()
        levels = len(self.widths)
        if not levels == len(self.encoder_blocks) == len(self.decoder_blocks):
            raise InputError(
                f"encoder_blocks={self.encoder_blocks} and decoder_blocks={self.decoder_blocks} "
                f"must give a number for each of the {levels} levels of widths={self.widths}"
            )
        self.check_attention(self.attention)
        if self.widths[-1] % self.channels:
            raise InputError(f"channels={self.channels} must divide the last of {self.widths}")

    def build(self) -> DCAETokenizer:
        """The tokenizer of these sizes, with random weights."""
        return DCAETokenizer(self)


class DCAETokenizer(LatentTokenizer):
    """A tokenizer of latents without chance, diffusers' ``AutoencoderDC`` (arXiv 2410.10733).

    Raises:
        InputError: diffusers is not installed.
    """

    family = "dc_ae"
    deterministic = True

    def __init__(self, config: DCAE) -> None:
        super().__init__(config, config.channels, scale=config.scale)
        self.encoder, self.decoder = _networks(config)

    def decisive(self) -> Iterable[tuple[str, Tensor]]:
        """Parameters, and the means and variances of batch norms."""
        return self.state_dict().items()


def sizes_of(config: Mapping[str, object], origin: str) -> DCAE:
    """What a diffusers ``config.json`` describes; its ``scaling_factor`` is left aside.

    Raises:
        InputError: for a variant that this class cannot be.
    """
    said = {key: _frozen(value) for key, value in config.items()}
    own = {name: config[key] for name, key in NAMES.items() if key in config}
    kinds = said.get("encoder_block_types", ())
    levels = enumerate(kinds if isinstance(kinds, tuple) else ())
    own["attention"] = [level for level, kind in levels if kind != "ResBlock"]
    sizes = from_dict(DCAE, own, origin)
    for key, value in arguments(sizes).items():
        if key in said and said[key] != value:
            raise InputError(f"{origin}: {key}={said[key]} is not supported, wanted is {value}")
    return sizes


def _frozen(value: object) -> object:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def arguments(config: DCAE) -> dict[str, Any]:
    """Sizes as the arguments of diffusers' ``AutoencoderDC``."""
    attends = [level in config.attention for level in range(len(config.widths))]
    kinds = tuple("EfficientViTBlock" if yes else "ResBlock" for yes in attends)
    one_scale: tuple[tuple[int, ...], ...] = ((),) * len(attends)
    return {
        **{key: getattr(config, name) for name, key in NAMES.items()},
        "decoder_block_out_channels": config.widths,
        "encoder_block_types": kinds,
        "decoder_block_types": kinds,
        "encoder_qkv_multiscales": one_scale,
        "decoder_qkv_multiscales": one_scale,
        "downsample_block_type": "pixel_unshuffle",
        "upsample_block_type": "pixel_shuffle",
        "decoder_norm_types": tuple("rms_norm" if yes else "batch_norm" for yes in attends),
        "decoder_act_fns": tuple("silu" if yes else "relu" for yes in attends),
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
    }


def _networks(config: DCAE) -> tuple[nn.Module, nn.Module]:
    try:
        from diffusers import AutoencoderDC
    except (ImportError, RuntimeError) as error:  # diffusers wraps what its parts cannot import
        reason = str(error).splitlines()[0]
        raise InputError(f'DC-AE needs diffusers: pip install "unmask[dcae]" ({reason})') from None
    made: Any = AutoencoderDC(**arguments(config))
    return made.encoder, made.decoder
