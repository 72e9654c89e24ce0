"""How good generated images are: scores on real image features, beside their floors."""

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
