"""``unmask finetune``: MAGE's encoder learns to name classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.probe import Shared, conclude
from unmask.machine.processes import part, say_once
from unmask.probe.finetune import finetune
from unmask.probe.settings import FinetuneOptions
from unmask.probe.training import judge


@dataclass(frozen=True, kw_only=True)
class Arguments(Shared):
    """Train encoder and head together on labelled images; started again, it continues.

    Without --out it only judges a classifier. Several processes: torchrun --nproc-per-node 8 -m
    unmask.cli finetune MODEL ...
    """

    out: Path | None = None
    """Run folder: checkpoints, best/, last/, accuracy.jsonl, and tables of classes in samples/.
    None trains and writes nothing: MODEL is judged as it is."""
    options: Annotated[FinetuneOptions, tyro.conf.arg(name="")] = field(
        default_factory=FinetuneOptions
    )
    """How the classifier is trained."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask finetune")
    options, out, anew = arguments.options, arguments.out, arguments.from_scratch
    classifier, data = arguments.opened(options.pool)
    if out is not None:
        return conclude(finetune(classifier, data, options, out=out, from_scratch=anew), out)
    found = judge(classifier, data.held_out, options)
    say_once(*found.table(data.held_out.class_names).splitlines())
    say_once(f"accuracy {found.top1:.4f}, among five {found.top5:.4f}")
    part()
