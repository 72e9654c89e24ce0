"""MAR (LTH14) and eMIGM (ML-GSAI), whose files have the same keys: name table and sizes.

``checkpoint-last.pth`` and ``eMIGM_*_checkpoint.pth`` hold weights under "model" and averaged ones
under "model_ema".
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unmask.checkpoints.names import Table, rename, rename_layer
from unmask.errors import InputError
from unmask.networks.latent import LatentNetwork
from unmask.networks.sizes import stated_grid
from unmask.tokenizers.names import count_of, shape_of

DROPBOX = "https://www.dropbox.com/scl/fi/{}/checkpoint-last.pth?rlkey={}&dl=0"
MAR_PLACES = {
    "MAR-B": ("f6dpuyjb7fudzxcyhvrhk", "a6i4bo71vhfo4anp33n9ukujb"),
    "MAR-L": ("pxacc5b2mrt3ifw4cah6k", "m48ovo6g7ivcbosrbdaz0ehqt"),
    "MAR-H": ("1qmfx6fpy3k7j9vcjjs3s", "4lae281yzxb406atp32vzc83o"),
}
EMIGM_SIZES = ("xsmall", "small", "base", "large", "huge")
PUBLISHED = {
    "checkpoint-last.pth": ", ".join(
        f"{name} {DROPBOX.format(*place)}" for name, place in MAR_PLACES.items()
    )
} | {
    f"eMIGM_{size}_{side}_checkpoint.pth": "https://huggingface.co/GSAI-ML/eMIGM"
    for side, sizes in ((256, EMIGM_SIZES), (512, EMIGM_SIZES[:-1]))
    for size in sizes
}

HEAD = "diffloss.net"
HEAD_BLOCK, OWN_HEAD_BLOCK = f"{HEAD}.res_blocks.{{i}}", "head.blocks.{i}"

HEAD_TABLE: Table = (
    *rename_layer(f"{HEAD}.time_embed.mlp.0", "head.time.0"),
    *rename_layer(f"{HEAD}.time_embed.mlp.2", "head.time.2"),
    *rename_layer(f"{HEAD}.cond_embed", "head.condition"),
    *rename_layer(f"{HEAD}.input_proj", "head.input"),
    *rename_layer(f"{HEAD_BLOCK}.adaLN_modulation.1", f"{OWN_HEAD_BLOCK}.modulation"),
    *rename_layer(f"{HEAD_BLOCK}.in_ln", f"{OWN_HEAD_BLOCK}.norm"),
    *rename_layer(f"{HEAD_BLOCK}.mlp.0", f"{OWN_HEAD_BLOCK}.first"),
    *rename_layer(f"{HEAD_BLOCK}.mlp.2", f"{OWN_HEAD_BLOCK}.second"),
    *rename_layer(f"{HEAD}.final_layer.adaLN_modulation.1", "head.modulation"),
    *rename_layer(f"{HEAD}.final_layer.linear", "head.out"),
)

BLOCK_LAYERS = {
    "norm1": "attention_norm",
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "norm2": "feed_forward_norm",
    "mlp.fc1": "feed_forward.expand",
    "mlp.fc2": "feed_forward.contract",
}

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
    *(
        rule
        for half in ("encoder", "decoder")
        for source, own in BLOCK_LAYERS.items()
        for rule in rename_layer(f"{half}_blocks.{{i}}.{source}", f"trunk.{half}.{{i}}.{own}")
    ),
    *HEAD_TABLE,
)

HEADS = {448: 8, 512: 8, 768: 12, 1024: 16, 1280: 16}  # of the published widths


def network_of(
    own: Mapping[str, Tensor],
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


def is_tied(own: Mapping[str, Tensor]) -> bool:
    """Whether the mask token is the null class's vector, which its shape tells (eMIGM)."""
    return own["trunk.mask_token"].ndim == 2


def settle_tie(own: dict[str, Tensor]) -> dict[str, Tensor]:
    """One value for a tied vector.

    Averaged weights of eMIGM are averaged by parameter name, and the tied vector has the name of
    the null class: under that of the mask token lies the raw one. Loading takes it last, for both.
    """
    return own | {"embed.null": own["trunk.mask_token"]} if is_tied(own) else own
