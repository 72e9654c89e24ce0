"""From a folder of images to samples and scores through the command line, at toy size."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_run import latest
from toy_system import TOKENIZER, TOY, toy_pipeline, write_images

from unmask.cli import main
from unmask.data.cache import LatentCache
from unmask.files.serial import write_yaml
from unmask.pipeline import load
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.recipes.training import Training
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.state import read_checkpoint

STEPS = 6


def run(*words: object) -> int:
    return main(list(map(str, words)))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images with a damaged one, two recipes, a trained tokenizer and a trained generator."""
    root = tmp_path_factory.mktemp("place")
    write_images(root / "images" / "train", 36)
    write_images(root / "images" / "val", 12)
    whole = (root / "images" / "train" / "left" / "001.png").read_bytes()
    (root / "images" / "train" / "left" / "000-cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "images" / "val" / "right" / "text.png").write_text("not an image")
    small = Training(steps=3, batch_size=8, lr=1e-3, ema=None, preview_every=3)
    tokenizer = TokenizerRecipe(
        name="tiny-vq", summary="tiny", image_size=16, network=TOKENIZER, training=small
    )
    write_yaml(tokenizer, root / "vq.yaml")
    training = replace(TOY.training, steps=STEPS, save_every=2, preview_every=STEPS, log_every=1)
    network = replace(TOY.network, classes=2)
    write_yaml(replace(TOY, network=network, training=training), root / "toy.yaml")
    data = ["--data", root / "images"]
    assert run("tokenizer", "train", root / "vq.yaml", *data, "--out", root / "vq") == 0
    assert run("train", *words_of(root, "run")) == 0
    return root


def words_of(root: Path, out: str) -> list[object]:
    data = ["--data", root / "images", "--tokenizer", root / "vq"]
    return [root / "toy.yaml", *data, "--out", root / out]


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    folder = latest(run_folder / "checkpoints")
    assert folder is not None
    assert folder.name == f"step-{STEPS:07d}"
    return read_checkpoint(folder).weights["model"]


def test_what_training_leaves(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, STEPS + 1))
    assert {p.name for p in (place / "run" / "samples").iterdir()} == {
        f"step-{STEPS:07d}-{kind}.png" for kind in ("ema", "raw")
    }
    pipeline = load(place / "run")
    assert pipeline.class_names == ("left", "right")
    assert pipeline.tokenizer.identity == load_tokenizer(place / "vq").identity
    ema = read_checkpoint(latest(place / "run" / "checkpoints")).weights["ema"]
    assert all(torch.equal(t, ema[name]) for name, t in pipeline.model.state_dict().items())


