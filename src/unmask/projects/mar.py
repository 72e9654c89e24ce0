"""MAR (LTH14) and eMIGM (ML-GSAI), whose files have the same keys: name table and sizes.

``checkpoint-last.pth`` and ``eMIGM_*_checkpoint.pth`` hold weights under "model" and averaged ones
under "model_ema".
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import (
    Table,
    count_of,
    rename,
    rename_layer,
    rename_layers,
    shape_of,
)
from unmask.errors import InputError
from unmask.networks.latent import LatentNetwork
from unmask.networks.sizes import stated_grid
from unmask.projects.project import Checkpoint, Project, Tensors, square, timm_blocks
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

HEAD = "diffloss.net"
OWN_HEAD_BLOCK = "head.blocks.{i}"

HEAD_TABLE: Table = (
    *rename_layers(
        HEAD,
        "head",
        {
            "time_embed.mlp.0": "time.0",
            "time_embed.mlp.2": "time.2",
            "cond_embed": "condition",
            "input_proj": "input",
            "final_layer.adaLN_modulation.1": "modulation",
            "final_layer.linear": "out",
        },
    ),
    *rename_layers(
        f"{HEAD}.res_blocks.{{i}}",
        OWN_HEAD_BLOCK,
        {
            "adaLN_modulation.1": "modulation",
            "in_ln": "norm",
            "mlp.0": "first",
            "mlp.2": "second",
        },
    ),
)

TABLE: Table = (
    rename("fake_latent", "embed.null"),
    rename("encoder_pos_embed_learned", "embed.positions"),
    rename("mask_token", "trunk.mask_token"),
    rename("decoder_pos_embed_learned", "trunk.positions"),
    rename("diffusion_pos_embed_learned", "trunk.tail"),
    rename("class_emb.weight", "embed.classes.weight"),
    *rename_layer("z_proj", "embed.project"),
    *rename_layer("z_proj_ln", "embed.norm"),
    *rename_layer("encoder_norm", "trunk.encoder_norm"),
    *rename_layer("decoder_embed", "trunk.join"),
    *rename_layer("decoder_norm", "trunk.decoder_norm"),
    *timm_blocks("encoder_blocks", "trunk.encoder"),
    *timm_blocks("decoder_blocks", "trunk.decoder"),
    *HEAD_TABLE,
)

HEADS = {448: 8, 512: 8, 768: 12, 1024: 16, 1280: 16}  # of the published widths


def network_of(
    own: Tensors,
    *,
    heads: tuple[int, int] | None = None,
    drops: bool = True,
    dropout: float = 0.1,
    grid: tuple[int, int] | None = None,
    origin: str,
) -> LatentNetwork:
    """The network of a state dict.

    Args:
        own: by our names.
        heads: of encoder and decoder; None takes those of the published model of that width.
        drops: whether the encoder sees known tokens only, as in every published model.
        dropout: for further training; both projects trained with 0.1.
        grid: (h, w) tokens, which no shape tells; None means square.
        origin: file, named in errors.

    Raises:
        InputError: when parts are missing, no published model has that width, or the tokens do
            not fill the grid.
    """
    width = shape_of(own, "trunk.encoder_norm.weight", origin)[0]
    decoder_width = shape_of(own, "trunk.decoder_norm.weight", origin)[0]
    if heads is None:
        if not {width, decoder_width} <= HEADS.keys():
            known = ", ".join(map(str, HEADS))
            raise InputError(
                f"{origin}: shapes do not tell the attention heads, and its width {width} is "
                f"none of the published ones ({known}); give the number of heads"
            )
        heads = (HEADS[width], HEADS[decoder_width])
    length = shape_of(own, "trunk.tail", origin)[1]
    hidden = shape_of(own, "trunk.encoder.0.feed_forward.expand.weight", origin)[0]
    return LatentNetwork(
        channels=shape_of(own, "embed.project.weight", origin)[1],
        width=width,
        depth=count_of(own, "trunk.encoder.{i}.attention.qkv.weight"),
        heads=heads[0],
        decoder_width=decoder_width,
        decoder_depth=count_of(own, "trunk.decoder.{i}.attention.qkv.weight"),
        decoder_heads=heads[1],
        length=length,
        head_width=shape_of(own, "head.condition.weight", origin)[0],
        head_depth=count_of(own, f"{OWN_HEAD_BLOCK}.modulation.weight"),
        classes=shape_of(own, "embed.classes.weight", origin)[0],
        buffer=shape_of(own, "trunk.positions", origin)[1] - length,
        mlp_ratio=hidden / width,
        dropout=dropout,
        drops=drops,
        tied=is_tied(own),
        grid=stated_grid(length, grid, origin),
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


def _sizes(found: Checkpoint) -> LatentNetwork:
    heads = None if found.heads is None else (found.heads, found.heads)
    return network_of(found.own, heads=heads, grid=found.grid, origin=found.origin)


def _files(network: LatentNetwork, state: dict[str, Tensor]) -> dict[str, Any]:
    """The entries of the published files, which have no optimiser either."""
    return {"checkpoint-last.pth": {"model": state, "model_ema": state}}


def _limits(network: LatentNetwork) -> dict[str, Any]:
    return square(network) | {"classes": max(1, network.classes)}


EMIGM = Project(
    name="emigm",
    network=LatentNetwork,
    rules=TABLE,
    mark="diffusion_pos_embed_learned",
    sizes=_sizes,
    settled=settle_tie,
    published=EMIGM_FILES,
    recipes=emigm.PUBLISHED,
    limits=_limits,
    files=_files,
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
