"""Tokenizers in the files of the projects that they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unmask.checkpoints.names import Table
from unmask.projects.project import Form
from unmask.tokenizers import dc_ae
from unmask.tokenizers.dc_ae import DCAE
from unmask.tokenizers.names import LAYOUTS, table_of
from unmask.tokenizers.vqgan import KLVAE, VQGAN, MaskGITVQGAN
from unmask.tokenizers.vqgan_blocks import GROUPS

RESOLUTION = 256  # pixels at which taming's configurations name the levels that have attention
USED = 65536  # entries of LlamaGen's record of codes, which its strict loading wants
DIFFUSERS = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True, kw_only=True)
class TokenizerForm(Form):
    """How one project stores a tokenizer of convolutions, named as in ``LAYOUTS``."""

    def table(self, config: Any) -> Table:
        """The rules for so many levels."""
        return table_of(LAYOUTS[self.name], len(config.widths))


def _multiples(config: Any) -> dict[str, Any]:
    """Widths as whole multiples of the first layer's, which is how their codes state them."""
    return {"widths": tuple(max(1, width // config.stem) * config.stem for width in config.widths)}


def _ratios(config: Any) -> list[int]:
    return [width // config.stem for width in config.widths]


def _maskgit_files(config: MaskGITVQGAN, state: dict[str, Tensor]) -> dict[str, Any]:
    """UnlockMGM's folder, whose weights are also TiTok's file."""
    sizes = {
        "_class_name": "MaskGitVQGAN",
        "resolution": RESOLUTION,
        "num_channels": config.image_channels,
        "hidden_channels": config.stem,
        "channel_mult": _ratios(config),
        "num_res_blocks": config.blocks,
        "attn_resolutions": [],
        "z_channels": config.code_dim,
        "num_embeddings": config.codes,
        "quantized_embed_dim": config.code_dim,
        "dropout": 0.0,
        "resample_with_conv": True,
        "commitment_cost": 0.25,
    }
    return {"config.json": sizes, "pytorch_model.bin": state}


def _taming_files(config: VQGAN, state: dict[str, Tensor]) -> dict[str, Any]:
    """The checkpoint, and the configuration that its code builds the network from."""
    ddconfig = {
        "double_z": False,
        "z_channels": config.latent_channels,
        "resolution": RESOLUTION,
        "in_channels": config.image_channels,
        "out_ch": config.image_channels,
        "ch": config.stem,
        "ch_mult": _ratios(config),
        "num_res_blocks": config.blocks,
        "attn_resolutions": [RESOLUTION >> level for level in config.attention],
        "dropout": 0.0,
    }
    params = {"embed_dim": config.code_dim, "n_embed": config.codes, "ddconfig": ddconfig}
    params["lossconfig"] = {"target": "torch.nn.Identity"}
    model = {"target": "taming.models.vqgan.VQModel", "params": params}
    return {"last.ckpt": {"state_dict": state}, "model.yaml": {"model": model}}


def _amused_files(config: VQGAN, state: dict[str, Tensor]) -> dict[str, Any]:
    """A folder as diffusers reads it."""
    levels = len(config.widths)
    sizes = {
        "_class_name": "VQModel",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": list(config.widths),
        "layers_per_block": config.blocks,
        "latent_channels": config.latent_channels,
        "num_vq_embeddings": config.codes,
        "vq_embed_dim": config.code_dim,
        "norm_num_groups": config.groups,
        "act_fn": "silu",
        "norm_type": "group",
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
    }
    return {"config.json": sizes, DIFFUSERS: state}


def _dc_ae_files(config: DCAE, state: dict[str, Tensor]) -> dict[str, Any]:
    """A folder as diffusers reads it; its own scale is a rough one, ours is eMIGM's."""
    sizes = {"_class_name": dc_ae.CLASS, "scaling_factor": config.scale}
    return {"config.json": sizes | dc_ae.arguments(config), DIFFUSERS: state}


def _plain_vqgan(config: VQGAN) -> dict[str, Any]:
    """What taming's code fixes, and LlamaGen's takes over."""
    return {
        **_multiples(config),
        "middle_attention": True,
        "l2_normalised": False,
        "groups": GROUPS,
        "pixels": "signed",
    }


def _kl_limits(config: KLVAE) -> dict[str, Any]:
    """What MAR's code fixes: all but the multiples of its width, and the channels."""
    at_16 = tuple(n for n in range(len(config.widths)) if RESOLUTION >> n == 16)
    fixed = {"image_channels": 3, "stem": 128, "blocks": 2, "groups": GROUPS, "attention": at_16}
    return fixed | _multiples(config)


MAGE = TokenizerForm(
    name="mage-vqgan",
    network=MaskGITVQGAN,
    limits=lambda config: _multiples(config) | {"middle": 2},
    files=lambda config, state: {"vqgan_jax_strongaug.ckpt": state},
    untold=("stem", "widths", "blocks", "codes", "code_dim"),
)


FORMS: tuple[Form, ...] = (
    TokenizerForm(
        name="maskgit-vqgan",
        network=MaskGITVQGAN,
        limits=lambda config: _multiples(config) | {"middle": config.blocks},
        files=_maskgit_files,
    ),
    MAGE,
    TokenizerForm(
        name="taming-vqgan",
        network=VQGAN,
        limits=lambda config: _plain_vqgan(config) | {"decoder_widths": ()},
        files=_taming_files,
    ),
    TokenizerForm(
        name="llamagen-vq",
        network=VQGAN,
        limits=lambda config: (
            _plain_vqgan(config) | {"l2_normalised": True, "attention": (len(config.widths) - 1,)}
        ),
        more=lambda config, tokenizer: {"quantize.codebook_used": torch.zeros(USED)},
        files=lambda config, state: {"vq_ds16_c2i.pt": {"model": state}},
        untold=("stem", "widths", "blocks", "codes", "code_dim"),
    ),
    TokenizerForm(
        name="amused-vq",
        network=VQGAN,
        limits=lambda config: {
            "stem": config.widths[0],
            "decoder_widths": (),
            "attention": (),
            "middle_attention": False,
            "l2_normalised": False,
        },
        files=_amused_files,
        untold=("pixels",),
    ),
    TokenizerForm(
        name="kl16",
        network=KLVAE,
        limits=_kl_limits,
        files=lambda config, state: {"kl16.ckpt": {"model": state}},
        untold=("channels", "widths", "scale"),
    ),
    Form(name="dc-ae", network=DCAE, files=_dc_ae_files, untold=("scale",)),
)
