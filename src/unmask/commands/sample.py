"""``unmask sample``: images from a trained system."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.progress import Progress

from unmask.commands.arguments import parse
from unmask.commands.plan_arguments import PlanArguments
from unmask.decode import Plan
from unmask.devices import resolve_device
from unmask.divergence import divergence
from unmask.errors import InputError
from unmask.evaluate.image_sets import ImageBatch, write_folder, write_npz
from unmask.film import unmasking
from unmask.folders import check_folder
from unmask.generation import Images, Tokens, generate, generate_tokens
from unmask.pictures import sheet, to_pil, to_uint8, usual_zoom, write_gif
from unmask.pipeline import Pipeline, load
from unmask.text import say

B = TypeVar("B", Images, Tokens)


@dataclass(frozen=True)
class Arguments:
    """Generate images, class by class."""

    model: Annotated[str, tyro.conf.Positional]
    """A model folder, a run, a shipped name such as fashion-maskgit, or a hub id."""
    classes: tuple[str, ...] = ()
    """Class names or numbers, or none for the null class; without this option, every class."""
    per_class: int = 8
    """Images of each class (of an unconditional model: images)."""
    seed: int = 0
    """Image k uses seed + k; the same seed gives the same image at any batch size."""
    how: Annotated[PlanArguments, tyro.conf.arg(name="")] = field(default_factory=PlanArguments)
    """A plan of the system's recipe, its default unless named, and changes to it."""
    out: Path = Path("samples")
    """Folder for the results."""
    format: Literal["grid", "png", "folder", "npz", "tokens"] = "grid"
    """A contact sheet; one PNG an image (class_<label>/<seed>.png); the same in one flat folder
    (images/<number>.png), as torch-fidelity and pytorch-fid read; samples.npz as ADM's evaluator
    reads; or the ids alone (tokens.npz: tokens, seeds, labels), which needs no tokenizer. The flat
    folder and samples.npz take the classes in turn. Pixels v in [0, 1] become the bytes 255 v +
    0.5, cut off."""
    film: bool = False
    """Also write the unmasking of one image a class as film.png and film.gif."""
    batch_size: int = 64
    """Images decoded at once."""
    device: str = "auto"
    """Device that computes: cpu, cuda, mps; auto takes the machine's accelerator if it has one."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask sample")
    check_folder(arguments.out, "results", may_hold=lambda: True)
    pipeline = load(arguments.model, device=resolve_device(arguments.device))
    plan, began = arguments.how.of(pipeline), time.monotonic()
    labels = _labels(pipeline, arguments)
    seeds = range(arguments.seed, arguments.seed + (len(labels) or arguments.per_class))
    if arguments.format == "tokens":
        _run_tokens(pipeline, labels, seeds, plan, arguments)
    elif arguments.format in ("npz", "folder"):
        order = in_turn(len(seeds), arguments.per_class)
        rows = [labels[k] for k in order] if labels else labels
        _run_images(pipeline, rows, [seeds[k] for k in order], plan, arguments)
    else:
        _run_images(pipeline, labels, seeds, plan, arguments)
    if arguments.film:
        _write_film(pipeline, labels, seeds, plan, arguments)
    pace = (time.monotonic() - began) / len(seeds)
    say(f"{len(seeds)} images in {arguments.out}/, {pace:.3g} s an image")


def _labels(pipeline: Pipeline, arguments: Arguments) -> list[int]:
    chosen = pipeline.labels(arguments.classes or range(pipeline.model.classes))
    return [label for label in chosen for _ in range(arguments.per_class)]


def in_turn(images: int, per_class: int) -> list[int]:
    """The numbers of images that lie class by class, in an order that takes the classes in turn.

    An evaluator that scores consecutive images together, as ADM's does, then finds every class in
    each part: in class order the inception score of a part could not exceed its few classes.
    """
    return [k for first in range(per_class) for k in range(first, images, per_class)]


def _run_tokens(
    pipeline: Pipeline, labels: list[int], seeds: range, plan: Plan, arguments: Arguments
) -> None:
    if arguments.film:
        raise InputError("--film shows pixels; leave it out with --format tokens")
    batches = generate_tokens(
        pipeline, labels or None, seeds=seeds, plan=plan, batch_size=arguments.batch_size
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = [batch.tokens.cpu() for batch in _with_bar(batches, len(seeds), plan)]
    arrays = {"tokens": torch.cat(made).numpy(), "seeds": np.array(seeds)}
    if labels:
        arrays["labels"] = np.array(labels)
    np.savez(arguments.out / "tokens.npz", allow_pickle=False, **arrays)


def _run_images(
    pipeline: Pipeline, labels: list[int], seeds: Sequence[int], plan: Plan, arguments: Arguments
) -> None:
    if arguments.format == "folder":
        check_folder(arguments.out / "images", "image set")
    batches = generate(
        pipeline, labels or None, seeds=seeds, plan=plan, batch_size=arguments.batch_size
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    made = (
        (ImageBatch(to_uint8(b.pixels).cpu(), b.class_labels), b.seeds)
        for b in _with_bar(batches, len(seeds), plan)
    )
    if arguments.format == "npz":
        write_npz(arguments.out / "samples.npz", (batch for batch, _ in made))
    elif arguments.format == "folder":
        write_folder(arguments.out / "images", (batch.images for batch, _ in made))
    elif arguments.format == "grid":
        pixels = torch.cat([batch.images for batch, _ in made])  # (N, C, H, W) uint8
        zoom = usual_zoom(pixels)
        sheet(pixels, arguments.per_class, zoom=zoom).save(arguments.out / "samples.png")
    else:
        for (images, found), numbers in made:
            names = [""] * len(images) if found is None else [f"class_{k}" for k in found.tolist()]
            for image, name, seed in zip(images, names, numbers, strict=True):
                (arguments.out / name).mkdir(exist_ok=True)
                to_pil(image).save(arguments.out / name / f"{seed}.png")


def _with_bar(batches: Iterator[B], total: int, plan: Plan) -> Iterator[B]:
    """The batches, with a bar where someone looks, and a word if they have diverged."""
    console, warning = Console(stderr=True), None
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("unmasking", total=total)
        for batch in batches:
            progress.advance(task, len(batch.seeds))
            warning = warning or divergence(batch.tokens, plan.draw)
            yield batch
    if warning:
        say(warning, error=True)


def _write_film(
    pipeline: Pipeline,
    labels: list[int],
    seeds: Sequence[int],
    plan: Plan,
    arguments: Arguments,
) -> None:
    """The first image of every class, step by step."""
    each = slice(None, None, arguments.per_class)
    frames = unmasking(pipeline, labels[each] or None, seeds=list(seeds)[each], plan=plan)
    zoom = usual_zoom(frames)
    film = frames.transpose(0, 1).flatten(0, 1)  # (B * S, C, H, W), a row an image
    sheet(film, frames.shape[0], zoom=zoom).save(arguments.out / "film.png")
    pictures = [sheet(frame, min(len(frame), 10), zoom=zoom) for frame in frames]
    write_gif(pictures, arguments.out / "film.gif")
