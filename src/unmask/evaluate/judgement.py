"""Judging a system, or a set of its images, against real data with both floors."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal

import torch
from torch import Tensor

from unmask.data.reader import file_stamp
from unmask.data.walk import Walk
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.evaluate.chunks import Chunks, NumberedSet
from unmask.evaluate.classifier import (
    TrainedClassifier,
    load_fashion_classifier,
    train_classifier,
    with_test_accuracy,
)
from unmask.evaluate.evaluation import (
    EvaluationOptions,
    check_enough,
    compare,
    measured,
    of_shape,
)
from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor, load_features
from unmask.evaluate.image_sets import ImageBatch, ImageSet, gather, open_image_set
from unmask.evaluate.inception import SPATIAL_WIDTH, Inception, load_inception
from unmask.evaluate.real_images import BATCH, RealImages, real_batches, real_set, reconstructed
from unmask.evaluate.reference import Reference, open_reference
from unmask.evaluate.report import Report
from unmask.generation import check_request, generate
from unmask.machine.devices import resolve_device
from unmask.machine.processes import launched
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline
from unmask.ranges import Between, Length, Name, Ranged, Seed
from unmask.show import Bar
from unmask.tokenizers.folder import AnyTokenizer
from unmask.tokenizers.tokenizer import weights_identity

ROUNDING = "255 v + 0.5, cut off, of v in [0, 1]"


@dataclass(frozen=True, kw_only=True)
class Judgement(Ranged):
    """How much is judged, and by what."""

    count: Annotated[int, Between(2, 10**7)] = 2000
    """Images of every set; scores of other counts do not compare."""
    seed: Seed = 0
    """Image k is generated from seed + k."""
    repeats: Annotated[int, Between(1, 1000)] = 1
    """Generate this many sets, each from the seeds after the last one's, and report mean and
    standard deviation of every score."""
    resize: Annotated[int, Between(32, 2**11)] = 128
    """Pixels that EfficientNet sees; 224 is its own size and five times slower."""
    inception: Path | None = None
    """Weights of the 2015 Inception network (torch-fidelity's releases), for its features instead;
    always at 299 pixels."""
    features: Annotated[str | None, Length(1, 1000)] = None
    """Your own features instead: module:attribute, a callable of (B, 3, H, W) floats in [0, 1] that
    gives (B, F)."""
    reference: Path | None = None
    """What fd compares with instead of the held-out images: statistics of the same features (.npz,
    .pt), or images (.npz, a folder of pictures); FID needs it and 50,000 images."""
    classifier: Literal["none", "fashion", "train"] = "none"
    """Judge of conditional samples: the shipped Fashion-MNIST one, or one trained now on the real
    training split."""
    batch_size: Annotated[int, Between(1, 2**16)] = BATCH
    """Images a batch."""
    device: Name = "auto"
    """Device of the generator and of the feature network: cpu, cuda, mps; auto takes the machine's
    accelerator if it has one."""

    @property
    def place(self) -> torch.device:
        """The device that ``device`` names."""
        return resolve_device(self.device)

    @property
    def seeds(self) -> str:
        """First and last, for a report."""
        return f"{self.seed} to {self.seed + self.repeats * self.count - 1}"

    def __post_init__(self) -> None:
        """Reject two networks."""
        super().__post_init__()
        if self.features is not None and self.inception is not None:
            raise InputError("give one network: --features or --inception")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is judged."""

    sets: Sequence[NumberedSet]
    """One, or one a repeat."""
    shape: tuple[int, int, int]
    """Channels, height and width of the images."""
    identity: str
    """Stands for every byte of them."""
    tokenizer: AnyTokenizer | None = None
    """For the reconstruction floor, on the judgement's device."""
    seeds: str | None = None
    """Of the images, if known."""
    quantisation: str | None = None
    """How their pixels became bytes."""
    notes: tuple[str, ...] = ()
    """More lines for the report."""

    @classmethod
    def of_pipeline(cls, pipeline: Pipeline, judgement: Judgement, plan: Plan) -> Subject:
        """Images that a system will generate.

        Raises:
            InputError: a plan that does not fit the system.
        """
        check_request(pipeline.model, plan, [0] if pipeline.model.classes else None, [0])
        tokenizer, (rows, columns) = pipeline.tokenizer, pipeline.model.grid
        size = (rows * tokenizer.stride, columns * tokenizer.stride)
        weights = weights_identity(repr(pipeline.recipe), pipeline.model.state_dict().items())
        starts = [judgement.seed + k * judgement.count for k in range(judgement.repeats)]
        return cls(
            sets=[
                NumberedSet(
                    name=f"generated {start}",
                    between=partial(
                        generated_batches, pipeline, replace(judgement, seed=start), plan=plan
                    ),
                    positions=judgement.count,
                )
                for start in starts
            ],
            shape=(tokenizer.image_channels, *size),
            identity=f"weights {weights}, tokenizer {tokenizer.identity}, {plan}",
            tokenizer=tokenizer,
            seeds=judgement.seeds,
            quantisation=ROUNDING,
            notes=(f"plan: {plan}", f"model {pipeline.recipe.name}, weights {weights}"),
        )

    @classmethod
    def of_files(cls, path: Path, judgement: Judgement) -> Subject:
        """All images of a folder of pictures or an ``.npz`` file.

        Raises:
            InputError: when there are none, or repeats are asked for.
        """
        if judgement.repeats > 1:
            raise InputError(f"repeats={judgement.repeats} needs a model; {path} has no seeds")
        found = open_image_set(path, batch_size=judgement.batch_size)
        return cls(
            sets=[_numbered("generated", found)],
            shape=found.shape,
            identity=files_identity(path),
            quantisation="as they were",
            notes=(f"from {path}", *found.notes, *_order(found)),
        )


def in_class_order(labels: Tensor) -> bool:
    """Whether ``(N,)`` labels come in one run a class, some of them longer than one image."""
    classes = len(labels.unique())
    runs = 1 + int((labels.diff() != 0).sum())
    return 1 < classes == runs < len(labels)


def _order(found: ImageSet) -> list[str]:
    """A line if the images come class by class, which other evaluators' inception scores show."""
    if found.labels is None or not in_class_order(found.labels):
        return []
    return [
        f"{found.path} is sorted by class: evaluators that score consecutive images together, as "
        "ADM's does, print too low an inception score of it; the one here splits it by chance"
    ]


def files_identity(path: Path) -> str:
    """Stands for a file, or the pictures of a folder, by sizes and times, without reading them."""
    inside = sorted(Walk(path).pictures()) if path.is_dir() else [""]
    files = [path / name for name in inside]
    stamps = [(str(file), *file_stamp(file)) for file in files]
    return f"{path}, {len(files)} files, {weights_identity(str(stamps), ())}"


def _numbered(name: str, found: ImageSet, wanted: int | None = None) -> NumberedSet:
    return NumberedSet(
        name=name,
        between=found.between,
        positions=len(found),
        wanted=wanted,
        skipped=found.skipped,
    )


def generated_batches(
    pipeline: Pipeline,
    judgement: Judgement,
    start: int = 0,
    stop: int | None = None,
    *,
    plan: Plan | None = None,
) -> Iterator[ImageBatch]:
    """Samples ``[start, stop)`` of a judgement, the classes in turn, 8 bits a channel."""
    numbers = range(judgement.count)[start:stop]
    classes = pipeline.model.classes
    for batch in generate(
        pipeline,
        [number % classes for number in numbers] if classes else None,
        seeds=[judgement.seed + number for number in numbers],
        plan=plan,
        batch_size=judgement.batch_size,
    ):
        found = None if batch.class_labels is None else batch.class_labels.cpu()
        yield ImageBatch(to_uint8(batch.pixels).cpu(), found)


def choose_classifier(judgement: Judgement, real: RealImages | None) -> TrainedClassifier | None:
    """The judge of classes; one trained now states its accuracy on the held-out images.

    Raises:
        InputError: when there are no images with labels to train on.
    """
    if judgement.classifier == "none":
        return None
    if judgement.classifier == "fashion":
        return load_fashion_classifier()
    if real is None or not real.train.class_names:
        name = "nothing" if real is None else real.train.name
        raise InputError(f"{name} has no labels: a classifier cannot be trained on it")
    known, test = (
        gather(real_batches(side, real.still, count=len(side)))
        for side in (real.train, real.held_out)
    )
    assert known.labels is not None, "named classes mean labels"
    assert test.labels is not None, "named classes mean labels"
    judge = train_classifier(
        known.images,
        known.labels,
        classes=len(real.train.class_names),
        name=f"a classifier trained on {real.train.name}",
        device=judgement.place,
    )
    return with_test_accuracy(judge, test.images, test.labels)


def _extractor(judgement: Judgement, shape: tuple[int, int, int]) -> FeatureExtractor:
    if judgement.features is not None:
        return load_features(judgement.features, size=shape[1:], device=judgement.place)
    if judgement.inception is not None:
        return load_inception(judgement.inception, device=judgement.place)
    return EfficientNetLite0(resize=judgement.resize, device=judgement.place)


def _reference(
    judgement: Judgement, extractor: FeatureExtractor, shape: tuple[int, int, int]
) -> Reference:
    """What the judgement's file holds, if any, checked against the network and the images."""
    if judgement.reference is None:
        return Reference(None, None)
    found = open_reference(
        judgement.reference,
        width=extractor.width,
        spatial_width=SPATIAL_WIDTH if isinstance(extractor, Inception) else None,
        batch_size=judgement.batch_size,
    )
    if found.images is not None:
        deque(islice(of_shape(str(judgement.reference), found.images, shape), 1))
    return found


def _settings(
    subject: Subject,
    real: RealImages | None,
    judgement: Judgement,
    extractor: FeatureExtractor,
    classifier: TrainedClassifier | None,
) -> dict[str, str]:
    """Everything that decides a feature, for the folder of an evaluation."""
    reference = judgement.reference
    return {
        "images": subject.identity,
        "seeds": str(subject.seeds),
        "count": f"{judgement.count} x {judgement.repeats}",
        "batch size": str(judgement.batch_size),
        "network": extractor.identity,
        "classifier": "none" if classifier is None else classifier.describe(),
        "real images": "none" if real is None else real.identity,
        "reference": "none" if reference is None else files_identity(reference),
        "device": judgement.place.type,
        "torch": torch.__version__,
    }


def _bar(total: int) -> Bar:
    return Bar("measuring", total, shown=launched().is_main_process)


def judge(
    subject: Subject,
    real: RealImages | None = None,
    *,
    judgement: Judgement,
    work: Path | None = None,
) -> Report | None:
    """Score images against real ones, beside the floors.

    The real floor compares training images with the held-out ones; the reconstruction floor sends
    the held-out ones through the tokenizer.

    Args:
        subject: the images.
        real: what they are compared with, unless the judgement has a reference; then floors alone.
        judgement: counts and judges.
        work: folder for what is measured. An evaluation that is killed goes on from it, and the
            processes of a launcher share the work and meet in it.

    Returns:
        The report; None in all processes but the main one.

    Raises:
        InputError: sizes or channels that differ, too few images, weights, statistics or a folder
            that are missing or do not fit.
    """
    if judgement.reference is None and real is None:
        raise InputError("nothing to compare with; give real images (--data) or --reference")
    extractor = _extractor(judgement, subject.shape)
    given = _reference(judgement, extractor, subject.shape)
    sides = {} if real is None else _real_sides(real, subject.tokenizer, judgement)
    reference = sides.pop("reference", None)
    if judgement.reference is not None:
        reference = _stated(given)
    sets = [*subject.sets, *sides.values(), *filter(None, [reference])]
    options = _options(subject, real, judgement, given)
    for images in sets:
        check_enough(images.name, images.expected, options.neighbours)
    # Trained where the result is the same in every process and after a restart.
    classifier = choose_classifier(replace(judgement, device="cpu") if work else judgement, real)
    chunks = _chunks(work, subject, real, judgement, (extractor, classifier))
    if work is not None and not _share(chunks, sets):
        return None
    with _bar(sum(images.expected for images in sets)) as bar:
        chunks.on_images = bar.advance
        report = compare(
            [chunks.read(images) for images in subject.sets],
            None if reference is None else chunks.read(reference),
            {name: chunks.read(images) for name, images in sides.items()},
            extractor=extractor,
            shape=subject.shape,
            classifier=None if classifier is None else classifier.describe(),
            options=options,
        )
    groups = {"real images": sets[len(subject.sets) :], "files": subject.sets}
    return report.noted(*(_unreadable(what, group) for what, group in groups.items()))


def _stated(given: Reference) -> NumberedSet | None:
    """The images of a stated reference, if it has any."""
    return None if given.images is None else _numbered("reference", given.images)


def _chunks(
    work: Path | None,
    subject: Subject,
    real: RealImages | None,
    judgement: Judgement,
    measures: tuple[FeatureExtractor, TrainedClassifier | None],
) -> Chunks:
    """Where what is measured is kept: in the folder, or in memory without one."""
    settings = {} if work is None else _settings(subject, real, judgement, *measures)
    with nullcontext() if work is None else launched().main_process_first():
        return Chunks(
            work,
            settings,
            batch_size=judgement.batch_size,
            measure=lambda batches: measured(batches, *measures),
        )


def _real_sides(
    real: RealImages, tokenizer: AnyTokenizer | None, judgement: Judgement
) -> dict[str, NumberedSet]:
    """By name the floors, that of the tokenizer if there is one, and the reference."""
    sides = {
        "reconstruction floor": (real.held_out, tokenizer),
        "real floor": (real.train, None),
        "reference": (real.held_out, None),
    }
    if tokenizer is None:
        del sides["reconstruction floor"]
    device = judgement.place
    return {
        name: real_set(
            name,
            source,
            real.still,
            wanted=judgement.count,
            batch_size=judgement.batch_size,
            through=None if through is None else partial(reconstructed, through, device),
        )
        for name, (source, through) in sides.items()
    }


def _options(
    subject: Subject, real: RealImages | None, judgement: Judgement, given: Reference
) -> EvaluationOptions:
    beside = () if given.images is None else given.images.notes
    rule = () if real is None else (real.held_out.split_rule, *real.held_out.notes)
    return EvaluationOptions(
        statistics=given.statistics,
        reference=None if judgement.reference is None else str(judgement.reference),
        seeds=subject.seeds,
        quantisation=subject.quantisation,
        notes=(*rule, *subject.notes, *beside),
    )


def _unreadable(what: str, sets: Sequence[NumberedSet]) -> str:
    skipped = sorted({key for images in sets for key in images.skipped})
    return f"{len(skipped)} unreadable {what} skipped: {', '.join(skipped[:5])}" * bool(skipped)


def _share(chunks: Chunks, sets: Sequence[NumberedSet]) -> bool:
    """Measure this process's chunks and wait for the others; whether it is the main process."""
    state = launched()
    todo = chunks.missing(sets, rank=state.process_index, processes=state.num_processes)
    with _bar(chunks.size * len(todo)) as bar:
        chunks.on_images = bar.advance
        chunks.compute(todo)
    state.wait_for_everyone()
    return state.is_main_process
