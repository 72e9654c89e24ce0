"""Every recipe by name."""

from __future__ import annotations

from pathlib import Path

from unmask.errors import InputError, did_you_mean
from unmask.files.serial import read_yaml
from unmask.recipes import emigm, mage, mar, maskgit, self_guidance
from unmask.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for family in (maskgit, self_guidance, mage, mar, emigm)
    for recipe in family.RECIPES
}


def get(name: str | Path) -> Recipe:
    """The recipe of that name, or the one in that YAML file.

    Raises:
        InputError: for a name that is neither.
    """
    if str(name) in RECIPES:
        return RECIPES[str(name)]
    if str(name).endswith((".yaml", ".yml")):
        return read_yaml(Recipe, Path(name))
    raise InputError(f"unknown recipe {str(name)!r}; {did_you_mean(str(name), RECIPES)}")
