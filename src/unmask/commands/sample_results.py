"""What ``unmask sample`` writes into its folder, and what was there before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unmask.decode import Plan
from unmask.errors import InputError
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.image_sets import write_folder, write_npz
from unmask.files.durable import clear_leftovers, output
from unmask.files.folders import check_file, check_folder, claim, fates, visible
from unmask.files.serial import to_dict
from unmask.generation import Images
from unmask.pictures import sheet, to_pil, to_uint8, usual_zoom, write_gif, write_png
from unmask.pipeline import Pipeline
from unmask.tokenizers.tokenizer import weights_identity
from unmask.train.run_folder import flat_config

Format = Literal["grid", "png", "folder", "npz", "tokens"]
FILES = {"grid": "samples.png", "npz": "samples.npz", "tokens": "tokens.npz"}
IMAGES = "images"  # the flat folder
FILM = ("film.png", "film.gif")
SETTINGS = ".samples.json"  # says what made the PNG files of a folder


@dataclass
class Results:
    """The folder of one call.

    Raises:
        InputError: at once, if it cannot take what the call will write.
    """

    out: Path
    """Folder of the results; need not exist."""
    format: Format
    """What the images become."""
    film: bool
    """Whether the unmasking of some images is shown as well."""
    before: list[str] = field(init=False)
    """Files that the folder held before the call."""

    def __post_init__(self) -> None:
        """Check the place of every file."""
        if self.film and self.format == "tokens":
            raise InputError("--film shows pixels; leave it out with --format tokens")
        check_folder(self.out, "results", may_hold=lambda: True)
        self.before = visible(self.out)
        for name in self._files():
            check_file(self.out / name, "results")
        if self.format == "folder":
            check_folder(self.out / IMAGES, "image set")
        if self.format == "png":
            self._check_set()

    def _files(self) -> list[str]:
        named = [FILES[self.format]] if self.format in FILES else []
        return [*named, *(FILM if self.film else ())]

    def _check_set(self) -> None:
        """Refuse other PNG files: whoever reads the folder takes them all for one set."""
        others = sorted(self.out.rglob("*.png"))
        if others and not (self.out / SETTINGS).exists():
            raise InputError(
                f"{self.out} holds {str(others[0].relative_to(self.out))!r} of another command, "
                "which would be taken for one of these images; name a new folder (--out)"
            )

    def claim(self, pipeline: Pipeline, plan: Plan) -> None:
        """Make a folder of PNG files that of one system and plan, which may come back for more.

        Raises:
            InputError: when it holds images of another.
        """
        if self.format != "png":
            return
        weights = weights_identity(repr(pipeline.recipe), pipeline.model.state_dict().items())
        settings = {"weights": weights, "tokenizer": pipeline.tokenizer.identity}
        settings |= {f"plan.{name}": str(value) for name, value in flat_config(to_dict(plan))}
        if pipeline.compute not in (None, "float32"):  # as all were before there was a choice
            settings["compute"] = str(pipeline.compute)
        claim(self.out, settings, "set of samples", file=SETTINGS, option="--out", alone=False)

    def write_tokens(self, tokens: Tensor, seeds: Sequence[int], labels: Sequence[int]) -> None:
        """Write ids as arrays, the labels only if there are some."""
        arrays = {"tokens": tokens.numpy(), "seeds": np.array(seeds)}
        if labels:
            arrays["labels"] = np.array(labels)
        with output(self.out / FILES["tokens"]) as aside, aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    @property
    def by_class(self) -> bool:
        """Whether images are written class by class; evaluators are given the classes in turn."""
        return self.format not in ("npz", "folder")

    def write_images(self, made: Iterable[Images], *, columns: int) -> None:
        """Write batches in the form that was asked for; ``columns`` of a contact sheet."""
        sets = ((to_uint8(some.pixels).cpu(), some.class_labels, some.seeds) for some in made)
        if self.format == "npz":
            write_npz(
                self.out / FILES["npz"], (ImageBatch(images, labels) for images, labels, _ in sets)
            )
        elif self.format == "folder":
            write_folder(self.out / IMAGES, (images for images, *_ in sets))
        elif self.format == "grid":
            pixels = torch.cat([images for images, *_ in sets])  # (N, C, H, W) uint8
            write_png(sheet(pixels, columns, zoom=usual_zoom(pixels)), self.out / FILES["grid"])
        else:
            for folder in (self.out, *self.out.glob("class_*/")):
                clear_leftovers(folder)
            for images, labels, seeds in sets:
                every = [None] * len(seeds) if labels is None else labels.tolist()
                names = ["." if label is None else f"class_{label}" for label in every]
                for image, name, seed in zip(images, names, seeds, strict=True):
                    place = self.out / name / f"{seed}.png"
                    write_png(to_pil(image), place, one_of_many=True)

    def write_film(self, frames: Tensor) -> None:
        """Write ``(S, B, C, H, W)`` images as a sheet with a row an image, and as an animation."""
        rows = frames.transpose(0, 1).flatten(0, 1)  # (B * S, C, H, W)
        still, moving = (self.out / name for name in FILM)
        write_png(sheet(rows, len(frames), zoom=usual_zoom(frames)), still)
        pictures = [sheet(frame, min(len(frame), 10), zoom=usual_zoom(frames)) for frame in frames]
        write_gif(pictures, moving)

    def told(self) -> list[str]:
        """What became of the things that were there before, a line each."""
        return fates(self.before, self._files())
