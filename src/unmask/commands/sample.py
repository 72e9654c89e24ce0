"""``unmask sample``: images from a trained system."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import tyro

from unmask.checkpoints.locate import find_folder
from unmask.commands.arguments import parse
from unmask.commands.plan_arguments import PlanArguments
from unmask.commands.sample_parts import Parts
from unmask.commands.sample_results import Format, Results
from unmask.decode import Plan
from unmask.divergence import divergence
from unmask.files.lock import locked
from unmask.film import unmasking
from unmask.generation import Images, Tokens, check_request, compute_of, generate, generate_tokens
from unmask.image_size import height_width
from unmask.machine.compute import Precision
from unmask.machine.devices import resolve_device
from unmask.machine.processes import any_says, by_main, launched, part, share
from unmask.memory import check_memory
from unmask.nn.guided import HeadDraw
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline, load
from unmask.ranges import Between, Length, Name, Place, Ranged, Seed
from unmask.show import Bar
from unmask.text import say


@dataclass(frozen=True)
class Arguments(Ranged):
    """Generate images, class by class."""

    model: Annotated[Place, tyro.conf.Positional]
    """A model folder, a run, a shipped name such as fashion-maskgit, or a hub id."""
    classes: Annotated[tuple[Name, ...], Length(0, 10**6)] = ()
    """Classes by name or number, or the word none for the null class; empty means every class."""
    per_class: Annotated[int, Between(1, 10**6)] = 8
    """Images of each class; of an unconditional model, images in all."""
    seed: Seed = 0
    """Seed of the first image; image k uses seed + k. The same seed gives the same image at any
    batch size, on a CPU to the last bit."""
    how: Annotated[PlanArguments, tyro.conf.arg(name="")] = field(default_factory=PlanArguments)
    """Plan of the system's recipe, its default unless named, and changes to it."""
    out: Path = Path("samples")
    """Folder for the results."""
    format: Format = "grid"
    """What is written: "grid", a contact sheet; "png", a file an image (class_<label>/<seed>.png);
    "folder", those in one flat folder (images/<number>.png), as torch-fidelity and pytorch-fid
    read; "npz", samples.npz as ADM's evaluator reads; or "tokens", the ids alone (tokens.npz:
    tokens, seeds, labels), which need no tokenizer. "folder" and "npz" take the classes in turn.
    Pixels v in [0, 1] become the bytes 255 v + 0.5, cut off."""
    film: bool = False
    """Also write the unmasking of one image a class as film.png and film.gif."""
    batch_size: Annotated[int, Between(1, 2**16)] | Literal["auto"] = "auto"
    """Images decoded at once; auto takes what the device's memory holds, 64 on a CPU. It does not
    change the images."""
    device: Name = "auto"
    """Device that computes: cpu, cuda, mps; auto takes the machine's accelerator if it has one."""
    compute: Precision | None = None
    """Arithmetic of the network: float32, tf32, bf16 or fp16. None takes bf16 on a GPU that has it
    natively and else float32; images of different arithmetic differ slightly."""
    compile: bool = False
    """Compile the network and a diffusion head first (torch.compile), which pays from some thousand
    images on; they are the same up to rounding."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask sample")
    results = Results(arguments.out, arguments.format, arguments.film)
    by_main(results.check)
    by_main(lambda: find_folder(arguments.model))
    pipeline = load(arguments.model, device=resolve_device(arguments.device))
    if arguments.compile:
        pipeline.model.compile()
    pipeline.compute = by_main(lambda: compute_of(pipeline, arguments.compute).precision)
    (plan, chosen), began = by_main(lambda: _asked(pipeline, arguments)), time.monotonic()
    wanted = _wanted(arguments, chosen, results)
    parts = results.parts(*wanted)

    def begin() -> list[int]:
        """Numbers of the images to make, once the folder is this command's."""
        settings = results.settings(pipeline, plan, _request(arguments, chosen))
        held.enter_context(locked(arguments.out, "set of samples"))
        results.claim(parts, settings)
        return parts.missing(len(wanted.seeds))

    with ExitStack() as held:
        missing = by_main(begin)
        make = generate_tokens if arguments.format == "tokens" else generate
        make = partial(make, pipeline, plan=plan, batch_size=arguments.batch_size)
        warning = _make(make, wanted, [missing[k] for k in share(len(missing))], parts, plan.draw)
        by_main(lambda: results.finish(parts, *wanted, columns=arguments.per_class))
        if arguments.film:
            end = arguments.seed + len(wanted.seeds)
            firsts = list(range(arguments.seed, end, arguments.per_class))  # one of every class
            film = partial(unmasking, pipeline, chosen or None, seeds=firsts, plan=plan)
            by_main(lambda: results.write_film(film()))
    if launched().is_main_process:
        say(*filter(None, [warning]), error=True)
        there = len(wanted.seeds) - len(missing)
        pace = (time.monotonic() - began) / max(1, len(missing))
        done = f"{len(wanted.seeds)} images in {arguments.out}/"
        done += f", {there} of which were there" if there else ""
        done += f", {pace:.3g} s an image in {compute_of(pipeline)}" if missing else ""
        say(done, *results.told())
    part()


