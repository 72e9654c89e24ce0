"""``unmask sample``: images from a trained system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro
from rich.console import Console
from rich.progress import Progress

from unmask.commands.device import resolve_device
from unmask.decode import Plan
from unmask.evaluate.image_sets import write_npz
from unmask.generate import check_request, generate
from unmask.orders import Confidence, RandomOrder, StaticOrder
from unmask.pictures import sheet, to_pil, to_uint8, veil, write_gif
from unmask.pipeline import Pipeline, adjusted, load
from unmask.types import Step


@dataclass(frozen=True)
class Arguments:
    """Generate images, class by class."""

    model: Annotated[str, tyro.conf.Positional]
    """A model folder, a run, a shipped name such as fashion-maskgit, or a hub id."""
    classes: tuple[str, ...] = ()
    """Class names or numbers; none means every class."""
    per_class: int = 8
    """Images of each class (of an unconditional model: images)."""
    seed: int = 0
    """Image k uses seed + k; the same seed gives the same image at any batch size."""
    steps: int | None = None
    """Decoding steps; more is slower and not always better."""
    order: Literal["confidence", "random", "halton", "raster"] | None = None
    """Which tokens come first."""
    guidance_scale: float | None = None
    """1 means none; larger follows the class more closely."""
    temperature: float | None = None
    """Noise on the confidence; larger gives more variety."""
    softmax_temperature: float | None = None
    """Of the token distribution itself."""
    top_k: int | None = None
    """Draw among the k likeliest codes only."""
    out: Path = Path("samples")
    """Folder for the results."""
    format: Literal["grid", "png", "npz"] = "grid"
    """A contact sheet, one PNG an image (class_<label>/<seed>.png), or an ADM-style NPZ."""
    film: bool = False
    """Also write the unmasking of one image a class as film.png and film.gif."""
    batch_size: int = 64
    """Images decoded at once."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""


def plan_of(arguments: Arguments, plan: Plan) -> Plan:
    """The system's plan with what the command line changes."""
    orders = {
        "random": RandomOrder(),
        "halton": StaticOrder(path="halton"),
        "raster": StaticOrder(path="raster"),
        "confidence": plan.order if isinstance(plan.order, Confidence) else Confidence(),
    }
    if arguments.order is not None:
        plan = replace(plan, order=orders[arguments.order])
    return adjusted(
        plan,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        temperature=arguments.temperature,
        top_k=arguments.top_k,
        softmax_temperature=arguments.softmax_temperature,
    )


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = tyro.cli(Arguments, prog="unmask sample", args=words)
    pipeline = load(arguments.model, device=resolve_device(arguments.device))
    plan = plan_of(arguments, pipeline.plan)
    labels = _labels(pipeline, arguments)
    seeds = range(arguments.seed, arguments.seed + (len(labels) or arguments.per_class))
    check_request(pipeline.model, plan, labels or None, seeds)
    arguments.out.mkdir(parents=True, exist_ok=True)
    pixels = _generate(pipeline, labels or None, seeds, plan, arguments)
    _write(pixels, labels, seeds, arguments)
    if arguments.film:
        _write_film(pipeline, labels, seeds, plan, arguments)
    Console().print(f"{len(pixels)} images in {arguments.out}/")


def _labels(pipeline: Pipeline, arguments: Arguments) -> list[int]:
    chosen = pipeline.labels(arguments.classes or range(pipeline.model.classes))
    return [label for label in chosen for _ in range(arguments.per_class)]


def _generate(
    pipeline: Pipeline,
    labels: list[int] | None,
    seeds: Sequence[int],
    plan: Plan,
    arguments: Arguments,
) -> torch.Tensor:
    batches = []
    with Progress(console=Console(stderr=True)) as progress:
        steps = -(-len(seeds) // arguments.batch_size) * (plan.steps - plan.first_step)
        task = progress.add_task("unmasking", total=steps)
        for batch in generate(
            pipeline,
            labels,
            seeds=seeds,
            plan=plan,
            batch_size=arguments.batch_size,
            observe=lambda step: progress.advance(task),
        ):
            batches.append(to_uint8(batch.pixels).cpu())
    return torch.cat(batches)  # (N, C, H, W) uint8


def _write(
    pixels: torch.Tensor, labels: list[int], seeds: Sequence[int], arguments: Arguments
) -> None:
    if arguments.format == "npz":
        write_npz(arguments.out / "samples.npz", pixels, torch.tensor(labels) if labels else None)
    elif arguments.format == "grid":
        zoom = max(1, 64 // pixels.shape[-1])
        sheet(pixels, arguments.per_class, zoom=zoom).save(arguments.out / "samples.png")
    else:
        for index, (image, seed) in enumerate(zip(pixels, seeds, strict=True)):
            folder = arguments.out / f"class_{labels[index]}" if labels else arguments.out
            folder.mkdir(exist_ok=True)
            to_pil(image).save(folder / f"{seed}.png")


def _write_film(
    pipeline: Pipeline,
    labels: list[int],
    seeds: Sequence[int],
    plan: Plan,
    arguments: Arguments,
) -> None:
    """The first image of each class, step by step."""
    first = slice(None, None, arguments.per_class)
    frames = unmasking(pipeline, labels[first] or None, list(seeds)[first], plan)
    zoom = max(1, 64 // frames.shape[-1])
    film = frames.transpose(0, 1).flatten(0, 1)  # (B * S, C, H, W), a row an image
    sheet(film, frames.shape[0], zoom=zoom).save(arguments.out / "film.png")
    pictures = [sheet(frame, min(len(frame), 10), zoom=zoom) for frame in frames]
    write_gif(pictures, arguments.out / "film.gif")


def unmasking(
    pipeline: Pipeline, labels: Sequence[int] | None, seeds: Sequence[int], plan: Plan
) -> torch.Tensor:
    """The state after every step as pictures, masked patches grey: ``(S, B, C, H, W)``."""
    frames: list[torch.Tensor] = []

    def keep(step: Step) -> None:
        pixels = pipeline.tokenizer.decode(step.tokens, pipeline.model.grid)
        frames.append(veil(pixels, step.masked, pipeline.model.grid).cpu())

    for _ in generate(
        pipeline, labels, seeds=seeds, plan=plan, batch_size=len(seeds), observe=keep
    ):
        pass
    return torch.stack(frames)
