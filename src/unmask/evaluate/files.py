"""Evaluate image sets on disk: what ``unmask eval`` does with paths."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from unmask.errors import InputError
from unmask.evaluate.classifier import (
    ClassifierTraining,
    TrainedClassifier,
    load_classifier,
    load_fashion_classifier,
    tested,
    train_classifier,
)
from unmask.evaluate.evaluation import EvaluationOptions, evaluate
from unmask.evaluate.features import EfficientNetLite0
from unmask.evaluate.image_sets import gather, open_image_set
from unmask.evaluate.report import Report


@dataclass(frozen=True, kw_only=True)
class FileEvaluation:
    """Which sets to compare; each is a folder of PNG files or an .npz file."""

    generated: Path
    """Samples; class_<k> folders or arr_1 give their labels."""
    reference: Path
    """Real images that every row is compared with."""
    reconstructed: Path | None = None
    """Real images through the tokenizer and back: the reconstruction floor."""
    real: Path | None = None
    """Other real images than the reference: the real floor."""
    classifier: str | None = None
    """"fashion" for the shipped Fashion-MNIST classifier, or a file that TrainedClassifier.save
    wrote; judges the class of every labelled image."""
    train: Path | None = None
    """Labelled real images to train a classifier on instead, outside the reference; its accuracy
    is stated on the labelled reference."""
    training: ClassifierTraining = field(default_factory=ClassifierTraining)
    """How that classifier is trained."""
    resize: int = 128
    """Pixels that the extractor sees; 224 is the network's own size, about five times slower."""
    batch_size: int = 64
    """Images read and scored at a time."""
    device: str = "cpu"
    """Where the networks compute."""
    options: EvaluationOptions = field(default_factory=EvaluationOptions)
    """The same for all rows."""

    def __post_init__(self) -> None:
        """Reject what contradicts itself."""
        if self.batch_size < 1:
            raise InputError(f"batch_size={self.batch_size} must be at least 1")
        if self.classifier is not None and self.train is not None:
            raise InputError(
                f"classifier={self.classifier!r} and train={self.train} both name a judge; give one"
            )


def evaluate_files(request: FileEvaluation) -> Report:
    """Score sets on disk; files that could not be read are counted and named in the notes.

    Raises:
        InputError: for paths, labels or sizes that do not fit; paths before any work.
    """
    paths = {
        "generated": request.generated,
        "reference": request.reference,
        "reconstructed": request.reconstructed,
        "real": request.real,
    }
    sets = {
        name: open_image_set(path, batch_size=request.batch_size)
        for name, path in paths.items()
        if path is not None
    }
    judge = _judge(request)
    report = evaluate(
        sets["generated"],
        sets["reference"],
        extractor=EfficientNetLite0(resize=request.resize, device=request.device),
        reconstructed=sets.get("reconstructed"),
        real=sets.get("real"),
        classifier=judge,
        options=request.options,
    )
    return report.noted(*(_skipped(name, images.skipped) for name, images in sets.items()))


def _judge(request: FileEvaluation) -> TrainedClassifier | None:
    if request.train is not None:
        return _trained_judge(request, request.train)
    if request.classifier is None:
        return None
    if request.classifier == "fashion":
        return load_fashion_classifier()
    return load_classifier(request.classifier)


def _trained_judge(request: FileEvaluation, path: Path) -> TrainedClassifier:
    """A classifier trained on ``path``, tested on the reference."""
    train = gather(open_image_set(path))
    test = gather(open_image_set(request.reference))
    for place, batch in ((path, train), (request.reference, test)):
        if batch.labels is None:
            raise InputError(
                f"{place} has no labels, which a classifier needs; sort its files into class_<k> "
                "folders or give an .npz with arr_1"
            )
    assert train.labels is not None, "checked above"
    assert test.labels is not None, "checked above"
    judge = train_classifier(
        train.images,
        train.labels,
        classes=int(train.labels.max()) + 1,
        options=request.training,
        name=f"classifier trained on {path.name}",
        device=request.device,
    )
    return tested(judge, test.images, test.labels)


def _skipped(name: str, files: list[str]) -> str:
    """A note on unreadable files, empty for none."""
    shown = "; ".join(files[:3]) + ("; ..." if len(files) > 3 else "")
    return f"{name}: {len(files)} unreadable files left out: {shown}" if files else ""
