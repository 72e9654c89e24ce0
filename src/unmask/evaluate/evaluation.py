"""Score images against real ones, beside the floors that no sampler can pass."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.chunks import FILES, Chunks
from unmask.evaluate.classifier import (
    TrainedClassifier,
    load_fashion_classifier,
    train_classifier,
    with_test_accuracy,
)
from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor, load_features
from unmask.evaluate.generated import Generated, files_identity
from unmask.evaluate.image_batch import Batches, gather
from unmask.evaluate.image_sets import ImageSet
from unmask.evaluate.inception import SPATIAL_WIDTH, Inception, load_inception
from unmask.evaluate.manifold import Manifold, PrecisionRecall, manifold_overlap
from unmask.evaluate.measure import RunningScores, limited
from unmask.evaluate.numbered_set import NumberedSet, check_shape
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages, real_batches
from unmask.evaluate.reference import Reference, ReferenceStatistics, open_reference
from unmask.evaluate.report import SCORES, Report, Row


def evaluate(
    generated: Generated | Batches,
    reference: RealImages | Reference | Batches | None = None,
    *,
    floors: Mapping[str, Batches] | None = None,
    extractor: FeatureExtractor | None = None,
    classifier: TrainedClassifier | None = None,
    options: EvaluationOptions | None = None,
    work: Path | None = None,
) -> Report:
    """Score images against real ones, beside the floors.

    Sets are read once, batch by batch, so a sampler can be given as a generator. Floors stop at
    the number of generated images, because every score depends on the count.

    Args:
        generated: batches of uint8 ``(B, C, H, W)`` or :class:`ImageBatch` with labels; or what a
            system generates or files hold, see :class:`Generated`.
        reference: what every row is compared with: batches; both sides of a data set, which give
            the floors too (training images as they are, and held-out ones through the system's
            tokenizer and back); or statistics. None takes ``options.reference``, which takes the
            place of any other reference as well.
        floors: more real images by name, scored like the generated ones.
        extractor: feature network; None takes that of the options.
        classifier: judges the rows that have labels; None takes that of the options.
        options: everything else; what is measured already makes no use of some of them.
        work: folder for what is measured. An evaluation that is killed goes on from it, and the
            processes of a launcher share the work and meet in it.

    Returns:
        The report, in every process; its notes name what biases the numbers.

    Raises:
        InputError: sizes or channels that differ, too few images, weights, statistics or a folder
            that are missing or do not fit.
    """
    options = options or EvaluationOptions()
    if isinstance(reference, Reference) and extractor is not None:
        reference.check_width(extractor.width, extractor.name)
    made = generated if isinstance(generated, Generated) else Generated.of_batches(generated)
    real = reference if isinstance(reference, RealImages) else None
    extractor = extractor or choose_extractor(options, made.shape)
    known = choose_reference(reference, options, extractor, made.shape)
    sides = _sides(made, floors or {}, real, known, options)
    networks = extractor, classifier or choose_classifier(options, real, alike=work is not None)
    facts = {} if work is None else _facts(made, real, options, networks)
    chunks = Chunks(work, facts, networks, batch_size=options.measured)
    return chunks.fold(
        [*made.sets, *sides.values()],
        lambda: _report(chunks, made, sides, known, options, networks),
    )


def choose_reference(
    given: RealImages | Reference | Batches | None,
    options: EvaluationOptions,
    extractor: FeatureExtractor,
    shape: tuple[int, int, int],
) -> Reference:
    """The reference of every row; one that the options name takes the place of any other.

    Raises:
        InputError: nothing to compare with, or a file that is missing or does not fit the network
            or the ``(C, H, W)`` shape of the images.
    """
    if options.reference is None:
        if given is None:
            raise InputError("nothing to compare with; give real images (--data) or --reference")
        if isinstance(given, RealImages):
            return Reference(notes=given.notes)
        return given if isinstance(given, Reference) else Reference(images=given)
    found = open_reference(
        options.reference,
        width=extractor.width,
        spatial_width=SPATIAL_WIDTH if isinstance(extractor, Inception) else None,
        batch_size=options.measured,
    )
    if isinstance(found.images, ImageSet):
        check_shape(str(options.reference), found.images.shape, shape)
    rule = given.notes if isinstance(given, RealImages) else ()
    return found._replace(notes=(*rule, *found.notes))


def _sides(
    made: Generated,
    floors: Mapping[str, Batches],
    real: RealImages | None,
    known: Reference,
    options: EvaluationOptions,
) -> dict[str, NumberedSet]:
    """Floors and reference by name, checked; a reference known already goes before real images."""
    sides = {name: NumberedSet.of(name, batches) for name, batches in floors.items()}
    sides |= {} if real is None else real.sets(options, made.tokenizer)
    if known.statistics is not None or known.images is not None:
        sides.pop("reference", None)
    if known.images is not None:
        sides["reference"] = NumberedSet.of("reference", known.images)
    for images in [*made.sets, *sides.values()]:
        check_shape(images.name, images.shape or made.shape, made.shape)
        check_enough(images.name, images.expected, options.neighbours)
    return sides


def choose_extractor(
    options: EvaluationOptions, shape: tuple[int, int, int] = (3, 32, 32)
) -> FeatureExtractor:
    """The feature network that the options name, for images of ``shape`` (C, H, W).

    Raises:
        InputError: weights that are missing, or a callable that does not fit.
    """
    if options.features is not None:
        return load_features(options.features, size=shape[1:], device=options.place)
    if options.inception is not None:
        return load_inception(options.inception, device=options.place)
    return EfficientNetLite0(resize=options.resize, device=options.place)


def choose_classifier(
    options: EvaluationOptions, real: RealImages | None, *, alike: bool = False
) -> TrainedClassifier | None:
    """The judge of classes; one trained now states its accuracy on the held-out images.

    Args:
        options: which classifier.
        real: images to train one on.
        alike: train it on the CPU, where every process and every start ends with the same.

    Raises:
        InputError: when there are no images with labels to train on.
    """
    if options.classifier == "none":
        return None
    if options.classifier == "fashion":
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
        device="cpu" if alike else options.place,
    )
    return with_test_accuracy(judge, test.images, test.labels)


def _facts(
    made: Generated,
    real: RealImages | None,
    options: EvaluationOptions,
    networks: tuple[FeatureExtractor, TrainedClassifier | None],
) -> dict[str, str]:
    """Everything that decides a feature, for the folder of an evaluation."""
    extractor, classifier = networks
    reference = options.reference
    return {
        "images": made.identity,
        "seeds": str(made.seeds),
        "count": f"{options.count} x {options.repeats}",
        "batch size": str(options.measured),
        "network": extractor.identity,
        "classifier": "none" if classifier is None else classifier.describe(),
        "real images": "none" if real is None else real.identity,
        FILES: "none" if real is None else real.sizes(options.count),
        "reference": "none" if reference is None else files_identity(reference),
        "device": options.place.type,
        "torch": torch.__version__,
    }


def _report(
    chunks: Chunks,
    made: Generated,
    sides: Mapping[str, NumberedSet],
    known: Reference,
    options: EvaluationOptions,
    networks: tuple[FeatureExtractor, TrainedClassifier | None],
) -> Report:
    """Compare every set: the main process reads it, all work on precision and recall."""
    counts: dict[str, int] = {}  # these two are the main process's
    totals: list[RunningScores] = []

    def kept(name: str, images: NumberedSet, keep: int, limit: int | None = None) -> Tensor:
        """Feature vectors for precision and recall, beside the totals."""
        found = limited(chunks.read(images), limit)
        totals[:] = [RunningScores.of(found, keep=keep, split=options.inception_split)]
        counts[name] = check_enough(name, totals[0].count, options.neighbours)
        return totals[0].kept.kept()

    def manifold(points: Tensor) -> Manifold:
        """The neighbourhoods of feature vectors."""
        place, shared = options.place, chunks.shared
        return Manifold(points, k=options.neighbours, device=place, shared=shared)

    target, real = known.statistics, None
    if images := sides.get("reference"):
        keep = options.manifold_reference
        real = manifold(chunks.by_main(lambda: kept("reference", images, keep)))
        target = target or (totals[0].statistics("reference") if totals else None)

    def row(name: str, images: NumberedSet) -> Row:
        """The scores of a set, at most as many images as were generated."""
        limit = counts.get("generated") if name != "generated" else None
        keep = options.manifold_images if real else 0
        points = chunks.by_main(lambda: kept(name, images, keep, limit))
        overlap = manifold_overlap(real, manifold(points)) if real else None
        return chunks.by_main(lambda: _row(name, totals[0], target, overlap))

    rows = [row("generated", images) for images in made.sets]
    floors = [row(name, images) for name, images in sides.items() if name != "reference"]
    return chunks.by_main(
        lambda: _described([rows, floors], counts, made, sides, known, options, networks)
    )


def _described(
    rows: Sequence[Sequence[Row]],
    counts: dict[str, int],
    made: Generated,
    sides: Mapping[str, NumberedSet],
    known: Reference,
    options: EvaluationOptions,
    networks: tuple[FeatureExtractor, TrainedClassifier | None],
) -> Report:
    """The rows of generated sets and of floors with all that was chosen."""
    (generated, floors), (extractor, classifier) = rows, networks
    fitted = counts if known.statistics is None else counts | {"reference": extractor.width + 1}
    skipped = _unreadable("real images", sides.values()), _unreadable("files", made.sets)
    return Report(
        rows=(_mean(generated), *floors),
        repeats=tuple(generated) if len(generated) > 1 else (),
        extractor=extractor.name,
        identity=extractor.identity,
        reference_images=counts.get("reference", 0),
        image_shape=made.shape,
        neighbours=options.neighbours,
        inception_split=options.inception_split,
        manifold_images=(options.manifold_images, options.manifold_reference),
        classifier=None if classifier is None else classifier.describe(),
        statistics=known.stated,
        inception=isinstance(extractor, Inception) and extractor.published,
        seeds=made.seeds,
        quantisation=made.quantisation,
        notes=(*_warnings(fitted, extractor), *known.notes, *made.notes, *filter(None, skipped)),
    )


def check_enough(name: str, count: int | None, neighbours: int) -> int:
    """The number of images of a set, if the scores can be taken of so many; 0 for None, unknown.

    Raises:
        InputError: when they are too few.
    """
    least = max(2, neighbours + 1)
    if count is not None and count < least:
        raise InputError(
            f"the set {name!r} holds {count} images, the scores need at least {least}; "
            "give more images"
        )
    return count or 0


def _row(
    name: str,
    found: RunningScores,
    target: ReferenceStatistics | None,
    overlap: PrecisionRecall | None,
) -> Row:
    assert target is not None, "a reference holds statistics or images"
    measured = found.statistics(name)
    scores = found.score.values()
    return Row(
        name=name,
        images=found.count,
        fd=measured.fid(target),
        sfd=measured.sfid(target),
        inception_score=statistics.fmean(scores) if scores else None,
        inception_deviation=statistics.pstdev(scores) if scores else None,
        precision=overlap and overlap.precision,
        recall=overlap and overlap.recall,
        class_accuracy=found.accuracy(),
    )


def _mean(rows: Sequence[Row]) -> Row:
    """The mean of repeated rows, with the deviation of each score (divided by K - 1)."""
    if len(rows) == 1:
        return rows[0]
    columns = ((score, [getattr(row, score) for row in rows]) for score in SCORES)
    known = {score: column for score, column in columns if None not in column}
    means: dict[str, Any] = {score: statistics.fmean(column) for score, column in known.items()}
    spread = {score: statistics.stdev(column) for score, column in known.items()}
    return replace(rows[0], **means, spread=spread)


def _warnings(counts: dict[str, int], extractor: FeatureExtractor) -> Iterator[str]:
    """Sentences on numbers of images that bias a score."""
    few = {name: count for name, count in counts.items() if count < extractor.width + 1}
    if few:
        named = ", ".join(f"{name} {count:,}" for name, count in few.items())
        yield (
            f"fewer images ({named}) than the {extractor.width + 1:,} that the {extractor.width:,} "
            "features need: covariances are singular and fd is biased upward; compare only rows "
            "of equal count"
        )
    generated = counts["generated"]
    for name, count in counts.items():
        if name not in ("generated", "reference") and count < generated:
            yield (
                f"the {name} has {count:,} images, fewer than the {generated:,} generated: its fd "
                "is biased upward beside theirs"
            )


def _unreadable(what: str, sets: Iterable[NumberedSet]) -> str:
    skipped = sorted({key for images in sets for key in images.skipped})
    return f"{len(skipped)} unreadable {what} skipped: {', '.join(skipped[:5])}" * bool(skipped)
