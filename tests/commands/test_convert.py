"""Checkpoints of other projects, in their own containers, become models that compute the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from toy_system import TOKENIZER

from unmask.cli import main
from unmask.convert import convert, matching_recipe
from unmask.guidance import Guidance
from unmask.pipeline import Pipeline, load
from unmask.projects.foreign import Foreign
from unmask.recipes import get, maskgit, self_guidance
from unmask.tokenizers.conv_stack import ConvVQTokenizer
from unmask.tokenizers.folder import save_tokenizer
from unmask.types import Canvas


def golden(fixtures: Path, case: str) -> dict[str, Tensor]:
    return load_file(fixtures / "maskgit" / f"{case}.io.safetensors")


def run_of(fixtures: Path, folder: Path, case: str) -> Path:
    """A run of maskgit-pytorch: an old checkpoint, and the newest with the average."""
    state = load_file(fixtures / "maskgit" / f"{case}.weights.safetensors")
    spec = json.loads((fixtures / "maskgit" / f"{case}.json").read_text())["config"]
    for step, factor in ((99, 3.0), (1999, 1.0)):
        inside = folder / "ckpt" / f"step{step:07d}"
        inside.mkdir(parents=True)
        scaled = {key: value * factor for key, value in state.items()}
        torch.save({"model": {k: v + 1 for k, v in scaled.items()}}, inside / "model.pt")
        torch.save({"model": scaled}, inside / "model_ema.pt")
        torch.save({"step": step, "epoch": 0}, inside / "training_states.pt")
    transformer = {"n_heads": spec["n_heads"], "dropout": spec["dropout"]}
    (folder / "config-2024.yaml").write_text(yaml.safe_dump({"transformer": transformer}))
    return folder


def port_of(fixtures: Path, folder: Path) -> Path:
    """A folder of UnlockMGM."""
    folder.mkdir()
    state = load_file(fixtures / "maskgit" / "um_logits.weights.safetensors")
    torch.save(state, folder / "pytorch_model.bin")
    spec = json.loads((fixtures / "maskgit" / "um_logits.json").read_text())["config"]
    (folder / "config.json").write_text(json.dumps(spec | {"_class_name": "MaskGitTransformer"}))
    return folder


def flax_of(fixtures: Path, folder: Path) -> Path:
    """A flax file under its published name."""
    folder.mkdir()
    source = fixtures / "maskgit" / "jax_transformer.msgpack"
    return Path(shutil.copy(source, folder / "maskgit_imagenet256_checkpoint"))


@torch.inference_mode()
def logits(pipeline: Pipeline, tokens: Tensor, masked: Tensor, labels: Tensor | None) -> Tensor:
    hidden = pipeline.model.hidden(Canvas(tokens, masked), labels)
    return pipeline.model.head.logits(torch.cat(hidden, dim=1))


def converted(*words: object) -> Pipeline:
    assert main(["convert", *map(str, words)]) == 0
    return load(words[1])


@pytest.mark.parametrize("case", ["mp_cond_logits", "mp_uncond_logits"])
def test_maskgit_pytorch(fixtures: Path, tmp_path: Path, case: str) -> None:
    run, io = run_of(fixtures, tmp_path / "run", case), golden(fixtures, case)
    pipeline = converted(run, tmp_path / "out")
    made = logits(pipeline, io["idx"], io["idx"] == 24, io.get("y"))[:, -io["idx"].shape[1] :]
    expected = io["logits_cond"] if "y" in io else io["logits"]
    torch.testing.assert_close(made, expected, rtol=1e-5, atol=2e-5)
    preset = maskgit.PYTORCH_IMAGENET256 if "y" in io else maskgit.PYTORCH_FFHQ256
    assert pipeline.recipe.plan.order == replace(preset.plan.order, temperature=4.5)
    assert pipeline.recipe.plan.counts == preset.plan.counts
    assert pipeline.recipe.plan.guidance.scale == 1.0
    assert pipeline.recipe.network.dropout == 0.1
    assert pipeline.recipe.tokenizer == "unknown"
    side = {25: 80, 16: 64}[io["idx"].shape[1]]
    assert pipeline.recipe.image_size == side


def test_unlockmgm(fixtures: Path, tmp_path: Path) -> None:
    source, io = port_of(fixtures, tmp_path / "port"), golden(fixtures, "um_logits")
    pipeline = converted(source, tmp_path / "out", "--kind", "unlockmgm")
    ids = io["input_ids"]
    made = logits(pipeline, ids[:, 1:], ids[:, 1:] == 42, ids[:, 0] - 32)
    torch.testing.assert_close(made, io["logits"], rtol=1e-5, atol=2e-5)
    assert pipeline.recipe.plan.order == maskgit.UNLOCKMGM_IMAGENET256.plan.order
    assert pipeline.recipe.plan.steps == 16  # 18 as published, but there are 16 tokens only


def guided_port_of(fixtures: Path, folder: Path) -> Path:
    """What UnlockMGM publishes after fine-tuning: the averaged weights, with an adapter."""
    folder.mkdir()
    source = fixtures / "self_guidance" / "toast_forward"
    torch.save(load_file(f"{source}.weights.safetensors"), folder / "pytorch_model.bin")
    spec = json.loads(source.with_suffix(".json").read_text())["config"]
    average = {"decay": 0.9999, "optimization_step": 50_000, "update_after_step": 5000}
    (folder / "config.json").write_text(json.dumps(spec | average | {"_version": "0.0.1"}))
    return folder


def test_a_fine_tuned_unlockmgm_keeps_its_adapter(fixtures: Path, tmp_path: Path) -> None:
    source = guided_port_of(fixtures, tmp_path / "ema_model")
    io = load_file(fixtures / "self_guidance" / "toast_forward.io.safetensors")
    pipeline = converted(source, tmp_path / "out")
    model, ids = pipeline.model, io["input_ids"]
    canvas, labels = Canvas(ids[:, 1:], ids[:, 1:] == 1034), ids[:, 0] - 1024
    with torch.inference_mode():
        hidden = model.hidden(canvas, labels)
        states = model.feedback.states(model, hidden, canvas, labels)
        second = model.head.logits(states[-1][:, 1:])
    torch.testing.assert_close(second, io["logits_pass2"][:, 1:], rtol=2e-5, atol=5e-5)
    plan = pipeline.recipe.plan
    assert (plan.guidance.weak, plan.guidance.scale) == ("self", 2.0)
    assert plan.order == self_guidance.IMAGENET256.plan.order
    guided = pipeline.tokens([1, 2, 3], seeds=1).tokens
    plain = replace(plan, guidance=Guidance())
    assert not torch.equal(guided, pipeline.tokens([1, 2, 3], seeds=1, plan=plain).tokens)


def test_an_adapter_that_does_not_fill_its_network_is_refused(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = guided_port_of(fixtures, tmp_path / "ema_model")
    whole = torch.load(source / "pytorch_model.bin", weights_only=True)
    rows = torch.zeros(11, whole["cls_anchor_gen.mlp_c.weight"].shape[1])
    for change, message in (
        ({"decoders.1.linear.weight": None}, "do not fill 'feedback.levels.1.down.weight'"),
        ({"top_down_transform": None}, "do not fill 'feedback.top'"),
        (
            {"cls_anchor_gen.mlp_c.weight": rows},
            "'feedback.anchor.classes.weight' has shape (11, 384), the network needs (10, 384)",
        ),
    ):
        state = {name: t for name, t in (whole | change).items() if t is not None}
        torch.save(state, source / "pytorch_model.bin")
        capsys.readouterr()
        assert main(["convert", str(source), str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    torch.save(whole, source / "pytorch_model.bin")
    spec = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(spec | {"use_toast": False}))
    assert convert(source)[0].model.feedback is not None  # the weights tell
    (source / "config.json").unlink()
    assert main(["convert", str(source), str(tmp_path / "out")]) == 2
    assert "config.json is missing" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_flax_original(fixtures: Path, tmp_path: Path) -> None:
    source, io = flax_of(fixtures, tmp_path / "jax"), golden(fixtures, "jax_transformer")
    pipeline = converted(source, tmp_path / "out", "--classes", 6)
    ids = io["input_ids"]
    tokens = ids[:, 1:]
    made = logits(pipeline, tokens.clamp(min=0), tokens == -1, ids[:, 0] - 20)
    torch.testing.assert_close(made, io["logits_tanh"], rtol=1e-5, atol=5e-5)
    weights = pipeline.model.state_dict(keep_vars=True)
    assert weights["head.out.weight"] is weights["embed.tokens.weight"]


def test_the_source_is_only_read(fixtures: Path, tmp_path: Path) -> None:
    source = port_of(fixtures, tmp_path / "port")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    assert main(["convert", str(source), str(source)]) == 2  # would replace its config.json
    converted(source, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_tokens_can_be_sampled_and_pixels_are_refused_first(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    converted(port_of(fixtures, tmp_path / "port"), tmp_path / "out", "--half")
    capsys.readouterr()
    words = ["sample", str(tmp_path / "out"), "--per-class", "2", "--classes", "1", "9"]
    words += ["--out", str(tmp_path / "made"), "--device", "cpu"]
    for form in ("grid", "png", "npz"):
        assert main([*words, "--format", form]) == 2
        error = capsys.readouterr().err
        assert "came without its tokenizer, 'unknown'" in error
        assert error.count("\n") == 1
        assert not (tmp_path / "made").exists()
    assert main([*words, "--format", "tokens", "--film"]) == 2
    assert not (tmp_path / "made").exists()
    assert main([*words, "--format", "tokens", "--seed", "5"]) == 0
    with np.load(tmp_path / "made" / "tokens.npz") as file:
        assert file["seeds"].tolist() == [5, 6, 7, 8]
        assert file["labels"].tolist() == [1, 1, 9, 9]
        expected = load(tmp_path / "out").tokens([1, 1, 9, 9], seeds=5).tokens
        assert np.array_equal(file["tokens"], expected.numpy())


def test_a_tokenizer_of_the_same_codes_gives_pixels(fixtures: Path, tmp_path: Path) -> None:
    source = port_of(fixtures, tmp_path / "port")
    save_tokenizer(ConvVQTokenizer(replace(TOKENIZER, codes=32)), tmp_path / "vq")
    pipeline = converted(source, tmp_path / "out", "--tokenizer", tmp_path / "vq")
    assert pipeline([3], seeds=1).pixels.shape == (1, 3, 16, 16)
    assert pipeline.recipe.image_size == 16
    save_tokenizer(ConvVQTokenizer(replace(TOKENIZER, codes=16)), tmp_path / "other")
    words = ["convert", source, tmp_path / "new", "--tokenizer", tmp_path / "other"]
    assert main(list(map(str, words))) == 2
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("maskgit-pytorch", "maskgit-pytorch-imagenet256"),
        ("maskgit-pytorch", "maskgit-pytorch-ffhq256"),
        ("unlockmgm", "maskgit-unlockmgm-imagenet256"),
        ("unlockmgm", "maskgit-unlockmgm-imagenet512"),
        ("unlockmgm", "selfguidance-imagenet256"),
        ("unlockmgm", "selfguidance-imagenet512"),
        ("maskgit-jax", "maskgit-jax-imagenet256"),
        ("maskgit-jax", "maskgit-jax-imagenet512"),
        ("mar", "mar-base"),
        ("emigm", "emigm-xsmall-256"),
        ("emigm", "emigm-xsmall-512"),
    ],
)
def test_a_published_network_gets_its_recipe(kind: str, name: str) -> None:
    recipe = get(name)
    found = Foreign(recipe.network, {}, {"kind": kind, "file": "a/weights"})
    assert matching_recipe(found) == recipe
    undropped = found._replace(network=replace(recipe.network, dropout=0.0))
    assert matching_recipe(undropped) == replace(recipe, network=undropped.network)
    deeper = replace(recipe.network, depth=2)
    other = matching_recipe(found._replace(network=deeper))
    assert other.network == deeper
    assert other.results == ()
    assert (other.tokenizer, other.plan) == (recipe.tokenizer, recipe.plan)
    assert other.image_size == recipe.image_size
    assert other.name not in (recipe.name, "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent", "new"], "absent does not exist; published files to download"),
        (["port", "file"], "file is a file; name a new folder"),
        (["port", "full"], "holds 'notes.txt' but no model of this library"),
        (["port", "new", "--kind", "maskgit-jax"], "looks like unlockmgm, not maskgit-jax"),
        (["port", "new", "--tokenizer", "no-such"], "nothing is saved at 'no-such'"),
        (["port", "new", "--kind", "maskgit"], "maskgit-pytorch"),
        (["empty", "new"], "holds neither"),
        (["flax/maskgit_imagenet256_checkpoint", "new"], "classes=1000 does not fit"),
    ],
)
def test_mistakes_are_one_line_and_change_nothing(
    fixtures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    port_of(fixtures, tmp_path / "port")
    flax_of(fixtures, tmp_path / "flax")
    Path("file").write_text("x")
    Path("empty").mkdir()
    Path("full").mkdir()
    Path("full/notes.txt").write_text("x")
    before = {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")}
    assert main(["convert", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert {p: p.is_dir() or p.read_bytes() for p in tmp_path.rglob("*")} == before


def test_converting_needs_no_writing(fixtures: Path, tmp_path: Path) -> None:
    source = run_of(fixtures, tmp_path / "run", "mp_cond_logits")
    (source / "config-2024.yaml").unlink()
    pipeline, details = convert(source, heads=4)
    assert details["kind"] == "maskgit-pytorch"
    assert details["file"].endswith("step0001999/model_ema.pt")
    assert pipeline.tokens([0, 6], seeds=1).tokens.shape == (2, 25)
