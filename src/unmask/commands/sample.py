"""``unmask sample``: images from a trained system."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import torch
import tyro

from unmask.commands.arguments import parse
from unmask.commands.plan_arguments import PlanArguments
from unmask.commands.sample_results import Format, Results
from unmask.decode import Plan
from unmask.divergence import divergence
from unmask.film import unmasking
from unmask.generation import (
    Images,
    Options,
    Tokens,
    compute_of,
    generate,
    generate_tokens,
)
from unmask.image_size import height_width
from unmask.machine.compute import Precision
from unmask.machine.devices import resolve_device
from unmask.memory import check_memory
from unmask.pipeline import Pipeline, load
from unmask.ranges import Between, Length, Name, Place, Ranged, Seed
from unmask.show import Bar
from unmask.text import say

B = TypeVar("B", Images, Tokens)


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


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask sample")
    results = Results(arguments.out, arguments.format, arguments.film)
    pipeline = load(arguments.model, device=resolve_device(arguments.device))
    pipeline.compute = compute_of(pipeline, arguments.compute).precision
    plan, began = arguments.how.of(pipeline), time.monotonic()
    _check_room(pipeline, arguments)
    chosen = pipeline.labels(arguments.classes or range(pipeline.model.classes))
    labels = [label for label in chosen for _ in range(arguments.per_class)]
    seeds = range(arguments.seed, arguments.seed + (len(labels) or arguments.per_class))
    order = in_turn(len(seeds), 1 if results.by_class else arguments.per_class)
    wanted = [labels[k] for k in order] if labels else None
    asked, options = [seeds[k] for k in order], Options(plan=plan, batch_size=arguments.batch_size)
    if arguments.format == "tokens":
        made = _with_bar(generate_tokens(pipeline, wanted, seeds=asked, **options), asked, plan)
        results.write_tokens(torch.cat([batch.tokens.cpu() for batch in made]), seeds, labels)
    else:
        images = _with_bar(generate(pipeline, wanted, seeds=asked, **options), asked, plan)
        results.claim(pipeline, plan)
        results.write_images(images, columns=arguments.per_class)
    if arguments.film:
        each = slice(None, None, arguments.per_class)  # the first image of every class
        frames = unmasking(pipeline, labels[each] or None, seeds=list(seeds[each]), plan=plan)
        results.write_film(frames)
    pace = (time.monotonic() - began) / len(seeds)
    done = f"{len(seeds)} images in {arguments.out}/, {pace:.3g} s an image in {pipeline.compute}"
    say(done, *results.told())


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


def _with_bar(batches: Iterator[B], seeds: Sequence[int], plan: Plan) -> Iterator[B]:
    """The batches, with a bar where someone looks, and a word if they have diverged."""
    warning = None
    with Bar("unmasking", len(seeds)) as bar:
        for batch in batches:
            bar.advance(len(batch.seeds))
            warning = warning or divergence(batch.tokens, plan.draw)
            yield batch
    if warning:
        say(warning, error=True)
