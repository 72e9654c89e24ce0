"""KL-16 of MAR and eMIGM (latent diffusion's autoencoder): VQGAN's names without a codebook."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unmask.checkpoints.names import Cast, to_own
from unmask.checkpoints.store import single
from unmask.checkpoints.vqgan import (
    CODEBOOK,
    TAMING,
    autoencoder_table,
    count_levels,
    count_of,
    shape_of,
    widths_of,
)
from unmask.errors import InputError
from unmask.tokenizers.kl_vae import KLVAE
from unmask.tokenizers.vqgan_blocks import GROUPS

LAYOUT = TAMING
MARKS = ("encoder.mid.attn_1.norm.weight", "quant_conv.weight", "post_quant_conv.weight")


def is_kl_vae(state: Mapping[str, Tensor]) -> bool:
    """Whether these are the keys of a KL autoencoder."""
    return CODEBOOK not in state and all(key in state for key in MARKS)


def translate_kl_vae(
    state: Mapping[str, Tensor], origin: str, *, groups: int = GROUPS, cast: Cast = single
) -> tuple[KLVAE, dict[str, Tensor]]:
    """A checkpoint's tensors by our names, and the sizes that they have.

    Args:
        state: by the source's keys; losses of training are left aside.
        origin: file, named in errors.
        groups: of every normalisation, which no shape tells.
        cast: what becomes of each tensor; see :func:`unmask.checkpoints.names.to_own`.

    Raises:
        InputError: when it is no KL autoencoder.
    """
    if not is_kl_vae(state):
        some = ", ".join(sorted(state)[:3]) or "nothing"
        raise InputError(f"{origin} is no KL autoencoder; it holds {some}")
    table = autoencoder_table(LAYOUT, count_levels(state, LAYOUT))
    own = to_own(state, table, origin, cast=cast)
    return _network(own, origin, groups), own


def _network(own: Mapping[str, Tensor], origin: str, groups: int) -> KLVAE:
    conv_in, widths = (
        shape_of(own, "encoder.conv_in.weight", origin),
        widths_of(own, "encoder", origin),
    )
    first_q = "encoder.levels.{}.attention.0.q.weight"
    return KLVAE(
        image_channels=conv_in[1],
        stem=conv_in[0],
        widths=widths,
        blocks=count_of(own, "encoder.levels.0.blocks.{j}.conv1.weight"),
        attention=tuple(level for level in range(len(widths)) if first_q.format(level) in own),
        channels=shape_of(own, "decoder.project.weight", origin)[0],
        groups=groups,
    )
