"""A set is made by any number of processes, and goes on where it was broken off."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import forked, status
from gloo import joined
from toy_latents import latent_pipeline
from toy_system import toy_pipeline

from unmask.cli import main
from unmask.commands import sample
from unmask.commands.sample_parts import Arrays, Parts, Pictures
from unmask.errors import InputError
from unmask.files import durable
from unmask.generation import generate, generate_tokens

FORMATS = ("grid", "png", "folder", "npz", "tokens", "film")
IMAGES = 12  # four of each class
PART = re.compile(r"\d+(-\d+)?\.(npy|png)")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of codes and one of latents."""
    root = tmp_path_factory.mktemp("models")
    toy_pipeline().save_pretrained(root / "codes")
    latent_pipeline().save_pretrained(root / "latents")
    return root


@pytest.fixture(scope="module")
def alone(models: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """What one process writes, undisturbed."""
    return {
        (model, form): made(models, model, form, models / f"alone-{model}-{form}")
        for model in ("codes", "latents")
        for form in FORMATS
    }


def words(models: Path, model: str, form: str, out: Path, *more: str) -> list[str]:
    asked = f"sample {models / model} --device cpu --per-class 4 --steps 2 --batch-size 3"
    wanted = ["--film"] if form == "film" else ["--format", form]
    return [*asked.split(), *wanted, "--out", str(out), *more]


def made(models: Path, model: str, form: str, out: Path, *more: str) -> dict[str, bytes]:
    assert main(words(models, model, form, out, *more)) == 0
    return contents(out)


def contents(out: Path) -> dict[str, bytes]:
    """Files below a folder, the hidden ones too."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


class Watched:
    """Counts the images that are made; kills its process at the last ones if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, kills: Path | None = None) -> None:
        self.seeds, self.kills = list[int](), kills
        for name, real in (("generate", generate), ("generate_tokens", generate_tokens)):
            monkeypatch.setattr(sample, name, self.watching(real))

    def watching(self, real: Callable[..., Iterator]) -> Callable[..., Iterator]:
        def batches(*args: Any, **options: Any) -> Iterator:
            for batch in real(*args, **options):
                self.seeds += batch.seeds
                if self.kills and len(self.seeds) == IMAGES:
                    while not [p for p in self.kills.rglob("*.*") if PART.fullmatch(p.name)]:
                        time.sleep(0.01)  # what was made before is written meanwhile
                    os.kill(os.getpid(), signal.SIGKILL)
                yield batch

        return batches


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("model", ["codes", "latents"])
def test_processes_equal_one_and_go_on_where_one_was_killed(
    model: str,
    form: str,
    models: Path,
    alone: dict[tuple[str, str], dict[str, bytes]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"

    def killed() -> None:
        Watched(monkeypatch, kills=out)
        main(words(models, model, form, out))

    assert status(forked(killed)) == -signal.SIGKILL

    def body(rank: int) -> None:
        watched = Watched(monkeypatch)
        assert main(words(models, model, form, out)) == 0
        (tmp_path / f"made-{rank}").write_text(json.dumps(watched.seeds))

    count = {"codes": 2, "latents": 4}[model]
    assert joined(count, body) == [0] * count
    seeds = [json.loads((tmp_path / f"made-{rank}").read_text()) for rank in range(count)]
    assert sum(map(bool, seeds)) > 1, "several made some"
    again = [seed for own in seeds for seed in own]
    assert capfd.readouterr().out.count(f"{IMAGES} images in") == 1
    assert len(set(again)) == len(again) < IMAGES, "what is finished is not made again"
    assert contents(out) == alone[model, form]


def test_machines_that_do_not_share_the_folder_are_told(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("unmask.commands.sample_results.LATE", 0.0)

    def body(rank: int) -> None:
        (tmp_path / str(rank)).mkdir()
        os.chdir(tmp_path / str(rank))
        assert main(words(models, "codes", "npz", Path("out"))) == 2

    assert joined(2, body) == [0, 0]
    (line,) = capfd.readouterr().err.splitlines()
    assert "6 of 12 images are not in out/.samples.npz.parts as the main process sees it" in line
    assert not (tmp_path / "0" / "out" / "samples.npz").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--plan.first-step", "2"], "plan.first_step=2 must be below plan.steps=2"),
        (["--classes", "cow"], "unknown class 'cow'"),
        (["--plan.draw.solver", "ddim"], "plan.draw.solver is of DiffusionDraw"),
    ],
)
def test_what_does_not_fit_is_said_once(
    more: list[str], said: str, models: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def body(rank: int) -> None:
        assert main(words(models, "codes", "npz", tmp_path / "out", *more)) == 2

    assert joined(2, body) == [0, 0]
    (line,) = capfd.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", FORMATS)
def test_a_set_that_is_there_already_by_the_same_words(
    form: str, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = made(models, "codes", form, tmp_path / "out")
    capsys.readouterr()
    assert made(models, "codes", form, tmp_path / "out") == first
    told = capsys.readouterr().out
    if form in ("png", "folder"):
        assert "12 images in" in told
        assert "12 of which were there" in told
    else:
        assert "replaced what an earlier command wrote" in told


def broken_off(models: Path, form: str, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed() -> None:
        Watched(monkeypatch, kills=out)
        main(words(models, "codes", form, out))

    assert status(forked(killed)) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--seed", "9"], "seed was '0' and is '9' now"),
        (["--classes", "Dog"], "classes was 'every class' and is '[1]' now"),
        (["--steps", "3"], "plan.steps was '2' and is '3' now"),
    ],
)
def test_an_unfinished_set_of_other_settings_is_refused_in_one_line(
    more: list[str],
    said: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken_off(models, "npz", tmp_path / "out", monkeypatch)
    before = contents(tmp_path / "out")
    assert main(words(models, "codes", "npz", tmp_path / "out", *more)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"holds another unfinished set of samples: {said}" in line
    after = contents(tmp_path / "out")
    assert all(after[name] == before[name] for name in after)


def test_parts_of_nobody_are_not_taken_for_ones_own(
    models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a process would leave them that was taken for dead and writes once more."""
    Arrays(tmp_path / ".samples.npz.parts").keep([0], torch.zeros(1, 3, 16, 16))
    assert main(words(models, "codes", "npz", tmp_path)) == 2
    assert "but no unfinished set of samples" in capsys.readouterr().err


def test_a_damaged_part_and_a_cut_picture(
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    broken_off(models, "npz", tmp_path / "arrays", monkeypatch)
    part = next((tmp_path / "arrays").rglob("*.npy"))
    part.write_bytes(part.read_bytes()[:200])
    assert main(words(models, "codes", "npz", tmp_path / "arrays")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{part} is damaged" in line
    part.unlink()
    whole = made(models, "codes", "npz", tmp_path / "whole")
    assert made(models, "codes", "npz", tmp_path / "arrays") == whole

    first = made(models, "codes", "png", tmp_path / "pictures")
    picture = next((tmp_path / "pictures").rglob("*.png"))
    picture.write_bytes(picture.read_bytes()[:-3])
    assert made(models, "codes", "png", tmp_path / "pictures") == first


@pytest.mark.parametrize("form", ["png", "npz"])
def test_a_disk_that_is_full_is_one_line_from_the_background_too(
    form: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(self: Parts, numbers: object, values: object) -> None:
        with durable.explained(tmp_path / "out", "finished images are whole"):
            raise OSError(errno.ENOSPC, "No space left on device")

    for kind in (Arrays, Pictures):
        monkeypatch.setattr(kind, "keep", full)
    assert main(words(models, "codes", form, tmp_path / "out")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in line
    assert not (tmp_path / "out" / ".lock").exists()


def test_files_that_overlap_give_each_image_once(tmp_path: Path) -> None:
    """Whoever was taken for dead may write once more, and what it writes is the same."""
    parts, every = Arrays(tmp_path), torch.arange(10)
    parts.keep([2, 3, 4], every[2:5])
    parts.keep([0, 1, 6], every[[0, 1, 6]])
    assert parts.missing(10) == [5, 7, 8, 9]
    parts.keep([3, 4, 5, 7, 8, 9], every[[3, 4, 5, 7, 8, 9]])
    assert [int(value) for part in parts.read() for value in part] == list(range(10))
    assert parts.missing(10) == []


def test_writing_waits_where_it_is_slower_and_hands_on_what_failed(tmp_path: Path) -> None:
    class Slow(Parts):
        folder = tmp_path
        at_once = most = 0

        def missing(self, count: int) -> list[int]:
            return []

        def keep(self, numbers: Any, values: object) -> None:
            Slow.at_once += 1
            Slow.most = max(Slow.most, Slow.at_once)
            time.sleep(0.02)
            Slow.at_once -= 1
            if list(numbers) == [9]:
                raise InputError("the disk refuses")

    def write_ten() -> None:
        with Slow().writing() as write:
            for number in range(10):
                write([number], torch.zeros(1))

    with pytest.raises(InputError, match="the disk refuses"):
        write_ten()
    assert 1 < Slow.most <= 4
