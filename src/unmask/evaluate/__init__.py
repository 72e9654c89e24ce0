"""How good generated images are: scores on real image features, beside their floors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmask.lazy import lent

if TYPE_CHECKING:
    from unmask.evaluate.classifier import (
        ClassifierTraining,
        TrainedClassifier,
        load_classifier,
        load_fashion_classifier,
        train_classifier,
    )
    from unmask.evaluate.evaluation import EvaluationOptions, evaluate
    from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor, Features
    from unmask.evaluate.image_sets import (
        ImageBatch,
        open_image_set,
        write_folder,
        write_npz,
    )
    from unmask.evaluate.report import Report, Row

HOMES = {
    "ClassifierTraining": "unmask.evaluate.classifier",
    "EfficientNetLite0": "unmask.evaluate.features",
    "EvaluationOptions": "unmask.evaluate.evaluation",
    "FeatureExtractor": "unmask.evaluate.features",
    "Features": "unmask.evaluate.features",
    "ImageBatch": "unmask.evaluate.image_sets",
    "Report": "unmask.evaluate.report",
    "Row": "unmask.evaluate.report",
    "TrainedClassifier": "unmask.evaluate.classifier",
    "evaluate": "unmask.evaluate.evaluation",
    "load_classifier": "unmask.evaluate.classifier",
    "load_fashion_classifier": "unmask.evaluate.classifier",
    "open_image_set": "unmask.evaluate.image_sets",
    "train_classifier": "unmask.evaluate.classifier",
    "write_folder": "unmask.evaluate.image_sets",
    "write_npz": "unmask.evaluate.image_sets",
}
__all__ = [
    "ClassifierTraining",
    "EfficientNetLite0",
    "EvaluationOptions",
    "FeatureExtractor",
    "Features",
    "ImageBatch",
    "Report",
    "Row",
    "TrainedClassifier",
    "evaluate",
    "load_classifier",
    "load_fashion_classifier",
    "open_image_set",
    "train_classifier",
    "write_folder",
    "write_npz",
]
__getattr__ = lent(__name__, HOMES)
