"""A published checkpoint as a system of this library."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Unpack

from unmask.checkpoints.store import load_state
from unmask.checkpoints.write_tensors import halved
from unmask.image_size import ImageSize, checked_size, height_width
from unmask.memory import skeleton
from unmask.networks.network import Network
from unmask.networks.sizes import patch_of, token_grid
from unmask.pipeline import Pipeline
from unmask.projects.foreign import PROJECTS, Foreign, Kind, load_foreign
from unmask.projects.project import Stated
from unmask.recipes.maskgit_pytorch_run import with_settings
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.published import tokenizer_of

UNKNOWN = "unknown"  # the tokenizer of a network of other tokens than its source's presets


def convert(
    source: Path,
    kind: Kind | None = None,
    *,
    tokenizer: str | Path | None = None,
    half: bool = False,
    **stated: Unpack[Stated],
) -> tuple[Pipeline, dict[str, str]]:
    """Read a checkpoint of another project; nothing is written.

    Args:
        source: see :func:`unmask.projects.foreign.load_foreign`.
        kind: what it must be; None recognises it.
        tokenizer: folder, run, shipped or published name, or downloaded file of the tokenizer to
            put in; None takes the one in the same file (MAGE), else leaves the system without
            pixels.
        half: weights in float16, with which the system can be saved and not run.
        stated: what the files do not tell; see :func:`unmask.projects.foreign.load_foreign`.

    Returns:
        The system, and what was read.

    Raises:
        InputError: for a checkpoint that cannot be read, or a tokenizer of other codes.
    """
    decoder = None if tokenizer is None else load_tokenizer(tokenizer)
    found = load_foreign(source, kind, half=half, **stated)
    if decoder is not None:
        decoder = decoder.resized_for(found.network.space)
        if half:
            for name, tensor in decoder.state_dict(keep_vars=True).items():
                tensor.data = halved(name, tensor.data)
    recipe = matching_recipe(found)
    if found.details["kind"] == "maskgit-pytorch":
        recipe = with_settings(recipe, found.config, found.details.get("config", str(source)))
    if decoder is None and found.tokenizer:
        decoder = tokenizer_of(found.tokenizer, {}, found.details["file"], half=half)
    if decoder is not None:
        recipe = replace(
            recipe,
            tokenizer=str(tokenizer or recipe.tokenizer),
            image_size=_image_size(found.network, decoder.stride),
        )
    with skeleton():
        model = found.network.build()
    load_state(model, found.state, found.details["file"])
    return Pipeline(recipe, model.requires_grad_(False), decoder), found.details


def matching_recipe(found: Foreign) -> Recipe:
    """The published recipe of an equal network, else its source's with the network found.

    Dropout is no part of the comparison: it only matters for further training. The plan keeps the
    source's rules, with no more steps than tokens and, without a null class, no guidance.
    """
    presets = PROJECTS[found.details["kind"]].recipes
    network = found.network
    for preset in presets:
        if _without_dropout(preset.network) == _without_dropout(network):
            return replace(preset, network=network)
    feedback = network.feedback
    base = min(
        presets,
        key=lambda preset: (
            preset.network.space != network.space,
            (preset.network.feedback is None) != (feedback is None),
            (preset.network.classes > 0) != (network.classes > 0),
            preset.network.length != network.length,
        ),
    )
    dropout = base.training.label_dropout or 0.1
    possible = feedback if base.plan.guidance.weak == "self" else network.has_null_class
    scale = base.plan.guidance.scale if possible else 1.0
    return replace(
        base,
        name=f"{found.details['kind']}-converted",
        summary=f"converted from {Path(found.details['file']).name}, {network.length} tokens",
        tokenizer=base.tokenizer if base.network.space == network.space else UNKNOWN,
        image_size=_image_size(network, _stride(base, network)),
        network=network,
        training=replace(base.training, label_dropout=dropout if network.has_null_class else 0.0),
        plan=replace(
            base.plan,
            steps=min(base.plan.steps, network.length),
            guidance=replace(base.plan.guidance, scale=scale),
        ),
        plans=(),
        results=(),
    )


def _without_dropout(network: Network) -> Network:
    none: dict[str, Any] = {f.name: 0.0 for f in fields(network) if "dropout" in f.name}
    return replace(network, **none)


def _image_size(network: Network, stride: int) -> ImageSize:
    """Pixels of the images at so many pixels a token."""
    rows, columns = token_grid(network.length, network.grid)
    return checked_size((rows * stride, columns * stride))


def _stride(preset: Recipe, network: Network) -> int:
    """Pixels a token, as the preset has them; of a network of several latents a token, more."""
    rows, _ = token_grid(preset.network.length, preset.network.grid)
    (kind, wanted), (_, count) = network.space, preset.network.space
    patch = patch_of(wanted, count) if kind == "channels" else None
    return height_width(preset.image_size)[0] // rows * (patch or 1)
