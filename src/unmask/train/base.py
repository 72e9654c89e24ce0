"""The weights that a training starts from; of other classes than the data's, all but their rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unmask.checkpoints.store import load_state
from unmask.errors import InputError
from unmask.machine.processes import say_once
from unmask.networks.network import Network
from unmask.networks.sizes import token_grid
from unmask.nn.model import MaskedModel
from unmask.pipeline import Pipeline
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.tokenizer import weights_identity

UNTOLD = {"heads": "heads a block", "decoder_heads": "decoder heads a block", "gelu": "as GELU"}
"""What of a network no weight's shape tells, and what it is."""
ADAPTER = "feedback."  # how names of the adapter's weights begin
CLASSES = "embed.classes.weight"  # which some models without classes lack
TABLES = (
    CLASSES,
    *("embed.tokens.weight", "head.out.weight", "head.out.bias", "feedback.anchor.classes.weight"),
)
"""What may hold a row for each class."""


def load_base(model: MaskedModel, recipe: Recipe, tokenizer: str) -> str:
    """Fill a network with the weights of ``recipe.base``.

    An adapter that only the new network has keeps its initial weights. So do the rows of the
    classes where the networks know different numbers of them: codes, mask and null class stay the
    base's, also where they share a table with the classes. With ``training.base_rate``, what is
    wholly the base's gets it as ``lr_scale``, see :func:`unmask.train.optim.parameter_groups`.

    Args:
        model: built from the recipe, with its initial weights.
        recipe: with a base.
        tokenizer: identity of the tokenizer that encoded the data.

    Returns:
        Sixteen hexadecimal digits that stand for the base's weights.

    Raises:
        InputError: nothing is saved there, its sizes or heads are others, or so is its tokenizer.
    """
    assert recipe.base is not None, "there is no base"
    base = Pipeline.from_pretrained(recipe.base)
    _check_sizes(recipe, base.recipe.network, model.grid)
    if base.has_tokenizer and base.tokenizer.identity != tokenizer:
        raise InputError(
            f"the base {recipe.base} was trained with another tokenizer than "
            f"{recipe.tokenizer!r}; give --tokenizer {Path(recipe.base) / 'tokenizer'}"
        )
    own, state = model.state_dict(), base.model.state_dict()
    identity = weights_identity("", sorted(state.items()))
    new = {n: t for n, t in own.items() if n.startswith(ADAPTER) and n not in state}
    if _others(recipe, base.recipe):
        tables = _class_tables(own, state, classes=(model.classes, base.model.classes))
        say_once(
            f"{recipe.base} knows {base.model.classes} classes and this network {model.classes}: "
            f"their rows of {', '.join(tables) or CLASSES} begin anew, everything else is the "
            "base's"
        )
        new |= tables
        state = {name: tensor for name, tensor in state.items() if name in own or name != CLASSES}
    load_state(model, state | new, f"the weights of the base {recipe.base}")
    if (rate := recipe.training.base_rate) is not None:
        for name, parameter in model.named_parameters():
            if name not in new:
                setattr(parameter, "lr_scale", rate)  # noqa: B010  # torch declares none
    return identity


def _others(recipe: Recipe, base: Recipe) -> bool:
    """Whether the network knows other classes than its base and is trained on them."""
    alike = recipe.network.space == base.network.space and recipe.substitution is None
    return alike and recipe.network.classes != base.network.classes


def _check_sizes(recipe: Recipe, theirs: Network, grid: tuple[int, int]) -> None:
    """Refuse a base that no shape of a weight would tell from a fitting one."""
    ours = recipe.network
    for name, what in UNTOLD.items():
        here, there = getattr(ours, name, None), getattr(theirs, name, None)
        if None not in (here, there) and here != there:
            raise InputError(
                f"the base {recipe.base} has {there} {what} and network.{name}={here}; give "
                f"--network.{name.replace('_', '-')} {there}"
            )
    rows, columns = token_grid(theirs.length, theirs.grid)
    if ours.length == theirs.length and grid != (rows, columns):  # nor of this
        raise InputError(
            f"the base {recipe.base} has {rows}x{columns} tokens and this network "
            f"{grid[0]}x{grid[1]}; give --network.grid {rows} {columns}"
        )


def _class_tables(
    own: Mapping[str, Tensor], base: Mapping[str, Tensor], *, classes: tuple[int, int]
) -> dict[str, Tensor]:
    """The tables of a network whose number of rows follows its classes, as it starts from a base.

    The classes come last, before one row for the mask or the null class where there are others.

    Args:
        own: its initial weights.
        base: those of the base.
        classes: how many it knows, and how many the base.
    """
    tables: dict[str, Tensor] = {}
    for name in TABLES:
        if name not in own or name not in base:
            tables |= {name: own[name]} if name in own and name == CLASSES else {}
        elif len(own[name]) - len(base[name]) == classes[0] - classes[1]:
            others = len(own[name]) - classes[0]
            start, end = max(others - 1, 0), min(others, 1)
            rows = own[name][start : start + classes[0]]
            parts = [base[name][:start], rows, base[name][len(base[name]) - end :]]
            tables[name] = torch.cat(parts)
    return tables
