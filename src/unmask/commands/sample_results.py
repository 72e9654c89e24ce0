"""What ``unmask sample`` writes into its folder, and what was there before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from unmask.commands.sample_parts import Arrays, Parts, Pictures
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.evaluate.image_sets import pack_npz
from unmask.files.durable import (
    aside_of,
    clear_leftovers,
    explained,
    move,
    output,
    sync_file,
    sync_folder,
)
from unmask.files.folders import check_file, check_folder, claim, fates, visible
from unmask.files.serial import to_dict
from unmask.generation import compute_of
from unmask.machine.processes import LATE
from unmask.pictures import sheet, usual_zoom, write_gif, write_png
from unmask.pipeline import Pipeline
from unmask.tokenizers.tokenizer import weights_identity
from unmask.train.run_folder import flat_config

Format = Literal["grid", "png", "folder", "npz", "tokens"]
IMAGES = "images"  # the flat folder
FILES = {"grid": "samples.png", "folder": IMAGES, "npz": "samples.npz", "tokens": "tokens.npz"}
FILM = ("film.png", "film.gif")
SETTINGS = ".samples.json"  # says what made the images of a folder


@dataclass
class Results:
    """The folder of one call, whose images have numbers in the order in which they are written.

    Args:
        out: Folder of the results; need not exist.
        format: What the images become.
        film: Whether the unmasking of some images is shown as well.
        before: Files that the folder held before the call.
    """

    out: Path
    format: Format
    film: bool
    before: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Check the place of every file.

        Raises:
            InputError: the folder cannot take what the call will write.
        """
        if self.film and self.format == "tokens":
            raise InputError("--film shows pixels; leave it out with --format tokens")
        check_folder(self.out, "results", may_hold=lambda: True)
        self.before = visible(self.out)
        for name in self._files():
            check_file(self.out / name, "results")
        if self.format == "folder":
            images = self.out / IMAGES
            check_folder(images, "image set", may_hold=(images / SETTINGS).exists)
        if self.format == "png":
            self._check_set()

    def _files(self) -> list[str]:
        named = [FILES[self.format]] if self.format not in ("png", "folder") else []
        return [*named, *(FILM if self.film else ())]

    def _check_set(self) -> None:
        """Refuse other PNG files: whoever reads the folder takes them all for one set."""
        others = sorted(self.out.rglob("*.png"))
        if others and not (self.out / SETTINGS).exists():
            raise InputError(
                f"{self.out} holds {str(others[0].relative_to(self.out))!r} of another command, "
                "which would be taken for one of these images; name a new folder (--out)"
            )

    @property
    def by_class(self) -> bool:
        """Whether images are written class by class; evaluators are given the classes in turn."""
        return self.format not in ("npz", "folder")

    def parts(self, labels: Sequence[int] | None, seeds: Sequence[int]) -> Parts:
        """Where finished images wait, given the label and the seed of each."""
        if self.format == "png":
            folders = ["." if labels is None else f"class_{label}" for label in labels or seeds]
            names = [f"{name}/{seed}.png" for name, seed in zip(folders, seeds, strict=True)]
            return Pictures(self.out, names)
        final = self.out / FILES[self.format]
        waiting = final.with_name(f".{final.name}.parts")
        if self.format != "folder":
            return Arrays(waiting)
        done = (final / SETTINGS).exists()
        return Pictures(final if done else waiting, [f"{n:06d}.png" for n in range(len(seeds))])

    def settings(
        self, pipeline: Pipeline, plan: Plan, request: Mapping[str, str]
    ) -> dict[str, str]:
        """Everything that decides the images; not the request of PNG files, which may come back.

        Raises:
            InputError: the images want a tokenizer, and the system has none.
        """
        weights = weights_identity(repr(pipeline.recipe), pipeline.model.state_dict().items())
        found = {"weights": weights}
        if self.format != "tokens":
            found["tokenizer"] = pipeline.tokenizer.identity
        found |= {f"plan.{name}": str(value) for name, value in flat_config(to_dict(plan))}
        if (compute := str(compute_of(pipeline))) != "float32":  # as all were before the choice
            found["compute"] = compute
        return found if self.format == "png" else {**found, **request}

    def claim(self, parts: Parts, settings: Mapping[str, str]) -> None:
        """Make the folder of finished images that of one piece of work.

        Raises:
            InputError: when it holds images of another.
        """
        clear_leftovers(self.out)
        waits = parts.folder not in (self.out, self.out / IMAGES)
        what = "unfinished set of samples" if waits else "set of samples"
        option = "--out, or delete that one" if waits else "--out"
        claim(parts.folder, settings, what, file=SETTINGS, option=option, alone=waits)

    def finish(
        self, parts: Parts, labels: Sequence[int] | None, seeds: Sequence[int], columns: int
    ) -> None:
        """Make the result of what is finished; ``columns`` of a contact sheet.

        Raises:
            InputError: the disk is full or refuses, or images that other processes made do not
                lie where this one looks; finished images stay.
        """
        _wait_for(parts, len(seeds))
        if isinstance(parts, Pictures):
            if parts.folder not in (self.out, self.out / IMAGES):
                _rename(parts.folder, self.out / IMAGES)
            return
        assert isinstance(parts, Arrays), "what is not pictures is arrays"
        final = self.out / FILES[self.format]
        if self.format == "npz":
            _, channels, height, width = next(parts.read()).shape
            shape = (len(seeds), height, width, channels)
            blocks = (part.transpose(0, 2, 3, 1).tobytes() for part in parts.read())
            with output(final) as aside:
                pack_npz(aside, shape, labels or (), blocks)
        elif self.format == "grid":
            pixels = torch.from_numpy(np.concatenate(list(parts.read())))  # (N, C, H, W) uint8
            write_png(sheet(pixels, columns, zoom=usual_zoom(pixels)), final)
        else:
            arrays = {"tokens": np.concatenate(list(parts.read())), "seeds": np.array(seeds)}
            if labels:
                arrays["labels"] = np.array(labels)
            with output(final) as aside, aside.open("wb") as file:
                np.savez(file, allow_pickle=False, **arrays)
        with explained(parts.folder, f"{final} is whole"):
            gone = aside_of(parts.folder)
            try:
                move(parts.folder, gone)
            finally:
                shutil.rmtree(gone, ignore_errors=True)

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


def _wait_for(parts: Parts, count: int) -> None:
    """Make sure that images of other machines are here; network file systems show them late."""
    end = time.monotonic() + LATE
    while left := parts.missing(count):
        if time.monotonic() >= end:
            raise InputError(
                f"{len(left)} of {count} images are not in {parts.folder} as the main process sees "
                "it; give a folder that all machines share (--out), and start again"
            )
        time.sleep(1)


def _rename(waiting: Path, final: Path) -> None:
    """Give a folder of whole pictures its name, once the disk has them."""
    with explained(final, "finished images are whole"):
        for place in waiting.iterdir():
            sync_file(place)
        sync_folder(waiting)
        move(waiting, final)
        sync_folder(final.parent)