def _wanted(arguments: Arguments, chosen: Sequence[int], results: Results) -> Wanted:
    """Images of the classes, in the order in which they are written."""
    labels = [label for label in chosen for _ in range(arguments.per_class)]
    count = len(labels) or arguments.per_class
    order = in_turn(count, 1 if results.by_class else arguments.per_class)
    seeds = [arguments.seed + k for k in order]
    return Wanted([labels[k] for k in order] if labels else None, seeds)


def _request(arguments: Arguments, chosen: Sequence[int]) -> dict[str, str]:
    """What was asked for, as it is noted in the folder."""
    return {
        "classes": str(chosen) if arguments.classes else "every class",
        "per class": str(arguments.per_class),
        "seed": str(arguments.seed),
    }


def _asked(pipeline: Pipeline, arguments: Arguments) -> tuple[Plan, list[int]]:
    """The plan and the classes, of an unconditional model none, after a look at what they want.

    Raises:
        InputError: they do not fit the system, or the images the memory.
    """
    plan = arguments.how.of(pipeline)
    _check_room(pipeline, arguments)
    chosen = pipeline.labels(arguments.classes or range(pipeline.model.classes))
    check_request(pipeline.model, plan, chosen or None, range(len(chosen) or 1))
    return plan, chosen


class Wanted(NamedTuple):
    """Images that are asked for, by their number in the order in which they are written.

    Args:
        labels: Class of each; None of an unconditional model.
        seeds: Seed of each.
    """

    labels: list[int] | None
    seeds: list[int]


def _make(
    make: Callable[..., Iterator[Images | Tokens]],
    wanted: Wanted,
    numbers: Sequence[int],
    parts: Parts,
    draw: HeadDraw,
) -> str:
    """Make images and put them where finished ones wait, with a bar where someone looks.

    Returns:
        A word about those of any process that have diverged; "" if none has.
    """
    labels = None if wanted.labels is None else [wanted.labels[n] for n in numbers]
    batches = make(labels, seeds=[wanted.seeds[n] for n in numbers]) if numbers else ()
    warning, left = "", list(numbers)
    bar = Bar("unmasking", len(numbers), shown=launched().is_main_process)
    with bar, parts.writing() as write:
        for batch in batches:
            values = to_uint8(batch.pixels) if isinstance(batch, Images) else batch.tokens
            write(left[: len(values)], values.cpu())
            del left[: len(values)]
            bar.advance(len(values))
            warning = warning or divergence(batch.tokens, draw) or ""
    return any_says(warning)


def _check_room(pipeline: Pipeline, arguments: Arguments) -> None:
    """Refuse images that are held until the last one is made and cannot be."""
    images = arguments.per_class * (len(arguments.classes) or pipeline.model.classes or 1)
    height, width = height_width(pipeline.recipe.image_size)
    each = {
        "grid": 2 * height * width,  # as images and in the sheet
        "tokens": 8 * pipeline.model.length * (pipeline.model.channels or 1),
    }.get(arguments.format, 0)
    check_memory(
        images * (each + 64),  # its label and seed
        f"--format {arguments.format} of {images:,} images",
        "give fewer (--per-class), or several calls with other seeds",
    )


def in_turn(images: int, per_class: int) -> list[int]:
    """The numbers of images that lie class by class, in an order that takes the classes in turn.

    An evaluator that scores consecutive images together, as ADM's does, then finds every class in
    each part: in class order the inception score of a part could not exceed its few classes.
    """
    return [k for first in range(per_class) for k in range(first, images, per_class)]
