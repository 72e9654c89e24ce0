"""UnlockMGM (JiwanHur): the PyTorch port of MaskGIT's ImageNet models.

Folders with ``config.json`` and ``pytorch_model.bin``. A fine-tuned one also holds the weights of
its self-guidance adapter, and the network then has one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import (
    Rule,
    Table,
    rename,
    rename_layer,
    rename_layers,
    split_rows,
    stack_rows,
)
from unmask.errors import InputError, did_you_mean
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.networks.sizes import stated_grid
from unmask.nn.feedback import Feedback
from unmask.projects.project import Checkpoint, Project
from unmask.recipes import maskgit, self_guidance

PUBLISHED = {
    f"UnlockMGM_imagenet_{size}.zip": (
        "https://huggingface.co/HURJIWAN/UnlockMGM/resolve/main/"
        f"UnlockMGM_imagenet_{size}.zip (unpack it)"
    )
    for size in (256, 512)
}

LAYER = "transformer_layers.{i}"
OWN_BLOCK = "trunk.blocks.{i}"


def _qkv(part: str) -> Rule:
    source = tuple(f"{LAYER}.attention.{name}.{part}" for name in ("query", "key", "value"))
    return Rule(source, (f"{OWN_BLOCK}.attention.qkv.{part}",), stack_rows, split_rows)


TABLE: Table = (
    rename("embed.word_embeddings.weight", "embed.tokens.weight"),
    rename("embed.position_embeddings.weight", "embed.positions.weight"),
    *rename_layer("embed.embeddings_ln", "embed.norm"),
    _qkv("weight"),
    _qkv("bias"),
    *rename_layers(
        LAYER,
        OWN_BLOCK,
        {
            "attention.out": "attention.out",
            "attn_layer_norm": "attention_norm",
            "ffn.intermediate_output": "feed_forward.expand",
            "ffn.layer_output": "feed_forward.contract",
            "ffn.layer_norm": "feed_forward_norm",
        },
    ),
    *rename_layer("mlm_layer.mlm_dense", "head.dense"),
    *rename_layer("mlm_layer.mlm_ln", "head.norm"),
    *rename_layer("mlm_layer.to_logits", "head.out"),
    rename("top_down_transform", "feedback.top"),  # from here on the self-guidance adapter
    rename("cls_anchor_gen.mlp_p.weight", "feedback.anchor.shared.weight"),
    rename("cls_anchor_gen.mlp_c.weight", "feedback.anchor.classes.weight"),
    rename("cls_anchor_gen.mlp_f.weight", "feedback.anchor.mix.weight"),
    *rename_layer("cls_anchor_gen.layer_norm", "feedback.anchor.norm"),
    *rename_layer("cls_anchor_gen.mlp_t", "feedback.anchor.out"),
    rename("decoders.{i}.linear.weight", "feedback.levels.{i}.down.weight"),
    rename("decoders.{i}.linear2.weight", "feedback.levels.{i}.out.weight"),
)
ADAPTER_KEY = "top_down_transform"  # only weights with an adapter have it
ADAPTER_CODES = 1024  # written into the adapter's code

SIZES = {
    "codes": "codebook_size",
    "width": "hidden_size",
    "depth": "num_hidden_layers",
    "heads": "num_attention_heads",
    "feed_forward": "intermediate_size",
    "length": "num_vq_tokens",
    "classes": "num_classes",
}

# Other open-muse models set these otherwise; a config may also leave them out.
FIXED: dict[str, object] = {
    "use_normformer": False,
    "use_maskgit_mlp": True,
    "add_cross_attention": False,
    "project_encoder_hidden_states": False,
    "use_encoder_layernorm": False,
    "norm_type": "layernorm",
    "layer_norm_eps": 1e-12,
    "layer_norm_embeddings": True,
    "use_bias": True,
    "use_mlm_layer": True,
    "use_mlm_layernorm": True,
}


def network_of(
    config: Mapping[str, Any],
    *,
    keys: Container[str] = (),
    grid: tuple[int, int] | None = None,
    origin: str,
) -> MaskGITBertNetwork:
    """The network that a ``config.json`` describes.

    Args:
        config: its content.
        keys: of the weights beside it; they tell whether there is an adapter where the
            config does not.
        grid: (h, w) tokens, which no config tells; None means square.
        origin: file, named in errors.

    Raises:
        InputError: naming a key that is missing, or a flag of an architecture that is not
            MaskGIT's; or when the tokens do not fill the grid.
    """
    for flag, value in FIXED.items():
        if config.get(flag, value) != value:
            raise InputError(
                f"{origin}: {flag}={config[flag]!r} is another architecture than MaskGIT's, "
                f"which has {flag}={value!r}; only MaskGIT's is supported"
            )
    for key in SIZES.values():
        if not isinstance(config.get(key), int):
            raise InputError(f"{origin} has no whole number {key!r}; {did_you_mean(key, config)}")
    sizes = {name: config[key] for name, key in SIZES.items()}
    expected = {
        "vocab_size": sizes["codes"] + sizes["classes"] + 1,
        "max_position_embeddings": sizes["length"] + 1,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InputError(
                f"{origin}: {key}={config[key]} must be {value} to fit its other sizes"
            )
    adapter = config.get("use_toast") or ADAPTER_KEY in keys
    return MaskGITBertNetwork(
        **sizes,
        dropout=float(config.get("hidden_dropout", 0.1)),
        attention_dropout=float(config.get("attention_dropout", 0.1)),
        grid=stated_grid(sizes["length"], grid, origin),
        feedback=_feedback(config) if adapter else None,
    )


def _feedback(config: Mapping[str, Any]) -> Feedback:
    usual = Feedback()
    return Feedback(
        factor=config.get("tg_factor", usual.factor),
        blank=bool(config.get("use_blank_second", usual.blank)),
    )


def _sizes(found: Checkpoint) -> MaskGITBertNetwork:
    """The network that the configuration beside the weights describes."""
    folder = found.file.parent
    if not found.config:
        raise InputError(f"{folder} has no config.json; put UnlockMGM's beside it")
    origin = str(folder / "config.json")
    return network_of(found.config, keys=found.state, grid=found.grid, origin=origin)


def _limits(network: MaskGITBertNetwork) -> dict[str, Any]:
    """What its code fixes; its adapter counts the classes from row 1024 of the vocabulary."""
    fixed: dict[str, Any] = {"gelu": "erf", "drop_attention_output": False}
    return fixed if network.feedback is None else fixed | {"codes": ADAPTER_CODES}


def _files(network: MaskGITBertNetwork, state: dict[str, Tensor]) -> dict[str, Any]:
    """A folder as its ``save_pretrained`` writes it."""
    config = FIXED | {key: getattr(network, name) for name, key in SIZES.items()}
    rows = network.codes + network.classes + 1
    config |= {
        "_class_name": "MaskGitTransformer" + ("TOAST" if network.feedback else ""),
        "vocab_size": rows,
        "max_position_embeddings": network.length + 1,
        "mask_token_id": rows - 1,
        "hidden_dropout": network.dropout,
        "attention_dropout": network.attention_dropout,
    }
    if network.feedback:
        config["use_toast"] = True
        config["tg_factor"] = network.feedback.factor
        config["use_blank_second"] = network.feedback.blank
    return {"config.json": config, "pytorch_model.bin": state}


PROJECT = Project(
    name="unlockmgm",
    network=MaskGITBertNetwork,
    rules=TABLE,
    mark="embed.word_embeddings.weight",
    sizes=_sizes,
    published=PUBLISHED,
    recipes=(
        maskgit.UNLOCKMGM_IMAGENET256,
        maskgit.UNLOCKMGM_IMAGENET512,
        self_guidance.IMAGENET256,
        self_guidance.IMAGENET512,
    ),
    limits=_limits,
    files=_files,
    untold=("grid",),
)
