"""At which image size a tokenizer was trained, as far as anything tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unmask.checkpoints.locate import EXPORT
from unmask.files.damage import DAMAGE
from unmask.files.serial import load_yaml
from unmask.image_size import ImageSize, checked_size
from unmask.recipes import RECIPES
from unmask.recipes.tokenizers import TOKENIZER_RECIPES

RECIPE = "recipe.yaml"  # of a run


def trained_size(tokenizer: str) -> ImageSize | None:
    """The image size of a tokenizer's own run, of its recipe, or of all recipes that use it.

    Args:
        tokenizer: as :func:`unmask.tokenizers.folder.load_tokenizer` takes it.

    Returns:
        None where nothing tells, or recipes differ.
    """
    folder = Path(tokenizer)
    for run in (folder, folder.parent) if folder.name == EXPORT else (folder,):
        if (run / RECIPE).is_file():
            return _stated(run / RECIPE)
    if folder.exists():
        return None
    if tokenizer in TOKENIZER_RECIPES:
        return TOKENIZER_RECIPES[tokenizer].image_size
    sizes = {recipe.image_size for recipe in RECIPES.values() if recipe.tokenizer == tokenizer}
    return sizes.pop() if len(sizes) == 1 else None


def _stated(file: Path) -> ImageSize | None:
    try:
        content: Any = load_yaml(file)
        return checked_size(content["image_size"])
    except DAMAGE:  # also of what :func:`load_yaml` refuses
        return None  # its weights decide whether the tokenizer can be used
