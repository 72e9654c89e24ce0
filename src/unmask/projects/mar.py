"""MAR (LTH14) and eMIGM (ML-GSAI), whose files have the same keys: name table and sizes.

``checkpoint-last.pth`` and ``eMIGM_*_checkpoint.pth`` hold weights under "model" and averaged ones
under "model_ema".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import Table, renames
from unmask.errors import InputError
from unmask.networks.latent import LatentNetwork
from unmask.projects.project import TIMM_LAYERS, Checkpoint, Project, Tensors, square
from unmask.recipes import emigm, mar

DROPBOX = "https://www.dropbox.com/scl/fi/{}/checkpoint-last.pth?rlkey={}&dl=0"
MAR_PLACES = {
    "MAR-B": ("f6dpuyjb7fudzxcyhvrhk", "a6i4bo71vhfo4anp33n9ukujb"),
    "MAR-L": ("pxacc5b2mrt3ifw4cah6k", "m48ovo6g7ivcbosrbdaz0ehqt"),
    "MAR-H": ("1qmfx6fpy3k7j9vcjjs3s", "4lae281yzxb406atp32vzc83o"),
}
EMIGM_SIZES = ("xsmall", "small", "base", "large", "huge")
MAR_FILES = {
    "checkpoint-last.pth": ", ".join(
        f"{name} {DROPBOX.format(*place)}" for name, place in MAR_PLACES.items()
    )
}
EMIGM_FILES = {
    f"eMIGM_{size}_{side}_checkpoint.pth": "https://huggingface.co/GSAI-ML/eMIGM"
    for side, sizes in ((256, EMIGM_SIZES), (512, EMIGM_SIZES[:-1]))
    for size in sizes
}


HEAD_TABLE: Table = renames(
    {
        "time_embed.mlp.0.{part}": "time.0.{part}",
        "time_embed.mlp.2.{part}": "time.2.{part}",
        "cond_embed.{part}": "condition.{part}",
        "input_proj.{part}": "input.{part}",
        "res_blocks.{i}.adaLN_modulation.1.{part}": "blocks.{i}.modulation.{part}",
        "res_blocks.{i}.in_ln.{part}": "blocks.{i}.norm.{part}",
        "res_blocks.{i}.mlp.0.{part}": "blocks.{i}.first.{part}",
        "res_blocks.{i}.mlp.2.{part}": "blocks.{i}.second.{part}",
        "final_layer.adaLN_modulation.1.{part}": "modulation.{part}",
        "final_layer.linear.{part}": "out.{part}",
    },
    "diffloss.net.",
    "head.",
)

TABLE: Table = (
    *renames(
        {
            "fake_latent": "embed.null",
            "encoder_pos_embed_learned": "embed.positions",
            "mask_token": "trunk.mask_token",
            "decoder_pos_embed_learned": "trunk.positions",
            "diffusion_pos_embed_learned": "trunk.tail",
            "class_emb.weight": "embed.classes.weight",
            "z_proj.{part}": "embed.project.{part}",
            "z_proj_ln.{part}": "embed.norm.{part}",
            "encoder_norm.{part}": "trunk.encoder_norm.{part}",
            "decoder_embed.{part}": "trunk.join.{part}",
            "decoder_norm.{part}": "trunk.decoder_norm.{part}",
        }
    ),
    *renames(TIMM_LAYERS, "encoder_blocks.{i}.", "trunk.encoder.{i}."),
    *renames(TIMM_LAYERS, "decoder_blocks.{i}.", "trunk.decoder.{i}."),
    *HEAD_TABLE,
)

HEADS = {448: 8, 512: 8, 768: 12, 1024: 16, 1280: 16}  # of the published widths


def network_of(found: Checkpoint) -> LatentNetwork:
    """The network of a checkpoint, with the heads of the published model of its width.

    It drops known tokens like every published model, and trains on with the dropout of both.

    Raises:
        InputError: when parts are missing, no published model has that width and no number of
            heads is stated, or the tokens do not fill the grid.
    """
    (width,) = found.shape("trunk.encoder_norm.weight")
    (decoder_width,) = found.shape("trunk.decoder_norm.weight")
    if found.heads is None and not {width, decoder_width} <= HEADS.keys():
        raise InputError(
            f"{found.file}: shapes do not tell the attention heads, and its width {width} is none "
            f"of the published ones ({', '.join(map(str, HEADS))}); give the number of heads"
        )
    length = found.shape("trunk.tail")[1]
    return LatentNetwork(
        channels=found.shape("embed.project.weight")[1],
        width=width,
        depth=found.count("trunk.encoder.{i}.attention.qkv.weight"),
        heads=found.heads or HEADS[width],
        decoder_width=decoder_width,
        decoder_depth=found.count("trunk.decoder.{i}.attention.qkv.weight"),
        decoder_heads=found.decoder_heads or found.heads or HEADS[decoder_width],
        length=length,
        head_width=found.shape("head.condition.weight")[0],
        head_depth=found.count("head.blocks.{i}.modulation.weight"),
        classes=found.shape("embed.classes.weight")[0],
        buffer=found.shape("trunk.positions")[1] - length,
        mlp_ratio=found.shape("trunk.encoder.0.feed_forward.expand.weight")[0] / width,
        dropout=0.1,
        tied=is_tied(found.own),
        grid=found.grid_of(length),
    )


def is_tied(own: Tensors) -> bool:
    """Whether the mask token is the null class's vector, which its shape tells (eMIGM)."""
    return own["trunk.mask_token"].ndim == 2


def settle_tie(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """One value for a tied vector.

    Averaged weights of eMIGM are averaged by parameter name, and the tied vector has the name of
    the null class: under that of the mask token lies the raw one. Loading takes it last, for both.
    """
    return own | {"embed.null": own["trunk.mask_token"]} if is_tied(own) else own


def _limits(network: LatentNetwork) -> dict[str, Any]:
    return square(network) | {"classes": max(1, network.classes)}


EMIGM = Project(
    name="emigm",
    network=LatentNetwork,
    rules=TABLE,
    mark="diffusion_pos_embed_learned",
    sizes=network_of,
    settled=settle_tie,
    published=EMIGM_FILES,
    recipes=emigm.PUBLISHED,
    limits=_limits,
    # the entries of the published files, which have no optimiser either
    files=lambda network, state: {"checkpoint-last.pth": {"model": state, "model_ema": state}},
    untold=("heads", "decoder_heads", "drops", "tied", "dropout"),
)
MAR = replace(
    EMIGM,
    name="mar",
    fits=lambda state: "mask_token" not in state or state["mask_token"].ndim != 2,
    published=MAR_FILES,
    recipes=mar.PUBLISHED,
    limits=lambda network: _limits(network) | {"drops": True, "tied": False},
    untold=("heads", "decoder_heads", "dropout"),
)
