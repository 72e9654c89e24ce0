"""``unmask eval``: how good a model's images are, beside what is possible."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import torch
import tyro

from unmask.checkpoints.store import CONFIG
from unmask.commands.arguments import parse
from unmask.commands.plan_arguments import PlanArguments
from unmask.commands.sources import Images
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.generated import Generated
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages
from unmask.files.folders import check_file
from unmask.machine.devices import resolve_device
from unmask.machine.processes import any_says, by_main, launched, part, refusal
from unmask.pipeline import load
from unmask.ranges import Place, Ranged
from unmask.text import say


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Score images against real ones held out from training, beside what real images score.

    The Fréchet distance is of EfficientNet-lite0 features, which need no download, and not FID:
    that takes --inception, --reference and 50,000 images.
    """

    subject: Annotated[Place, tyro.conf.Positional]
    """Model folder, run or shipped name; or a folder of image files, or an .npz of samples."""
    data: Images | None = None
    """Real images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist, with a
    held-out split. Beside --reference it can be left out; then there are no floors."""
    options: Annotated[EvaluationOptions, tyro.conf.arg(name="")] = field(
        default_factory=EvaluationOptions
    )
    """How many images are scored, on which features, beside what."""
    how: Annotated[PlanArguments, tyro.conf.arg(name="")] = field(default_factory=PlanArguments)
    """Plan by which a model's images are sampled."""
    compile: bool = False
    """Compile a model's network and diffusion head first (torch.compile), which pays from some
    thousand images on; they are the same up to rounding."""
    work: Path | None = None
    """Folder for what is measured. A killed evaluation goes on from it, and processes of several
    machines share the work through it. Without one nothing is kept."""
    out: Path | None = None
    """File that the report is also written to: .json, or any other ending for the table."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = _on_device(parse(Arguments, words, prog="unmask eval"))
    if arguments.out is not None:
        check_file(arguments.out, "report")
    sys.path.append(str(Path.cwd()))  # where --features may lie
    made, transform = _generated(arguments)
    real = None
    if arguments.data is not None:
        train, held_out = open_source(arguments.data), open_source(arguments.data, split="val")
        real = RealImages(train, held_out, transform)
    with _meeting_place(arguments.work) as work:
        report = evaluate(made, real, options=arguments.options, work=work)
    if launched().is_main_process:
        say(*str(report.table()).splitlines())
        if arguments.out is not None:
            report.write(arguments.out)
    part()


@contextmanager
def _meeting_place(work: Path | None) -> Iterator[Path | None]:
    """The folder for what is measured; several processes that were given none get a passing one."""
    if work is not None or launched().num_processes == 1:
        yield work
        return
    folder = by_main(lambda: Path(tempfile.mkdtemp(prefix="unmask-eval-")))
    try:
        if any_says("" if folder.is_dir() else "elsewhere"):
            raise refusal("processes of several machines meet in a folder; give one (--work)")
        yield folder
    finally:
        if launched().is_main_process:
            shutil.rmtree(folder, ignore_errors=True)


def _on_device(arguments: Arguments) -> Arguments:
    """The device of this process; on CPUs one thread of it, where processes may share the work."""
    several = launched().num_processes > 1
    device = resolve_device(arguments.options.device)
    if device.type == "cpu" and (several or arguments.work is not None):
        # Sums of several threads round differently from those of one.
        torch.set_num_threads(1)
    return replace(arguments, options=replace(arguments.options, device=str(device)))


def _generated(arguments: Arguments) -> tuple[Generated, Transform]:
    """What is judged, and how real images are brought to its shape."""
    options, path = arguments.options, Path(arguments.subject)
    is_images = path.is_file() or path.suffix.lower() == ".npz"
    if path.is_dir():
        is_images = not any((path / folder / CONFIG).exists() for folder in (".", "model"))
    if is_images:
        if arguments.how != PlanArguments() or arguments.compile:
            raise InputError(f"{path} holds images; leave out the options that are of sampling")
        made = Generated.of_files(path, options)
        return made, Transform(size=made.shape[1:], channels=made.shape[0])
    pipeline = load(arguments.subject, device=options.device)
    if arguments.compile:
        pipeline.model.compile()
    made = Generated.of_pipeline(pipeline, options, arguments.how.of(pipeline))
    crop = pipeline.recipe.still_crop
    return made, Transform(size=made.shape[1:], crop=crop, channels=made.shape[0])
