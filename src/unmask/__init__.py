"""unmask: masked image generation in one PyTorch library."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.lazy import lent

if TYPE_CHECKING:
    from unmask.generation import generate
    from unmask.pipeline import Pipeline, load

__version__ = "0.1.0"

HOMES = {"Pipeline": "unmask.pipeline", "generate": "unmask.generation", "load": "unmask.pipeline"}
__all__ = ["Pipeline", "__version__", "generate", "load", "recipes"]
_lend = lent(__name__, HOMES)  # keeps `import unmask` and `unmask --help` free of torch


def __getattr__(name: str) -> object:
    if name == "recipes":
        import unmask.recipes

        return unmask.recipes
    return _lend(name)
