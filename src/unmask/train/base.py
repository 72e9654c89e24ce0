"""The trained network that another training starts from."""

from __future__ import annotations

from pathlib import Path

from unmask.checkpoints.store import load_state
from unmask.errors import InputError
from unmask.model import MaskedModel
from unmask.pipeline import Pipeline
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.tokenizer import weights_identity

UNTOLD = {"heads": "heads a block", "decoder_heads": "decoder heads a block", "gelu": "as GELU"}
"""What of a network no weight's shape tells, and what it is."""
ADAPTER = "feedback."  # how names of the adapter's weights begin


def load_base(model: MaskedModel, recipe: Recipe, tokenizer: str) -> str:
    """Fill a network with the weights of ``recipe.base``.

    An adapter that only the new network has keeps its initial weights.

    Args:
        model: built from the recipe.
        recipe: with a base.
        tokenizer: identity of the tokenizer that encoded the data.

    Returns:
        Sixteen hexadecimal digits that stand for the base's weights.

    Raises:
        InputError: nothing is saved there, its sizes or heads are others, or so is its tokenizer.
    """
    assert recipe.base is not None, "there is no base"
    base = Pipeline.from_pretrained(recipe.base)
    ours, theirs = recipe.network, base.recipe.network
    for name, what in UNTOLD.items():
        here, there = getattr(ours, name, None), getattr(theirs, name, None)
        if None not in (here, there) and here != there:
            raise InputError(
                f"the base {recipe.base} has {there} {what} and network.{name}={here}; give "
                f"--network.{name.replace('_', '-')} {there}"
            )
    (rows, columns), grid = base.model.grid, model.grid
    if model.length == base.model.length and grid != (rows, columns):  # nor of this
        raise InputError(
            f"the base {recipe.base} has {rows}x{columns} tokens and this network "
            f"{grid[0]}x{grid[1]}; give --network.grid {rows} {columns}"
        )
    if base.has_tokenizer and base.tokenizer.identity != tokenizer:
        raise InputError(
            f"the base {recipe.base} was trained with another tokenizer than "
            f"{recipe.tokenizer!r}; give --tokenizer {Path(recipe.base) / 'tokenizer'}"
        )
    state = base.model.state_dict()
    new = {name: t for name, t in model.state_dict().items() if name.startswith(ADAPTER)}
    load_state(model, new | state, f"the weights of the base {recipe.base}")
    return weights_identity("", sorted(state.items()))
