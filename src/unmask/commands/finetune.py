"""``unmask finetune``: MAGE's encoder learns to name classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.probe import conclude, open_data
from unmask.probe.finetune import finetune, judge
from unmask.probe.settings import FinetuneOptions
from unmask.probe.subject import open_subject
from unmask.ranges import Place, Ranged, Workers
from unmask.text import say


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Train encoder and head together on labelled images; started again, it continues.

    Without --out it only judges a classifier. Several processes: accelerate launch -m unmask.cli
    finetune MODEL ...
    """

    model: Annotated[Place, tyro.conf.Positional]
    """A MAGE model folder or run, a folder that a fine-tuning wrote, or a fine-tuned file of the
    MAGE project."""
    data: Place
    """Labelled images: class folders, WebDataset tars, IDX files, Parquet, avatars or
    fashion-mnist."""
    out: Path | None = None
    """Run folder, as of unmask probe; without one, nothing is trained or written."""
    options: Annotated[FinetuneOptions, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneOptions
    )
    """How it is trained."""
    cache: Path | None = None
    """Codes of the training images, made by unmask cache build; nothing is mixed then."""
    workers: Workers = 0
    """Processes that prepare batches."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask finetune")
    options, out = arguments.options, arguments.out
    subject = open_subject(arguments.model, pool=options.course.pool)
    data = open_data(subject, arguments.data, arguments.cache, arguments.workers)
    if out is not None:
        return conclude(
            finetune(subject, data, options, out=out, from_scratch=arguments.from_scratch), out
        )
    found = judge(subject, data.held_out, options.course)
    say(*found.table(data.held_out.class_names).splitlines())
    say(f"accuracy {found.top1:.4f}, among five {found.top5:.4f}")
