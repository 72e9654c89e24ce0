"""What a run says before it begins, beside counts made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from toy_run import CODES, WIDTH, ToyObjective, toy_settings
from toy_system import TOKENIZER, TOY, toy_pipeline, toy_tokenizer, write_images

from unmask.cli import main
from unmask.errors import InputError
from unmask.files.serial import write_yaml
from unmask.nn.feedback import Feedback
from unmask.recipes.objectives import Substitution
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.outline import Examples, outline, state_bytes

INNER, OUTER = WIDTH * WIDTH + WIDTH, WIDTH * CODES + CODES
AVERAGED = INNER + OUTER
TRAINED = AVERAGED + CODES  # and a judge that is not averaged


def facts(lines: list[str]) -> dict[str, str]:
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in lines}


def test_facts_of_a_toy(tmp_path: Path) -> None:
    settings = toy_settings(accumulate=3, precision="bf16", tracker="none")
    told = facts(outline(ToyObjective(), Examples(100, 4, (2, 3), 12), settings, tmp_path / "a"))
    assert told == {
        "images": "100 trained on, 12 held out, 4 classes",
        "tokens": "6 an image (2 x 3)",
        "parameters": f"{TRAINED} trained, {WIDTH} frozen",
        "memory": "0.000 GiB a process besides activations: weights 0.000, gradients 0.000, "
        "moments 0.000, average 0.000",
        "step": "8 images: 1 process with 3 micro-batches of 3",
        "epoch": "12 steps, 96 images",
        "length": "24 steps, 2 epochs",
        "rate": "0.02, cosine after a warm-up of 3 steps, 0.25 epochs",
        "device": "cpu, float32 with bfloat16",
        "folder": f"{tmp_path / 'a'}: checkpoints every 4 steps and every 10 minutes, samples, "
        "log.jsonl, model at the end",
    }
    assert list(tmp_path.iterdir()) == []


def test_bytes_of_the_training_state() -> None:
    parts = state_bytes(ToyObjective(), toy_settings())
    assert parts == {
        "weights": 4 * (TRAINED + WIDTH + 1),  # a frozen vector and a buffer
        "gradients": 4 * TRAINED,
        "moments": 8 * TRAINED,
        "average": 4 * AVERAGED,
    }
    assert state_bytes(ToyObjective(), toy_settings(ema=None))["average"] == 0


def test_what_cannot_be_trained_has_no_outline(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="batch_size=8 does not fit the 7 images"):
        outline(ToyObjective(), Examples(7, 0, (1, 1)), toy_settings(), tmp_path)


@pytest.mark.parametrize("base", [False, True])
def test_a_dry_run_of_the_command_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], base: bool
) -> None:
    recipe = replace(TOY, network=replace(TOY.network, classes=2))
    words: list[object] = []
    if base:
        toy_pipeline(recipe).save_pretrained(tmp_path / "base")
        network = replace(recipe.network, feedback=Feedback(factor=4))
        recipe = replace(recipe, network=network, substitution=Substitution())
        words = ["--base", tmp_path / "base"]
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    write_yaml(recipe, tmp_path / "toy.yaml")
    data = ["--data", write_images(tmp_path / "images"), "--tokenizer", tmp_path / "vq"]
    before = sorted(tmp_path.rglob("*"))
    words = ["train", tmp_path / "toy.yaml", *data, *words, "--out", tmp_path / "run", "--dry-run"]
    assert main(list(map(str, words))) == 0
    assert sorted(tmp_path.rglob("*")) == before
    told = facts(capsys.readouterr().out.splitlines()[1:])
    model = recipe.network.build()
    adapter = sum(p.numel() for p in model.feedback.parameters()) if base else 0
    rest = sum(p.numel() for p in model.parameters()) - adapter
    trained, frozen = (adapter, rest) if base else (rest, 0)
    assert told["parameters"] == f"{trained:,} trained, {frozen:,} frozen"
    assert told["images"].startswith(f"{36 - int(told['images'].split()[3])} trained on, ")
    assert told["tokens"] == "16 an image (4 x 4)"


def test_a_dry_run_of_a_tokenizer_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = TokenizerRecipe(
        name="tiny-vq", summary="tiny", image_size=16, network=TOKENIZER, training=toy_settings()
    )
    write_yaml(recipe, tmp_path / "vq.yaml")
    words = [tmp_path / "vq.yaml", "--data", write_images(tmp_path / "images")]
    before = sorted(tmp_path.rglob("*"))
    words = ["tokenizer", "train", *words, "--out", tmp_path / "run", "--dry-run"]
    assert main(list(map(str, words))) == 0
    assert sorted(tmp_path.rglob("*")) == before
    count = sum(p.numel() for p in recipe.build().parameters())
    told = facts(capsys.readouterr().out.splitlines()[1:])
    assert told["parameters"] == f"{count:,} trained, 0 frozen"
    assert told["length"] == f"24 steps, {24 / (int(told['images'].split()[0]) // 8):.4g} epochs"


def test_an_embedded_set_goes_by_its_name_and_is_counted_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["train", "fashion-maskgit", "--data", "fashion-mnist", "--out", tmp_path / "run"]
    assert main([*map(str, words), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("fashion-mnist (train): official split by file name")
    assert said.count("8,000 trained on") == 1
