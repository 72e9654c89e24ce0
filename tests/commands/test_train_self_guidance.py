"""From a trained network to one that guides itself, through the command line, at toy size."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import latest
from toy_system import TOY, toy_pipeline, toy_tokenizer, write_images

from unmask.cli import main
from unmask.errors import InputError
from unmask.files.serial import write_yaml
from unmask.guidance import Guidance
from unmask.nn.feedback import Feedback
from unmask.pipeline import Pipeline, load
from unmask.recipes.objectives import Substitution
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.state import read_checkpoint

NETWORK = replace(TOY.network, classes=2, dropout=0.1)
BASE = replace(TOY, network=NETWORK)
STEPS = 6
RECIPE = replace(
    BASE,
    name="toy-selfguidance",
    network=replace(NETWORK, feedback=Feedback(factor=4)),
    substitution=Substitution(),
    training=replace(TOY.training, steps=STEPS, save_every=2, log_every=1, tracker="none"),
    plan=replace(TOY.plan, guidance=Guidance(weak="self", scale=2.0)),
)


def run(*words: object) -> int:
    return main(list(map(str, words)))


def words_of(root: Path, out: str) -> list[object]:
    data = ["--data", root / "images", "--tokenizer", root / "vq"]
    return [root / "sg.yaml", *data, "--base", root / "base", "--out", root / out]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a base with its tokenizer, a recipe, and the run that it gives."""
    root = tmp_path_factory.mktemp("place")
    write_images(root / "images", 36)
    toy_pipeline(BASE).save_pretrained(root / "base")
    save_tokenizer(toy_tokenizer(), root / "vq")
    write_yaml(RECIPE, root / "sg.yaml")
    assert run("train", *words_of(root, "run")) == 0
    return root


def weights(run_folder: Path, part: str = "model") -> dict[str, torch.Tensor]:
    folder = latest(run_folder / "checkpoints")
    assert folder is not None
    return read_checkpoint(folder).weights[part]


def test_a_checkpoint_holds_the_adapter_and_the_export_everything(root: Path) -> None:
    adapter = RECIPE.network.build().feedback
    assert set(weights(root / "run")) == set(adapter.state_dict())
    state = read_checkpoint(latest(root / "run" / "checkpoints")).state
    assert state["others"] == {}
    pipeline, base = load(root / "run"), load(root / "base")
    assert isinstance(pipeline, Pipeline)
    whole = pipeline.model.state_dict()
    assert all(torch.equal(whole[name], t) for name, t in base.model.state_dict().items())
    for name, tensor in weights(root / "run", "ema").items():
        assert torch.equal(whole[f"feedback.{name}"], tensor)
    assert not torch.equal(weights(root / "run")["top"], torch.eye(NETWORK.width))
    line = json.loads((root / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["loss"] == pytest.approx(line["repair"] + line["variational"], rel=1e-5)
    assert {p.name for p in (root / "run" / "samples").iterdir()} == {
        f"step-{STEPS:07d}-{kind}.png" for kind in ("ema", "raw")
    }


def test_guidance_starts_from_the_base_and_changes_it(root: Path) -> None:
    pipeline, base = load(root / "run"), load(root / "base")
    plain = replace(pipeline.plan, guidance=Guidance(weak="self", scale=1.0))
    made, guided = (pipeline.tokens([0, 1] * 4, plan=p).tokens for p in (plain, pipeline.plan))
    unguided = replace(plain, guidance=Guidance())
    assert torch.equal(made, base.tokens([0, 1] * 4, plan=unguided).tokens)
    assert not torch.equal(guided, made)


def test_a_stopped_run_continues_bit_for_bit(root: Path) -> None:
    shutil.copytree(root / "run", root / "stopped")
    shutil.copytree(root / "run-cache", root / "stopped-cache")
    shutil.rmtree(root / "stopped" / "checkpoints" / f"step-{STEPS:07d}")
    shutil.rmtree(root / "stopped" / "model")
    assert run("train", *words_of(root, "stopped")) == 0
    for part in ("model", "ema"):
        whole, continued = weights(root / "run", part), weights(root / "stopped", part)
        assert all(torch.equal(whole[name], continued[name]) for name in whole)


def fails(capsys: pytest.CaptureFixture, *words: object) -> str:
    capsys.readouterr()
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_a_run_does_not_go_on_with_another_base(root: Path, capsys: pytest.CaptureFixture) -> None:
    toy_pipeline(BASE, key="other").save_pretrained(root / "other")
    before = weights(root / "run")
    error = fails(capsys, "train", *words_of(root, "run"), "--base", root / "other")
    assert "other values of" in error
    assert "made_from.base" in error
    assert all(torch.equal(before[name], t) for name, t in weights(root / "run").items())


def saved(root: Path, name: str, recipe: Recipe, *, key: str = "tokenizer") -> Path:
    pipeline = toy_pipeline(recipe)
    tokenizer = toy_tokenizer(key)
    Pipeline(recipe, pipeline.model, tokenizer, pipeline.class_names).save_pretrained(root / name)
    return root / name


def test_bases_that_do_not_fit_are_refused(root: Path, capsys: pytest.CaptureFixture) -> None:
    cases = {
        "deeper": (
            replace(BASE, network=replace(NETWORK, depth=3)),
            "tokenizer",
            "hold an unknown",
        ),
        "heads": (
            replace(BASE, network=replace(NETWORK, heads=4)),
            "tokenizer",
            "4 heads a block and network.heads=2; give --network.heads 4",
        ),
        "classes": (
            replace(BASE, network=replace(NETWORK, classes=3)),
            "tokenizer",
            "'embed.classes.weight' has shape (4, 32), the network needs (3, 32)",
        ),
        "codes": (BASE, "another", "trained with another tokenizer"),
    }
    for name, (recipe, key, message) in cases.items():
        base = saved(root, name, recipe, key=key)
        error = fails(capsys, "train", *words_of(root, "run"), "--base", base)
        assert message in error, error
    words = [w for w in words_of(root, "new") if w not in ("--base", root / "base")]
    assert "give --base MODEL" in fails(capsys, "train", *words)
    assert "nothing is saved at" in fails(capsys, "train", *words, "--base", "no-such")
    assert not (root / "new").exists()
    assert not (root / "new-cache").exists()  # nothing was encoded before


def test_guidance_without_an_adapter_is_refused(root: Path) -> None:
    base = load(root / "base")
    with pytest.raises(InputError, match="needs a feedback adapter"):
        base.tokens([0], plan=replace(base.plan, guidance=Guidance(weak="self", scale=2.0)))
    with pytest.raises(InputError, match=r"set network\.feedback"):
        replace(RECIPE, network=NETWORK)
    with pytest.raises(InputError, match=r"set network\.feedback"):
        replace(BASE, plan=RECIPE.plan)


def test_a_plain_recipe_may_start_from_a_base_too(root: Path) -> None:
    write_yaml(replace(BASE, training=RECIPE.training, base=str(root / "base")), root / "on.yaml")
    words = [root / "on.yaml", *words_of(root, "on")[1:]]
    assert run("train", *words, "--training.lr", 0.0, "--training.weight-decay", 0.0) == 0
    started = load(root / "base").model.state_dict()
    assert all(torch.equal(started[n], t) for n, t in load(root / "on").model.state_dict().items())
