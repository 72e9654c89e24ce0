"""The cache of a training: what it is made from, where it lies, whether it is what was built."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unmask.cli import main

OLD = Path(__file__).parents[1] / "fixtures" / "before_issue_11"
WORDS = (
    "train fashion-maskgit --tokenizer vq --image-size 16 --network.length 16 --network.width 16 "
    "--network.depth 1 --network.heads 2 --network.classes 2 --network.codes 32 --plan.steps 2 "
    "--training.tracker none --training.batch-size 8 --training.preview-every 0"
)
Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Run:
    """A training of few steps, in a folder that holds data and a tokenizer."""
    for name in ("data", "vq"):
        shutil.copytree(OLD / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)

    def _run(words: str, steps: int = 1) -> tuple[int, str]:
        status = main([*f"{WORDS} {words} --training.steps {steps}".split()])
        said = capsys.readouterr()
        assert len(said.err.splitlines()) <= 1 or status != 2
        return status, said.out + said.err

    return _run


def invert(file: str) -> None:
    pixels = 255 - np.asarray(Image.open(file))
    Image.fromarray(pixels).save(file)


def test_images_that_changed_under_their_names_are_named(run: Run) -> None:
    assert run("--data data --out r")[0] == 0
    invert("data/train/cat/03.png")
    status, said = run("--data data --out r", steps=2)
    assert status == 2
    assert "1 of other bytes (train/cat/03.png)" in said
    assert "--cache-folder" in said
    assert "--rebuild-cache" in said
    # another cache, made of the images of now, is not what this run was made from
    for way in ("--cache-folder other", "--rebuild-cache"):
        status, said = run(f"--data data --out r {way}", steps=2)
        assert status == 2
        assert "made_from.content" in said
    assert run("--data data --out new --cache-folder other")[0] == 0
    assert not Path("new-cache").exists()


def test_added_and_removed_images_are_named(run: Run) -> None:
    assert run("--data data --out r")[0] == 0
    Path("data/train/cat/03.png").rename("data/train/cat/99.png")
    status, said = run("--data data --out r", steps=2)
    assert status == 2
    assert "1 added (train/cat/99.png), 1 removed (train/cat/03.png)" in said


def test_a_moved_data_set_is_the_same(run: Run) -> None:
    assert run("--data data --out r")[0] == 0
    shutil.move("data", "moved")
    assert run("--data moved --out r", steps=2)[0] == 0
    shutil.copytree("moved", "copied", copy_function=shutil.copyfile)  # with new times
    assert run("--data copied --out r", steps=3)[0] == 0


def test_a_foreign_or_damaged_shard_is_not_trained_on(run: Run) -> None:
    assert run("--data data --out r")[0] == 0
    shard = Path("r-cache/codes-00000.npy")
    whole = shard.read_bytes()
    np.save(shard, np.random.default_rng(0).integers(0, 32, np.load(shard).shape, np.uint16))
    status, said = run("--cache r-cache --out r", steps=2)
    assert status == 2
    assert "not those that were built: codes-00000.npy" in said
    status, said = run("--data data --out r", steps=2)
    assert status == 0
    assert "1 shards of r-cache are damaged" in said
    assert shard.read_bytes() == whole
    np.save(shard, np.full_like(np.load(shard), 60000))
    status, said = run("--cache r-cache --out r --verify-cache never", steps=3)
    assert status == 2
    assert "codes-00000.npy holds the code 60000" in said


def test_options_that_would_do_nothing_are_refused(run: Run) -> None:
    assert run("--data data --out r")[0] == 0
    for option in ("--rebuild-cache", "--cache-folder x"):
        status, said = run(f"--cache r-cache --out r {option}")
        assert status == 2
        assert "leave it out" in said


def test_a_cache_of_an_older_revision_is_taken_with_a_word(run: Run) -> None:
    shutil.copytree(OLD / "run-cache", "r-cache")
    status, said = run("--data data --out r")
    assert status == 0
    assert "r-cache is of an older revision" in said


def test_a_run_of_an_older_revision_goes_on_with_a_word(run: Run) -> None:
    """Its configuration does not tell the content of the images; that of the next save does."""
    shutil.copytree(OLD / "run-cache", "r-cache")
    assert run("--data data --out r")[0] == 0
    shutil.rmtree("r-cache")
    status, said = run("--data data --out r", steps=2)
    assert status == 0
    assert "r or its cache is of an older revision, which did not note made_from.content" in said
    status, said = run("--data data --out r", steps=3)
    assert status == 0
    assert "older revision" not in said
    invert("data/train/cat/03.png")
    status, said = run("--data data --out r --rebuild-cache", steps=4)
    assert status == 2
    assert "made_from.content" in said
