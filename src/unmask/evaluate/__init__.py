"""How good generated images are: scores on real image features, beside their floors.

:func:`evaluate` scores images of any kind; everything chosen about it is in
:class:`EvaluationOptions`, and what it found is a :class:`Report`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.lazy import lent

if TYPE_CHECKING:
    from unmask.evaluate.evaluation import evaluate
    from unmask.evaluate.features import EfficientNetLite0
    from unmask.evaluate.generated import Generated
    from unmask.evaluate.options import EvaluationOptions
    from unmask.evaluate.real_images import RealImages
    from unmask.evaluate.reference import Reference
    from unmask.evaluate.report import Report

HOMES = {
    "EfficientNetLite0": "unmask.evaluate.features",
    "EvaluationOptions": "unmask.evaluate.options",
    "Generated": "unmask.evaluate.generated",
    "RealImages": "unmask.evaluate.real_images",
    "Reference": "unmask.evaluate.reference",
    "Report": "unmask.evaluate.report",
    "evaluate": "unmask.evaluate.evaluation",
}
__all__ = [
    "EfficientNetLite0",
    "EvaluationOptions",
    "Generated",
    "RealImages",
    "Reference",
    "Report",
    "evaluate",
]
__getattr__ = lent(__name__, HOMES)
