"""Everything that computes, on the pretend device, in a process of its own.

    python pretend_work.py sampling FOLDER     # or training, the_rest

What was noted is told in FOLDER/told.json, by work, kind and place.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pretend_device
import torch
from PIL import Image

SYSTEMS = ("maskgit", "mage", "mar", "emigm", "selfguidance")
LARGEST = 2e-4  # difference of latents from the CPU's, of which the largest are about 5

told: dict[str, Any] = {}


@contextmanager
def told_as(work: str) -> Iterator[None]:
    """Report what is noted inside."""
    with pretend_device.noted() as notes:
        yield
    told[work] = notes


def watched(function: Callable, work: str, found: dict[str, Any]) -> Callable:
    """A function whose notes are kept apart, summed over its calls."""

    def call(*args: Any, **named: Any) -> Any:
        """Carry it out and add up."""
        with pretend_device.noted() as notes:
            result = function(*args, **named)
        kinds = found.setdefault(work, {})
        for kind, places in notes.items():
            kinds.setdefault(kind, Counter()).update(places)
        return result

    return call


def faults() -> None:
    """One of each kind that the device is there to note."""
    with told_as("faults"):
        torch.ones(2).to(pretend_device.NAME, non_blocking=True)
        there = torch.ones(2).to(pretend_device.NAME)
        there = there + torch.ones(2).pin_memory().to(pretend_device.NAME, non_blocking=True)
        there + torch.ones(2)
        there[there > 1].sum().item()
        there[torch.tensor([0])].cpu()
    for asked in (there.double, lambda: torch.zeros(2, device=there.device, dtype=torch.float64)):
        try:
            asked()
        except TypeError:
            continue
        raise AssertionError("the device has no float64")


def sampling(folder: Path) -> None:
    """Images of every shipped system by the CPU and by the device, step by step."""
    import unmask
    from unmask import decode
    from unmask.counts import FixedCounts

    class Waiting(FixedCounts):
        """Counts that a step's probabilities might change."""

        needs_density = True

    faults()
    step = decode._Batch.advance
    for system in SYSTEMS:
        name = f"fashion-{system}"
        here, there = unmask.load(name), unmask.load(name, device=pretend_device.NAME)
        labels = [0, 3] if here.model.classes else None
        plan = replace(here.plan, steps=6)
        wanted = here(labels, seeds=range(2), plan=plan)
        decode._Batch.advance = watched(step, f"{name} steps", told)  # type: ignore[assignment]
        with told_as(name):
            images = there(labels, seeds=range(2), plan=plan)
        decode._Batch.advance = step  # type: ignore[method-assign]
        apart = (images.tokens.cpu() - wanted.tokens).abs().max().item()
        assert images.tokens.device.type == pretend_device.NAME
        assert apart <= (LARGEST if here.model.channels else 0), f"{apart} from the CPU's"
    plan = decode.Plan(steps=6, counts=Waiting())
    assert plan.waits
    decode._Batch.advance = watched(step, "waiting steps", told)  # type: ignore[assignment]
    unmask.load("fashion-mage", device=pretend_device.NAME).tokens(seeds=[0], plan=plan)


def write_images(folder: Path, count: int = 60) -> None:
    """Grey images of 28 pixels in ten classes."""
    for index in range(count):
        file = folder / f"class{index % 10}" / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = np.arange(28, dtype=np.uint8)[:, None] * (index + 1)
        Image.fromarray(np.repeat(rows, 28, axis=1)).save(file)


def run(work: str, *words: object) -> None:
    """A command of ours, on the device by itself."""
    from unmask.cli import main

    with told_as(work):
        assert main(list(map(str, words))) == 0, work


def caches(folder: Path) -> None:
    """Images, and codes and moments of them."""
    write_images(folder / "images")
    for kind in ("vq", "kl"):
        words = ("--tokenizer", f"fashion-{kind}", "--data", folder / "images", "--image-size", 28)
        run(f"cache {kind}", "cache", "build", *words, "--no-flip", "--out", folder / kind)


def training(folder: Path) -> None:
    """Caches, two steps of every system, and of one that continues a base."""
    from unmask.train import loop

    step = loop.optimise_step
    caches(folder)
    brief = ("--training.batch-size", 8, "--training.steps", 2, "--training.tracker", "none")
    for system in (*SYSTEMS, "base"):
        name, latent = f"fashion-{system}", system in ("mar", "emigm")
        recipe = "fashion-maskgit" if system == "base" else name
        words = ["train", recipe, "--cache", folder / ("kl" if latent else "vq"), *brief]
        words += ["--base", "fashion-maskgit"] if system == "base" else []
        words += ["--training.preview-images", 2 if system == "base" else 0]
        loop.optimise_step = watched(step, f"{name} steps", told)
        run(name, *words, "--out", folder / system)


def the_rest(folder: Path) -> None:
    """Scores, features, inpainting, probe and fine-tuning of an encoder."""
    import unmask
    from unmask.edit import inpaint
    from unmask.train import loop

    write_images(folder / "images")
    of = ("--data", folder / "images")
    run("eval", "eval", "fashion-maskgit", *of, "--count", 10, "--out", folder / "scores.json")
    run("features", "features", "fashion-mage", *of, "--out", folder / "features.npy")
    hole = torch.zeros(28, 28, dtype=torch.bool)
    hole[8:20, 8:20] = True
    for name in ("fashion-maskgit", "fashion-mar"):
        pipeline = unmask.load(name, device=pretend_device.NAME)
        with told_as(f"inpaint {name}"):
            inpaint(pipeline, torch.rand(2, 1, 28, 28), hole, [0, 1], seeds=0, blend_radius=2)
    step = loop.optimise_step
    course = ("--batch-size", 8, "--epochs", 1, "--warmup-epochs", 0, "--crop", "none", "--no-flip")
    for work, start in (("probe", "fashion-mage"), ("finetune", folder / "probe" / "last")):
        loop.optimise_step = watched(step, f"{work} steps", told)
        given = ("--data", folder / "images", *course, "--out", folder / work)
        run(work, work, start, *given, *(("--mixing.group", 8) if work == "finetune" else ()))


if __name__ == "__main__":
    pretend_device.install()
    globals()[sys.argv[1]](Path(sys.argv[2]))
    Path(sys.argv[2], "told.json").write_text(json.dumps(told), encoding="utf8")
