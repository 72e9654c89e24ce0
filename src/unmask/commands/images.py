"""``unmask images``: real images as a model or an evaluator sees them, for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unmask.commands.arguments import parse
from unmask.commands.sources import Images
from unmask.data.source import open_source
from unmask.data.split import Split
from unmask.data.transform import StillCrop, Transform
from unmask.evaluate.image_sets import write_folder, write_npz
from unmask.evaluate.real_images import real_batches
from unmask.files.folders import check_file, check_folder
from unmask.image_size import ImageSize
from unmask.ranges import Between, Ranged
from unmask.text import say, some


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Write images of a data set cut to one size: reference images for evaluators.

    As .npz they are what ADM's evaluator reads, with labels if there are any; as PNG files in one
    flat folder, what torch-fidelity and pytorch-fid read. Their order is random, always the same.
    MAGE's references are --crop center-bilinear of ImageNet's validation images, at 256 pixels.
    """

    data: Annotated[Images, tyro.conf.Positional]
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist."""
    out: Path
    """New folder for PNG files, or file that ends in .npz."""
    image_size: ImageSize = 256
    """Size of the images in pixels: one number for a square, or height and width."""
    crop: StillCrop = "center"
    """Crop to that size: center (ADM's), center-bilinear (torchvision's resize), inner
    (the central seven eighths), whole (squeezed), none (the files have it)."""
    split: Split = "val"
    """Side of the data set's split from which images are taken."""
    count: Annotated[int | None, Between(1, 10**9)] = None
    """Number of images to write; None means all of that side."""
    channels: Literal[1, 3] = 3
    """Channels of the images: 1 for grey, 3 for colour."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse(Arguments, words, prog="unmask images")
    out, packed = arguments.out, arguments.out.suffix == ".npz"
    if packed:
        check_file(out, "image set")
    else:
        check_folder(out, "image set")
    transform = Transform(
        size=arguments.image_size, crop=arguments.crop, channels=arguments.channels
    )
    source = open_source(arguments.data, split=arguments.split)
    say(*source.notes)
    skipped = list[str]()
    wanted = len(source) if arguments.count is None else arguments.count
    batches = real_batches(source, transform, count=wanted, skipped=skipped)
    if packed:
        written = write_npz(out, batches)
    else:  # without labels a folder is flat
        written = write_folder(out, (batch._replace(labels=None) for batch in batches))
    say(f"{written:,} images of {source.name} in {out}; {source.split_rule}")
    if skipped:
        say(f"{len(skipped):,} unreadable images left out: {some(skipped)}")
