"""A training in the sources' words: from the command line into the stored recipe, and on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from toy_system import TOY, toy_tokenizer, write_images

from unmask.cli import main
from unmask.files.serial import write_yaml
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.log import lines_of

RATE = {"--training.blr": "0.01", "--training.epochs": "1.5", "--training.warmup-epochs": "0.5"}
QUIET = ("--training.preview-images", "0", "--training.log-every", "1")


def words(root: Path) -> list[str]:
    """To train on 36 images in batches of 8: four steps an epoch."""
    if not (root / "toy.yaml").exists():
        network = replace(TOY.network, classes=2)
        training = replace(TOY.training, batch_size=8, lr=0.5, schedule="constant")
        write_yaml(replace(TOY, network=network, training=training), root / "toy.yaml")
        save_tokenizer(toy_tokenizer(), root / "vq")
        write_images(root / "images", 36)
    given = ["--data", root / "images", "--split", "all", "--tokenizer", root / "vq"]
    return list(map(str, ["train", root / "toy.yaml", *given, "--out", root / "run", *QUIET]))


def test_epochs_and_base_rate_become_steps_and_a_rate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [word for pair in RATE.items() for word in pair]
    assert main([*words(tmp_path), *given]) == 0
    said = capsys.readouterr().out
    assert "length      6 steps, 1.5 epochs" in said
    assert "rate        0.0003125, constant after a warm-up of 2 steps, 0.5 epochs" in said
    stored = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["training"]
    assert (stored["steps"], stored["warmup_steps"]) == (6, 2)
    assert stored["lr"] == 0.01 * 8 / 256
    assert all(stored[word] is None for word in ("epochs", "blr", "warmup_epochs"))
    rates = [lines_of(tmp_path / "run" / "log.jsonl", step)[0]["lr"] for step in range(1, 7)]
    assert rates == [0.0, stored["lr"] / 2, *[stored["lr"]] * 4]
    longer = {**RATE, "--training.epochs": "2"}
    assert main([*words(tmp_path), *[word for pair in longer.items() for word in pair]]) == 0
    assert "after 8 steps" in capsys.readouterr().out  # the same words, but for the length
    resolved = ["--training.steps", "9", "--training.warmup-steps", "2", "--training.lr"]
    assert main([*words(tmp_path), *resolved, "0.0003125"]) == 0
    assert "after 9 steps" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--training.batch-size", "4"], "a batch of 4 in place of the recipe's 8 keeps the"),
        (["--training.batch-size=16"], "in proportion it would be --training.lr 1\n"),
        (["--training.batch-size=16", "--training.lr=0.5"], ""),
        (["--training.batch-size", "16", "--training.blr", "0.1"], ""),
        (["--training.batch_size", "8"], ""),
    ],
)
def test_a_batch_that_leaves_the_rate_behind_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], line: str
) -> None:
    assert main([*words(tmp_path), *given, "--dry-run"]) == 0
    said = capsys.readouterr()
    assert (line in said.out) if line else ("in place of" not in said.out)
    assert not said.err


def test_a_training_shorter_than_its_warm_up_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--training.warmup-steps", "500", "--training.steps", "20", "--dry-run"]
    assert main([*words(tmp_path), *given]) == 0
    said = capsys.readouterr().out
    assert "rate        ends at 0.019 in place of 0.5: its warm-up of 500" in said


def test_two_words_for_one_thing_are_refused_and_the_command_line_wins_over_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ["--training.epochs", "1", "--training.steps=4"]
    assert main([*words(tmp_path), *both, "--dry-run"]) == 2
    assert "--training.epochs and --training.steps say the same" in capsys.readouterr().err
    recipe = yaml.safe_load((tmp_path / "toy.yaml").read_text())
    recipe["training"]["epochs"] = 50
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(recipe))
    for given, steps in ([], 200), (["--training.steps", "4"], 4):
        assert main([*words(tmp_path), *given, "--dry-run"]) == 0
        assert f"length      {steps} steps" in capsys.readouterr().out
