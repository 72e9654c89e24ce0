"""``unmask convert`` on checkpoints of MAR and eMIGM in toy size, and what it makes of them."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from unmask.checkpoints.names import to_own
from unmask.cli import main
from unmask.decode import Plan
from unmask.masking import BernoulliMasking, NormalMasking
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import RandomOrder
from unmask.pipeline import load
from unmask.projects.mar import TABLE
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer
from unmask.tokenizers.folder import save_tokenizer
from unmask.tokenizers.patches import Patches, PatchTokenizer
from unmask.types import Canvas

MAR, EMIGM = "mar/mae_forward", "emigm/sample_tokens_dpm"


def weights_of(fixtures: Path, case: str) -> dict[str, Tensor]:
    return load_file(fixtures / f"{case}.weights.safetensors")


def checkpoint(path: Path, averaged: dict[str, Tensor]) -> Path:
    """As both projects save one: raw and averaged weights, optimiser, and arguments."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {
        "model": {key: torch.zeros_like(value) for key, value in averaged.items()},
        "model_ema": {key: nn.Parameter(value) for key, value in averaged.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": []},
        "epoch": 799,
        "args": argparse.Namespace(model="mar_base", cfg=2.9),
    }
    torch.save(whole, path)
    return path


def run(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_mar_with_averaged_weights(fixtures: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "mar" / "checkpoint-last.pth", weights_of(fixtures, MAR))
    assert run(source.parent, tmp_path / "out", "--heads", 4) == 0
    pipeline, io = load(tmp_path / "out"), load_file(fixtures / f"{MAR}.io.safetensors")
    assert pipeline.recipe.name == "mar-converted"
    assert isinstance(pipeline.recipe.masking, NormalMasking)
    canvas = Canvas(io["tokens"], io["mask"] != 0)
    made = pipeline.model.hidden(canvas, io["labels"]).tokens
    torch.testing.assert_close(made, io["decoder_out"], rtol=1e-5, atol=3e-5)


def test_emigm_is_told_by_its_tied_token(fixtures: Path, tmp_path: Path) -> None:
    averaged = weights_of(fixtures, EMIGM)
    averaged["fake_latent"] = averaged["fake_latent"] + 1  # averaged by name: this entry alone
    source = checkpoint(tmp_path / "eMIGM_tiny_256_checkpoint.pth", averaged)
    assert run(source, tmp_path / "out", "--heads", 4) == 0
    pipeline = load(tmp_path / "out")
    assert isinstance(pipeline.recipe.masking, BernoulliMasking)
    assert pipeline.model.trunk.mask_token is pipeline.model.embed.null
    assert torch.equal(pipeline.model.embed.null, averaged["mask_token"])
    assert run(source, tmp_path / "no", "--heads", 4, "--kind", "mar") == 2


def test_an_untied_emigm_must_be_named(fixtures: Path, tmp_path: Path) -> None:
    source = checkpoint(tmp_path / "untied.pth", weights_of(fixtures, MAR))
    assert run(source, tmp_path / "out", "--heads", 4, "--kind", "emigm") == 0
    recipe = load(tmp_path / "out").recipe
    assert recipe.name == "emigm-converted"
    assert not recipe.network.tied


def test_rows_and_columns_are_stated_and_squares_of_latents_are_seen(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint(tmp_path / "a.pth", weights_of(fixtures, MAR))  # 16 tokens of 4 numbers
    single = ConvKLTokenizer(ConvKL(widths=(8, 8, 8), blocks=(0, 0, 0), channels=1)).eval()
    save_tokenizer(single, tmp_path / "kl")
    words = [source, tmp_path / "out", "--heads", 4, "--tokenizer", tmp_path / "kl"]
    assert run(*words, "--grid", 2, 8) == 0
    pipeline = load(tmp_path / "out")
    assert (pipeline.model.grid, pipeline.recipe.image_size) == ((2, 8), (16, 64))
    draw = DiffusionDraw(respacing="ddim2")
    plan = Plan(steps=2, order=RandomOrder(), draw=draw)
    assert pipeline([0, 1], seeds=[0, 1], plan=plan).pixels.shape == (2, 3, 16, 64)
    assert run(*words) == 0
    assert load(tmp_path / "out").recipe.image_size == 32
    capsys.readouterr()
    assert run(source, tmp_path / "no", "--heads", 4, "--grid", 3, 5) == 2
    error = capsys.readouterr().err
    assert "has 16 tokens an image, which are not 3x5; give their rows and columns" in error
    assert not (tmp_path / "no").exists()


def test_a_width_of_nobody_needs_heads(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint(tmp_path / "a.pth", weights_of(fixtures, MAR))
    assert run(source, tmp_path / "out") == 2
    assert "its width 32 is none of the published ones" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("checkpoint-last.pth", "MAR-B https://www.dropbox.com/scl/fi/f6dpuyjb7fudzxcyhvrhk/"),
        ("eMIGM_huge_256_checkpoint.pth", "https://huggingface.co/GSAI-ML/eMIGM"),
        ("eMIGM_large_512_checkpoint.pth", "https://huggingface.co/GSAI-ML/eMIGM"),
    ],
)
def test_an_absent_published_file_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture, name: str, place: str
) -> None:
    assert run(tmp_path / name, tmp_path / "out") == 2
    error = capsys.readouterr().err
    assert f"{name} does not exist; download it from {place}" in error.replace("\n", "")


