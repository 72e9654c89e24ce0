"""``unmask finetune``: MAGE's encoder learns to name classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.probe import open_data, say
from unmask.errors import InputError
from unmask.probe.finetune import finetune, judge
from unmask.probe.settings import FinetuneOptions
from unmask.probe.subject import open_subject


@dataclass(frozen=True, kw_only=True)
class Arguments:
    """Train encoder and head together on labelled images; started again, it continues.

    Several processes: accelerate launch -m unmask.cli finetune MODEL ...
    """

    model: Annotated[str, tyro.conf.Positional]
    """A MAGE model folder or run, a folder that a fine-tuning wrote, or a fine-tuned file of the
    MAGE project."""
    data: Path
    """Labelled images: a folder of class folders, WebDataset tars, IDX files or Parquet."""
    out: Path | None = None
    """Run folder: checkpoints, best/, last/, accuracy.jsonl, log.jsonl, a table a class."""
    judge_only: bool = False
    """Only say how good a classifier is; nothing is written."""
    options: Annotated[FinetuneOptions, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneOptions
    )
    """How it is trained."""
    cache: Path | None = None
    """Codes of the training images, made by unmask cache build; nothing is mixed then."""
    workers: int = 0
    """Processes that prepare batches."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask finetune")
    if arguments.out is None and not arguments.judge_only:
        raise InputError("give --out FOLDER for the run, or --judge-only")
    subject = open_subject(arguments.model, pool=arguments.options.pool)
    data = open_data(arguments.data, arguments.cache, arguments.workers, subject)
    if arguments.out is None or arguments.judge_only:
        found = judge(subject, data, arguments.options)
        print(found.table(data.class_names))
        print(f"accuracy {found.top1:.4f}, among five {found.top5:.4f}")
        return
    say(finetune(subject, data, arguments.options, out=arguments.out), arguments.out)
