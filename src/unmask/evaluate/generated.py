"""Images that are to be judged: those that a system makes, or those of somebody's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import Tensor

from unmask.data.walk import Walk
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.evaluate.image_batch import Batches, ImageBatch, regrouped
from unmask.evaluate.image_sets import ImageSet, open_image_set
from unmask.evaluate.numbered_set import NumberedSet
from unmask.evaluate.options import EvaluationOptions
from unmask.files.digests import file_stamp
from unmask.generation import check_request, compute_of, generate
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.tokenizer import weights_identity

ROUNDING = "255 v + 0.5, cut off, of v in [0, 1]"


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Images to judge, and what a report says of them.

    Args:
        sets: Set of images; of several repeats, a set for each.
        shape: Channels, height and width of the images.
        identity: Text that is equal only for equal images.
        tokenizer: Tokenizer of the system, for the reconstruction floor; None leaves that floor
            out.
        seeds: Seeds of the images, if known.
        quantisation: How pixels became bytes, if known.
        notes: More lines for the report.
    """

    sets: Sequence[NumberedSet]
    shape: tuple[int, int, int]
    identity: str = ""
    tokenizer: ImageTokenizer | None = None
    seeds: str | None = None
    quantisation: str | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_pipeline(cls, pipeline: Pipeline, options: EvaluationOptions, plan: Plan) -> Generated:
        """Images that a system will generate.

        Raises:
            InputError: a plan that does not fit the system, or arithmetic that its device lacks.
        """
        check_request(pipeline.model, plan, [0] if pipeline.model.classes else None, [0])
        tokenizer, (rows, columns) = pipeline.tokenizer, pipeline.model.grid
        weights = weights_identity(repr(pipeline.recipe), pipeline.model.state_dict().items())
        compute = compute_of(pipeline, options.compute)
        options = replace(options, compute=compute.precision)
        # float32 goes without saying, as in the folders from before there was a choice
        said = "" if str(compute) == "float32" else f", computed in {compute}"
        first, count = options.seed, options.count
        past = first + options.repeats * count
        return cls(
            sets=[
                NumberedSet(
                    name=f"generated {seed}",
                    between=partial(
                        generated_batches, pipeline, replace(options, seed=seed), plan=plan
                    ),
                    positions=count,
                )
                for seed in range(first, past, count)
            ],
            shape=(tokenizer.image_channels, rows * tokenizer.stride, columns * tokenizer.stride),
            identity=f"weights {weights}, tokenizer {tokenizer.identity}, {plan}{said}",
            tokenizer=tokenizer,
            seeds=f"{first} to {past - 1}",
            quantisation=ROUNDING,
            notes=(
                f"plan: {plan}",
                f"model {pipeline.recipe.name}, weights {weights}, computed in {compute}",
            ),
        )

    @classmethod
    def of_batches(cls, batches: Batches) -> Generated:
        """Images that are read once; the first batch is read at once.

        Raises:
            InputError: when there are none.
        """
        found = NumberedSet.of("generated", batches)
        assert found.shape is not None, "the first batch has a shape"
        channels, height, width = found.shape
        return cls(sets=[found], shape=(channels, height, width))

    @classmethod
    def of_files(cls, path: Path, options: EvaluationOptions) -> Generated:
        """All images of a folder of pictures or an ``.npz`` file.

        Raises:
            InputError: when there are none, or repeats or arithmetic are asked for.
        """
        if options.repeats > 1:
            raise InputError(f"repeats={options.repeats} needs a model; {path} has no seeds")
        if options.compute is not None:
            raise InputError(f"compute={options.compute} is of a model's network; {path} has none")
        found = open_image_set(path, batch_size=options.measured)
        return cls(
            sets=[NumberedSet.of("generated", found)],
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
    """Name, sizes and times of a file or of a folder's pictures, hashed without reading them."""
    inside = sorted(Walk(path).pictures()) if path.is_dir() else [""]
    stamps = [(str(path / name), *file_stamp(path / name)) for name in inside]
    return f"{path}, {len(stamps)} files, {weights_identity(str(stamps), ())}"


def generated_batches(
    pipeline: Pipeline,
    options: EvaluationOptions,
    start: int = 0,
    stop: int | None = None,
    *,
    plan: Plan | None = None,
) -> Iterator[ImageBatch]:
    """Samples ``[start, stop)`` of an evaluation, the classes in turn, 8 bits a channel."""
    numbers = range(options.count)[start:stop]
    classes = pipeline.model.classes
    made = generate(
        pipeline,
        [number % classes for number in numbers] if classes else None,
        seeds=[options.seed + number for number in numbers],
        plan=plan,
        batch_size=options.batch_size,
        compute=options.compute,
    )
    return regrouped(
        (
            ImageBatch(to_uint8(b.pixels).cpu(), None if (y := b.class_labels) is None else y.cpu())
            for b in made
        ),
        options.measured,
    )
