"""UnlockMGM (JiwanHur): the PyTorch port of MaskGIT's ImageNet models.

Folders with ``config.json`` and ``pytorch_model.bin``. A fine-tuned one also holds the weights of
its self-guidance adapter, and the network then has one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unmask.checkpoints.names import Rule, check_architecture, renames, split_rows, stack_rows
from unmask.errors import InputError, did_you_mean
from unmask.networks.maskgit import MaskGITBertNetwork
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

LAYER, OWN_BLOCK = "transformer_layers.{i}.", "trunk.blocks.{i}."
QUERY_KEY_VALUE = Rule(
    tuple(f"{LAYER}attention.{name}.{{part}}" for name in ("query", "key", "value")),
    (f"{OWN_BLOCK}attention.qkv.{{part}}",),
    stack_rows,
    split_rows,
)
LAYERS = {
    "attention.out.{part}": "attention.out.{part}",
    "attn_layer_norm.{part}": "attention_norm.{part}",
    "ffn.intermediate_output.{part}": "feed_forward.expand.{part}",
    "ffn.layer_output.{part}": "feed_forward.contract.{part}",
    "ffn.layer_norm.{part}": "feed_forward_norm.{part}",
}
ENDS = {
    "embed.word_embeddings.weight": "embed.tokens.weight",
    "embed.position_embeddings.weight": "embed.positions.weight",
    "embed.embeddings_ln.{part}": "embed.norm.{part}",
    "mlm_layer.mlm_dense.{part}": "head.dense.{part}",
    "mlm_layer.mlm_ln.{part}": "head.norm.{part}",
    "mlm_layer.to_logits.{part}": "head.out.{part}",
}
ADAPTER = {
    "top_down_transform": "feedback.top",
    "cls_anchor_gen.mlp_p.weight": "feedback.anchor.shared.weight",
    "cls_anchor_gen.mlp_c.weight": "feedback.anchor.classes.weight",
    "cls_anchor_gen.mlp_f.weight": "feedback.anchor.mix.weight",
    "cls_anchor_gen.layer_norm.{part}": "feedback.anchor.norm.{part}",
    "cls_anchor_gen.mlp_t.{part}": "feedback.anchor.out.{part}",
    "decoders.{i}.linear.weight": "feedback.levels.{i}.down.weight",
    "decoders.{i}.linear2.weight": "feedback.levels.{i}.out.weight",
}
TABLE = (QUERY_KEY_VALUE, *renames(LAYERS, LAYER, OWN_BLOCK), *renames(ENDS | ADAPTER))
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


def network_of(found: Checkpoint) -> MaskGITBertNetwork:
    """The network that the ``config.json`` beside the weights describes.

    Whether there is an adapter the weights tell where the configuration does not.

    Raises:
        InputError: naming a key that is missing, or a flag of an architecture that is not
            MaskGIT's; or when the tokens do not fill the grid.
    """
    config, origin = found.config, found.file.parent / "config.json"
    if not config:
        raise InputError(f"{origin} is missing; UnlockMGM's weights need the config.json beside it")
    check_architecture(config, FIXED, "MaskGIT", origin)
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
    adapter = config.get("use_toast") or ADAPTER_KEY in found.state
    return MaskGITBertNetwork(
        **sizes,
        dropout=float(config.get("hidden_dropout", 0.1)),
        attention_dropout=float(config.get("attention_dropout", 0.1)),
        grid=found.grid_of(sizes["length"], origin),
        feedback=_feedback(config) if adapter else None,
    )


def _feedback(config: Mapping[str, Any]) -> Feedback:
    usual = Feedback()
    return Feedback(
        factor=config.get("tg_factor", usual.factor),
        blank=bool(config.get("use_blank_second", usual.blank)),
    )


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
    sizes=network_of,
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
