"""Every published system and small one as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.lazy import lent

if TYPE_CHECKING:
    from unmask.recipes.catalogue import RECIPES, get
    from unmask.recipes.recipe import Recipe
    from unmask.results import Result

HOMES = {
    "RECIPES": "unmask.recipes.catalogue",
    "Recipe": "unmask.recipes.recipe",
    "Result": "unmask.results",
    "get": "unmask.recipes.catalogue",
}
__all__ = ["RECIPES", "Recipe", "Result", "get"]
__getattr__ = lent(__name__, HOMES)