def test_a_checkpoint_that_wants_to_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    torch.save({"model": {}, "args": print}, tmp_path / "checkpoint-last.pth")
    assert run(tmp_path / "checkpoint-last.pth", tmp_path / "out") == 2
    assert "cannot be read as plain weights" in capsys.readouterr().err


def test_a_converted_system_samples_latents_and_pixels(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint(tmp_path / "a.pth", weights_of(fixtures, EMIGM))
    save_tokenizer(PatchTokenizer(Patches(patch=2, image_channels=1)), tmp_path / "patches")
    out = tmp_path / "out"
    assert run(source, out, "--heads", 4, "--tokenizer", tmp_path / "patches") == 0
    sample = ["sample", str(out), "--classes", "3", "--per-class", "2", "--device", "cpu"]
    assert main([*sample, "--steps", "3", "--out", str(tmp_path / "made")]) == 0
    words = [*sample, "--steps", "3", "--format", "tokens", "--out", str(tmp_path / "tokens")]
    assert main(words) == 0
    with np.load(tmp_path / "tokens" / "tokens.npz") as file:
        assert file["tokens"].shape == (2, 16, 4)
        assert file["tokens"].dtype == np.float32
    capsys.readouterr()
    assert main([*sample, "--steps", "17", "--out", str(tmp_path / "none")]) == 2
    assert "steps=17 exceeds the 16 tokens of this model" in capsys.readouterr().err
    assert main([*sample, "--order", "confidence", "--out", str(tmp_path / "none")]) == 2
    assert "plan.order=Confidence needs probabilities" in capsys.readouterr().err
    assert main([*sample, "--plan", "quick", "--out", str(tmp_path / "none")]) == 2
    assert "emigm-converted has no plan 'quick'" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_both_systems_have_the_same_keys(fixtures: Path) -> None:
    names = [to_own(weights_of(fixtures, case), TABLE, case).keys() for case in (MAR, EMIGM)]
    assert names[0] == names[1]


def test_a_tokenizer_of_other_latents_is_refused(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = checkpoint(tmp_path / "a.pth", weights_of(fixtures, MAR))
    words = [source, tmp_path / "out", "--heads", 4, "--tokenizer", "patches-4-grey"]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert "the tokenizer has 16 channels and the network 4 channels" in error
    assert not (tmp_path / "out").exists()
