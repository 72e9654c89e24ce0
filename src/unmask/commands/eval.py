"""``unmask eval``: how good a model's images are, beside what is possible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console
from rich.progress import Progress

from unmask.checkpoints.store import CONFIG
from unmask.commands.arguments import parse
from unmask.commands.device import resolve_device
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate.image_sets import open_image_set
from unmask.evaluate.judgement import Judgement, generated_batches, judge_images
from unmask.evaluate.report import Report
from unmask.pipeline import adjusted, load


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Score images against real ones held out from training, with both floors beside.

    The Fréchet distance is of EfficientNet-lite0 features, which need no download, and not FID:
    that takes --inception, --reference and 50,000 images.
    """

    subject: Annotated[str, tyro.conf.Positional]
    """A model folder, run or shipped name; or a folder of PNG files, or an .npz of samples."""
    data: Path
    """Real images: a folder, WebDataset tars, IDX files or Parquet, with a held-out split."""
    judgement: Annotated[Judgement, tyro.conf.arg(name="")] = field(default_factory=Judgement)
    """How much is judged, and by what."""
    steps: int | None = None
    """Decoding steps instead of the plan's."""
    guidance_scale: float | None = None
    """Guidance instead of the plan's; 1 means none."""
    temperature: float | None = None
    """Choice temperature instead of the plan's."""
    out: Path | None = None
    """Also write the report here: .json, or any other ending for the table."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask eval")
    device = str(resolve_device(arguments.judgement.device))
    arguments = replace(arguments, judgement=replace(arguments.judgement, device=device))
    subject = Path(arguments.subject)
    is_images = subject.suffix == ".npz" or (
        subject.is_dir() and not any((subject / f / CONFIG).exists() for f in (".", "model"))
    )
    report = _judge_files(subject, arguments) if is_images else _judge_model(arguments)
    print(report.table())
    if arguments.out is not None:
        report.write(arguments.out)


def _judge_model(arguments: Arguments) -> Report:
    judgement = arguments.judgement
    pipeline = load(arguments.subject, device=judgement.device)
    plan = adjusted(
        pipeline.plan,
        steps=arguments.steps,
        guidance_scale=arguments.guidance_scale,
        temperature=arguments.temperature,
    )
    recipe = pipeline.recipe
    transform = Transform(
        size=recipe.image_size, crop=recipe.crop, channels=pipeline.tokenizer.image_channels
    )
    train, held_out = open_source(arguments.data), open_source(arguments.data, split="val")
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("sampling and scoring", total=judgement.count)
        return judge_images(
            generated_batches(
                pipeline, judgement, plan=plan, on_images=lambda n: bar.advance(task, n)
            ),
            train,
            held_out,
            transform,
            judgement=judgement,
            tokenizer=pipeline.tokenizer,
            seeds=judgement.seeds,
            notes=(f"plan: {plan}",),
        )


def _judge_files(path: Path, arguments: Arguments) -> Report:
    """Images that somebody else may have made; real ones are cropped to their size."""
    images = open_image_set(path, batch_size=arguments.judgement.batch_size)
    shape = next(iter(images)).images.shape
    transform = Transform(size=shape[-1], channels=1 if shape[1] == 1 else 3)
    train, held_out = open_source(arguments.data), open_source(arguments.data, split="val")
    report = judge_images(
        images, train, held_out, transform, judgement=arguments.judgement, notes=(f"from {path}",)
    )
    skipped = ", ".join(images.skipped[:3])
    return report.noted(f"{len(images.skipped)} unreadable files: {skipped}" * bool(skipped))
