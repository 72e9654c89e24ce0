"""``unmask features``: an encoder's features of a data set, and what they are worth untrained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from torch import nn

from unmask.commands.arguments import parse
from unmask.commands.sources import Images, open_images
from unmask.data.source import ImageSource, open_source
from unmask.data.transform import StillCrop, Transform
from unmask.errors import InputError
from unmask.files.folders import check_file, claim
from unmask.machine.devices import resolve_device
from unmask.machine.processes import by_main, check_shared, launched, part
from unmask.probe import extract
from unmask.probe.classifier import open_classifier
from unmask.probe.linear import frozen
from unmask.probe.settings import FeatureOptions
from unmask.probe.training import fit_size
from unmask.ranges import Between, Name, Place
from unmask.text import say
from unmask.tokenizers.tokenizer import Tokenizer, weights_identity

SETTINGS = "settings.json"


@dataclass(frozen=True, kw_only=True)
class Arguments(FeatureOptions):
    """Write features of all images, and say how often their nearest neighbours name them rightly.

    The accuracy is DINO's: votes of the nearest training images by cosine similarity s, weighted by
    exp(s / 0.07), for every held-out image. Several processes share the images: torchrun
    --nproc-per-node 8 -m unmask.cli features ...
    """

    model: Annotated[Place, tyro.conf.Positional]
    """MAGE model, run, folder of unmask finetune, or fine-tuned file of the MAGE project."""
    data: Images
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist."""
    out: Path
    """NAME.npy, for features of the training side: (N, D) float32 in the order of the data. Labels
    go to NAME.labels.npy, the held-out side to NAME.val.npy and NAME.val.labels.npy."""
    work: Path | None = None
    """Folder for finished parts, from which a killed command goes on; it can be deleted at the end.
    None keeps nothing."""
    crop: StillCrop = "inner"
    """Crop that gives the images of both sides their size."""
    neighbours: Annotated[int, Between(1, 10**6)] = 20
    """Nearest training images that vote on the class of a held-out one."""
    batch_size: Annotated[int, Between(1, 10**6)] = extract.BATCH
    """Images computed at once: more want more memory, and on a GPU less time."""
    device: Name = "auto"
    """Device that computes: cpu, cuda, mps; auto takes the machine's accelerator if it has one."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask features")
    if arguments.out.suffix != ".npy":
        raise InputError(f"--out {arguments.out} must end in .npy")
    held_out = arguments.out.with_suffix(".val.npy")
    for path in (arguments.out, held_out):
        check_file(path, "features")
        check_file(extract.labels_beside(path), "labels")
    sides = {
        arguments.out: open_images(arguments.data, speaks=launched().is_main_process),
        held_out: open_source(arguments.data, split="val"),
    }
    classifier = open_classifier(arguments.model, pool=arguments.pool)
    size = fit_size(classifier, arguments)
    device, tokenizer = resolve_device(arguments.device), classifier.tokenizer
    batch_size = arguments.batch_size
    encoder, encode = classifier.model.encoder.to(device), tokenizer.to(device).encode
    transform = Transform(size=size, crop=arguments.crop, channels=tokenizer.image_channels)
    if work := arguments.work:
        by_main(lambda: _claim(work, arguments.pool, encoder, transform, tokenizer, sides.values()))
        check_shared(work / SETTINGS)
    found = []
    for path, source in sides.items():
        wanted = extract.Extraction(source, transform, frozen(encoder, encode), device, batch_size)
        kept = work and work / ("held-out" if path == held_out else "training")
        features, labels = extract.write_features(wanted, path, kept=kept)
        if launched().is_main_process:
            say(f"{len(features)} features of {features.shape[1]} numbers in {path}")
        found += [features[labels >= 0], labels[labels >= 0]]
    if all(map(len, found)):
        share = extract.knn_accuracy(*found, k=arguments.neighbours)
        say(f"nearest-neighbour accuracy {share:.4f} (k = {arguments.neighbours})")
    part()


def _claim(
    work: Path,
    pool: str,
    encoder: nn.Module,
    transform: Transform,
    tokenizer: Tokenizer,
    sides: Iterable[ImageSource],
) -> None:
    """Make a folder that of these features."""
    facts = {
        "weights": weights_identity(pool, encoder.state_dict().items()),
        "tokenizer": tokenizer.identity,
        "transform": str(transform),
        "images": ", ".join(map(extract.images_identity, sides)),
    }
    claim(work, facts, "features", file=SETTINGS, option="--work")
