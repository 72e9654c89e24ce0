"""Every recipe by name."""

from __future__ import annotations

from pathlib import Path

from unmask.errors import pick
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
    if str(name) not in RECIPES and str(name).endswith((".yaml", ".yml")):
        return read_yaml(Recipe, Path(name))
    return pick(RECIPES, str(name), "recipe")