def test_a_damaged_image_is_counted_and_named(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    cache = LatentCache.open(place / "run-cache")
    assert len(cache) == 36
    assert [name for name, _ in cache.skipped] == ["train/left/000-cut.png"]
    words = ["--tokenizer", place / "vq", "--data", place / "images", "--out", tmp_path / "c"]
    assert run("cache", "build", *words, "--image-size", 16) == 0
    out = capsys.readouterr().out
    assert "skipped train/left/000-cut.png" in out
    assert "1 of 37 images cannot be read and were left out" in out
    assert run("cache", "info", tmp_path / "c") == 0
    assert "36 in 1 shards, 2 views each" in capsys.readouterr().out
    assert run("cache", "verify", tmp_path / "c") == 0
    codes = tmp_path / "c" / "codes-00000.npy"
    codes.write_bytes(codes.read_bytes()[:-1] + b"\xff")
    capsys.readouterr()
    assert run("cache", "verify", tmp_path / "c") == 2
    assert "damaged, missing or foreign files: codes-00000.npy" in capsys.readouterr().err


def test_a_tokenizer_is_trained_in_spite_of_a_damaged_image(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["--data", place / "images", "--out", tmp_path / "vq", "--training.steps", 5]
    assert (
        run("tokenizer", "train", place / "vq.yaml", *words) == 0
    )  # 5 batches of 8 of 37: a whole epoch
    told = capsys.readouterr().out
    assert "1 of 37 images cannot be read and were replaced: train/left/000-cut.png" in told


def test_a_stopped_run_continues_bit_for_bit(place: Path, capsys: pytest.CaptureFixture) -> None:
    shutil.copytree(place / "run", place / "stopped")
    shutil.rmtree(place / "stopped" / "checkpoints" / f"step-{STEPS:07d}")
    shutil.rmtree(place / "stopped" / "model")
    words = [place / "toy.yaml", "--tokenizer", place / "vq", "--cache", place / "run-cache"]
    assert run("train", *words, "--out", place / "stopped") == 0
    whole, continued = weights(place / "run"), weights(place / "stopped")
    assert all(torch.equal(whole[name], continued[name]) for name in whole)
    assert (place / "stopped" / "model" / "model.safetensors").exists()
    capsys.readouterr()
    assert run("train", *words, "--out", place / "stopped", "--training.lr", 0.5) == 2
    error = capsys.readouterr().err
    assert "holds a run with other values of training.lr" in error
    assert all(torch.equal(weights(place / "stopped")[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_two_launched_processes_train_one_run(place: Path, tmp_path: Path) -> None:
    words = [*words_of(place, "run")[:-1], tmp_path / "two"]  # its cache stands beside it
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2"]
    command = [*launcher, "-m", "unmask.cli", "train", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("next: unmask sample") == 1, "only the main process speaks"
    one, two = weights(place / "run"), weights(tmp_path / "two")
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-4, atol=1e-6)


def test_one_batch_is_learnt_by_heart(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    shutil.copytree(place / "run-cache", tmp_path / "cache")
    words = [place / "toy.yaml", "--tokenizer", place / "vq", "--cache", tmp_path / "cache"]
    words += ["--overfit-one-batch", "--training.lr", 0.01, "--training.log-every", 50]
    words += ["--training.save-every", 0, "--training.batch-size", 2]
    assert run("train", *words, "--training.steps", 150, "--out", tmp_path / "yes") == 0
    assert "the run works: loss" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1"):  # for scripts that ask
        run("train", *words, "--training.steps", 1, "--out", tmp_path / "no")
    assert "the run does NOT work yet" in capsys.readouterr().out


def test_samples_in_every_form(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["sample", place / "run", "--per-class", 3, "--seed", 10, "--batch-size", 4]
    words += ["--device", "cpu", "--out", tmp_path]
    assert run(*words, "--film", "--steps", 4) == 0
    assert "6 images in" in capsys.readouterr().out
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4
    assert run(*words, "--format", "npz") == 0
    assert run(*words, "--format", "png", "--out", tmp_path / "set") == 0
    assert run(*words, "--format", "tokens") == 0
    made = load(place / "run")(["left"] * 3 + ["right"] * 3, seeds=10)
    with np.load(tmp_path / "tokens.npz") as file:
        assert np.array_equal(file["tokens"], made.tokens.numpy())
    with np.load(tmp_path / "samples.npz") as file:
        pixels = file["arr_0"]
        assert file["arr_1"].tolist() == [0, 1, 0, 1, 0, 1]
    assert run(*words, "--format", "folder") == 0
    for row, (label, seed) in enumerate(zip([0] * 3 + [1] * 3, range(10, 16), strict=True)):
        picture = np.asarray(Image.open(tmp_path / "set" / f"class_{label}" / f"{seed}.png"))
        place = 2 * (row % 3) + label  # the classes in turn
        assert np.array_equal(picture, pixels[place])
        flat = np.asarray(Image.open(tmp_path / "images" / f"{place:06d}.png"))
        assert np.array_equal(picture, flat)
        assert np.abs(picture / 255 - made.pixels[row].permute(1, 2, 0).numpy()).max() < 0.003
    assert Image.open(tmp_path / "samples.png").size == ((3 * 18 + 2) * 4, (2 * 18 + 2) * 4)


def test_samples_beside_earlier_ones(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing old enters a new result unnoticed, and what is left out is kept."""
    toy_pipeline().save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    words = ["sample", tmp_path / "model", "--device", "cpu", "--per-class", 2, "--out", out]
    assert run(*words, "--film") == 0
    (first,) = capsys.readouterr().out.splitlines()
    assert first.startswith(f"6 images in {out}/")
    (out / "notes.txt").write_text("mine")
    assert run(*words, "--seed", 5) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [
        "replaced what an earlier command wrote: samples.png",
        "there before, and left as it was: film.gif, film.png, notes.txt",
    ]
    before = {path: path.read_bytes() for path in out.rglob("*")}
    assert run(*words, "--format", "png") == 2
    assert "holds 'film.png' of another command" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in out.rglob("*")} == before


def test_a_set_of_pictures_grows_by_its_own_settings_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    out = tmp_path / "set"
    words = ["sample", tmp_path / "model", "--device", "cpu", "--format", "png", "--out", out]
    assert run(*words, "--per-class", 1, "--classes", 1) == 0
    first = (out / "class_1" / "0.png").read_bytes()
    (out / "class_1" / "0.png").unlink()
    assert run(*words, "--per-class", 2, "--classes", 1) == 0
    assert (out / "class_1" / "0.png").read_bytes() == first
    assert len(list(out.rglob("*.png"))) == 2
    assert run(*words, "--per-class", 1, "--steps", 3) == 2
    assert "holds another set of samples: plan.steps was '" in capsys.readouterr().err
    assert len(list(out.rglob("*.png"))) == 2


def test_other_orders_and_numbers_change_the_samples(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "model")
    base = ["sample", tmp_path / "model", "--format", "tokens", "--device", "cpu", "--per-class", 4]
    changes = [[], ["--order", "random"], ["--order", "raster"], ["--temperature", 0]]
    changes += [["--guidance-scale", 1], ["--top-k", 1], ["--softmax-temperature", 0.1]]
    made = set()
    for number, change in enumerate(changes):
        assert run(*base, *change, "--out", tmp_path / str(number)) == 0
        with np.load(tmp_path / str(number) / "tokens.npz") as file:
            made.add(file["tokens"].tobytes())
    assert len(made) == len(changes)


def test_a_model_and_its_files_are_judged(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    count = ["--count", 12, "--resize", 32, "--device", "cpu"]
    data = ["--data", place / "images"]
    assert run("eval", place / "run", *data, *count, "--out", tmp_path / "model.json") == 0
    report = json.loads((tmp_path / "model.json").read_text())
    assert [row["name"] for row in report["rows"]] == [
        "generated",
        "reconstruction floor",
        "real floor",
    ]
    assert [row["images"] for row in report["rows"]] == [12, 12, 12]
    notes = " ".join(report["notes"])
    assert "2 unreadable real images skipped: train/left/000-cut.png, val/right/text.png" in notes
    assert "official split by folder" in notes
    words = ["sample", place / "run", "--format", "npz", "--per-class", 6, "--device", "cpu"]
    assert run(*words, "--out", tmp_path / "made") == 0
    capsys.readouterr()
    subject = tmp_path / "made" / "samples.npz"
    assert run("eval", subject, *data, *count) == 0
    assert "generated" in capsys.readouterr().out


def test_the_list_of_recipes_and_one_as_yaml(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run("recipes") == 0
    assert "fashion" in capsys.readouterr().out
    assert run("recipes", "fashion-maskgit") == 0
    (tmp_path / "mine.yaml").write_text(capsys.readouterr().out)
    words = ["--data", place / "images", "--tokenizer", place / "vq", "--out", tmp_path / "out"]
    assert run("train", tmp_path / "mine.yaml", *words) == 2
    assert "the tokenizer has 16 codes; give --network.codes 16" in capsys.readouterr().err
