"""``unmask probe``: what a frozen encoder's features say about classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.sources import open_images
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.machine.processes import launched, part
from unmask.probe.linear import probe
from unmask.probe.run import LabelledData
from unmask.probe.settings import ProbeOptions
from unmask.probe.subject import Subject, open_subject
from unmask.ranges import Place, Ranged, Workers
from unmask.text import say


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Train a linear classifier on MAGE's frozen features; started again, it continues.

    Several processes: accelerate launch -m unmask.cli probe MODEL ...
    """

    model: Annotated[Place, tyro.conf.Positional]
    """A MAGE model folder or run, or a folder that a fine-tuning wrote."""
    data: Place
    """Labelled images: class folders, WebDataset tars, IDX files, Parquet, avatars or
    fashion-mnist."""
    out: Path
    """Run folder: checkpoints, best/, last/, accuracy.jsonl, log.jsonl, a table of the classes."""
    options: Annotated[ProbeOptions, tyro.conf.arg(name="")] = field(default_factory=ProbeOptions)
    """How it is trained."""
    cache: Path | None = None
    """Codes of the training images, made by unmask cache build."""
    workers: Workers = 0
    """Processes that prepare batches."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""


def open_data(subject: Subject, data: str, cache: Path | None, workers: int) -> LabelledData:
    """Both sides of the data set, and the cache if there is one."""
    identity = subject.tokenizer.identity
    return LabelledData(
        train=open_images(data, speaks=launched().is_main_process),
        held_out=open_source(data, split="val"),
        cache=None if cache is None else LatentCache.open(cache, tokenizer_identity=identity),
        workers=workers,
    )


def conclude(lines: list[dict[str, float]], out: Path) -> None:
    """Print what a run came to, on the main process, and leave the others."""
    best, last = max(lines, key=lambda line: line["accuracy"]), lines[-1]
    if launched().is_main_process:
        say(
            f"accuracy {last['accuracy']:.4f} at the end, {best['accuracy']:.4f} at best (after "
            f"epoch {best['epoch']}); of each class: {out}/samples"
        )
    part()


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask probe")
    options, out = arguments.options, arguments.out
    subject = open_subject(arguments.model, pool=options.course.pool)
    data = open_data(subject, arguments.data, arguments.cache, arguments.workers)
    conclude(probe(subject, data, options, out=out, from_scratch=arguments.from_scratch), out)
