"""A published checkpoint as a system of this library."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from unmask.checkpoints.foreign import Foreign, Kind, load_foreign
from unmask.checkpoints.store import load_state
from unmask.nn.post_norm import PostNormNetwork
from unmask.nn.pre_norm import PreNormNetwork
from unmask.pipeline import Pipeline
from unmask.recipes import maskgit, self_guidance
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer

PRESETS: dict[str, tuple[Recipe, ...]] = {
    "maskgit-pytorch": (maskgit.PYTORCH_IMAGENET256, maskgit.PYTORCH_FFHQ256),
    "unlockmgm": (
        maskgit.UNLOCKMGM_IMAGENET256,
        maskgit.UNLOCKMGM_IMAGENET512,
        self_guidance.IMAGENET256,
        self_guidance.IMAGENET512,
    ),
    "maskgit-jax": (maskgit.JAX_IMAGENET256, maskgit.JAX_IMAGENET512),
}
UNKNOWN = "unknown"  # the tokenizer of a network whose codes no preset of its source has


def convert(
    source: Path,
    kind: Kind | None = None,
    *,
    heads: int | None = None,
    classes: int = 1000,
    tokenizer: str | Path | None = None,
) -> tuple[Pipeline, dict[str, str]]:
    """Read a checkpoint of another project; nothing is written.

    Args:
        source: see :func:`unmask.checkpoints.foreign.load_foreign`, as for the next three.
        kind: what it must be; None recognises it.
        heads: attention heads, where a maskgit-pytorch run has lost its config.
        classes: N of a flax file.
        tokenizer: folder, run, shipped or published name, or downloaded file of the tokenizer to
            put in; None leaves the system without pixels.

    Returns:
        The system, and what was read.

    Raises:
        InputError: for a checkpoint that cannot be read, or a tokenizer of other codes.
    """
    decoder = None if tokenizer is None else load_tokenizer(tokenizer)
    found = load_foreign(source, kind, heads=heads, classes=classes)
    recipe = matching_recipe(found)
    if decoder is not None:
        side = math.isqrt(found.network.length) * decoder.stride
        recipe = replace(recipe, tokenizer=str(tokenizer), image_size=side)
    with torch.device("meta"):
        model = found.network.build()
    load_state(model, found.state, found.details["file"])
    return Pipeline(recipe, model.requires_grad_(False), decoder), found.details


def matching_recipe(found: Foreign) -> Recipe:
    """The published recipe of an equal network, else its source's with the network found.

    Dropout is no part of the comparison: it only matters for further training. The plan keeps the
    source's rules, with no more steps than tokens and, without a null class, no guidance.
    """
    presets = PRESETS[found.details["kind"]]
    network = found.network
    for preset in presets:
        if _without_dropout(preset.network) == _without_dropout(network):
            return replace(preset, network=network)
    likely = [p for p in presets if p.network.codes == network.codes] or list(presets)
    base = min(
        likely,
        key=lambda preset: (
            (getattr(preset.network, "feedback", None) is None) != (network.feedback is None),
            (preset.network.classes > 0) != (network.classes > 0),
            preset.network.length != network.length,
        ),
    )
    known = base.network.codes == network.codes
    dropout = base.training.label_dropout or 0.1
    possible = network.feedback if base.plan.guidance.weak == "self" else network.has_null_class
    scale = base.plan.guidance.scale if possible else 1.0
    return replace(
        base,
        name=f"{found.details['kind']}-converted",
        summary=f"converted from {Path(found.details['file']).name}, {network.length} tokens",
        tokenizer=base.tokenizer if known else UNKNOWN,
        image_size=_image_size(base, network.length),
        network=network,
        training=replace(base.training, label_dropout=dropout if network.has_null_class else 0.0),
        plan=replace(
            base.plan,
            steps=min(base.plan.steps, network.length),
            guidance=replace(base.plan.guidance, scale=scale),
        ),
        results=(),
    )


def _without_dropout(
    network: PreNormNetwork | PostNormNetwork,
) -> PreNormNetwork | PostNormNetwork:
    if isinstance(network, PreNormNetwork):
        return replace(network, dropout=0.0)
    return replace(network, dropout=0.0, attention_dropout=0.0)


def _image_size(base: Recipe, length: int) -> int:
    """Pixels a side at the preset's pixels a token."""
    return base.image_size * math.isqrt(length) // math.isqrt(base.network.length)
