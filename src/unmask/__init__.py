"""unmask: masked image generation in one PyTorch library."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "Pipeline": "unmask.pipeline",
    "load": "unmask.pipeline",
    "generate": "unmask.generation",
    "recipes": "unmask.recipes",
}
__all__ = ["Pipeline", "__version__", "generate", "load", "recipes"]


def __getattr__(name: str) -> Any:  # keeps `import unmask` and `unmask --help` free of torch
    if name not in _LAZY:
        raise AttributeError(f"module 'unmask' has no attribute {name!r}")
    import importlib

    module = importlib.import_module(_LAZY[name])
    return module if name == "recipes" else getattr(module, name)
