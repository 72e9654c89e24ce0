"""``unmask probe``: what a frozen encoder's features say about classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from unmask.commands.arguments import parse
from unmask.commands.sources import Images, open_images
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.machine.processes import launched, part, say_once
from unmask.probe.classifier import Classifier, open_classifier
from unmask.probe.encoder import Pool
from unmask.probe.linear import probe
from unmask.probe.settings import ProbeOptions
from unmask.probe.training import LabelledData
from unmask.ranges import Place, Ranged, Workers


@dataclass(frozen=True, kw_only=True)
class Shared(Ranged):
    """Arguments of the commands that train a classifier."""

    model: Annotated[Place, tyro.conf.Positional]
    """MAGE model, run, folder of unmask finetune, or fine-tuned file of the MAGE project."""
    data: Images
    """Labelled images: class folders, WebDataset tars, IDX files, Parquet, avatars or
    fashion-mnist."""
    cache: Path | None = None
    """Codes of the training images (unmask cache build); None encodes images in every step."""
    workers: Workers = 0
    """Processes that prepare batches; 0 prepares them in the process that trains."""
    from_scratch: bool = False
    """Start anew where OUT has checkpoints and none of them is whole; they are set aside."""

    def opened(self, pool: Pool) -> tuple[Classifier, LabelledData]:
        """The model, and both sides of the data set with the cache if there is one."""
        classifier = open_classifier(self.model, pool=pool)
        identity, cache = classifier.tokenizer.identity, self.cache
        return classifier, LabelledData(
            train=open_images(self.data, speaks=launched().is_main_process),
            held_out=open_source(self.data, split="val"),
            cache=None if cache is None else LatentCache.open(cache, tokenizer_identity=identity),
            workers=self.workers,
        )


@dataclass(frozen=True, kw_only=True)
class Arguments(Shared):
    """Train a linear classifier on MAGE's frozen features; started again, it continues.

    Several processes: torchrun --nproc-per-node 8 -m unmask.cli probe MODEL ...
    """

    out: Path
    """Run folder: checkpoints, best/, last/, accuracy.jsonl, and tables of classes in samples/."""
    options: Annotated[ProbeOptions, tyro.conf.arg(name="")] = field(default_factory=ProbeOptions)
    """How the classifier is trained."""


def conclude(lines: list[dict[str, float]], out: Path) -> None:
    """Print what a run came to, on the main process, and leave the others."""
    best, last = max(lines, key=lambda line: line["accuracy"]), lines[-1]
    say_once(
        f"accuracy {last['accuracy']:.4f} at the end, {best['accuracy']:.4f} at best (after "
        f"epoch {best['epoch']}); of each class: {out}/samples"
    )
    part()


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask probe")
    options, out = arguments.options, arguments.out
    classifier, data = arguments.opened(options.pool)
    conclude(probe(classifier, data, options, out=out, from_scratch=arguments.from_scratch), out)
