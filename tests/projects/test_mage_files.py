"""MAGE's published files become network and tokenizer in one folder, every key accounted for."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unmask.checkpoints.names import match, to_own, to_source
from unmask.checkpoints.store import check_state
from unmask.cli import main
from unmask.convert import convert, matching_recipe
from unmask.errors import InputError
from unmask.objectives.masked import MaskedObjective
from unmask.pipeline import load
from unmask.projects import mage
from unmask.projects.foreign import Foreign
from unmask.projects.project import Checkpoint
from unmask.recipes import get
from unmask.tokenizers.published import PUBLISHED, translate
from unmask.types import MaskedBatch

# all of the file; what learns there; what the source's forward pass reads
COUNTS = {
    "base": (200_989_804, 146_079_465, 144_896_745),
    "large": (464_407_148, 409_365_225, 407_788_521),
}
FROZEN = ("pos_embed", "decoder_pos_embed")
BUFFER = "token_emb.position_ids"


def manifest(fixtures: Path, size: str) -> dict[str, Tensor]:
    path = fixtures / "manifests" / f"mage_vit_{size}_patch16.json"
    shapes = json.loads(path.read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


def is_dead(key: str) -> bool:
    return any(match(pattern, key) is not None for pattern in mage.DEAD)


@pytest.mark.parametrize("size", COUNTS)
def test_a_published_file_fills_network_and_tokenizer_exactly(fixtures: Path, size: str) -> None:
    network, tokenizer = mage.split_tokenizer(manifest(fixtures, size))
    assert mage.extra_keys(network) == []
    own = to_own(network, mage.TABLE, size)
    sizes = mage.network_of(Checkpoint({}, Path(size), own=own))
    assert sizes == get(f"mage-{size}").network
    with torch.device("meta"):
        model = sizes.build()
    check_state(model.state_dict(), own, size)
    back = {key: t.shape for key, t in to_source(model.state_dict(), mage.TABLE).items()}
    assert back == {key: t.shape for key, t in network.items() if not is_dead(key)}
    vq, state = translate(tokenizer, {}, size)
    assert vq == PUBLISHED["mage-vqgan"].network
    with torch.device("meta"):
        check_state(vq.build().state_dict(), state, size)


@pytest.mark.parametrize("size", COUNTS)
def test_dead_parameters_are_the_difference_to_the_published_counts(
    fixtures: Path, size: str
) -> None:
    total, learning, used = COUNTS[size]
    network, tokenizer = mage.split_tokenizer(manifest(fixtures, size))
    dead = {key: t.numel() for key, t in network.items() if is_dead(key) and key != BUFFER}
    assert set(dead) == {
        *FROZEN,
        *("cls_token", "mask_token"),
        *(f"{layer}.{part}" for layer in ("patch_embed.proj", "decoder_pred") for part in PARTS),
    }
    frozen = sum(dead[key] for key in FROZEN)
    with torch.device("meta"):
        model = get(f"mage-{size}").network.build()
    assert sum(p.numel() for p in model.parameters()) == used
    assert used + sum(dead.values()) - frozen == learning
    assert learning + frozen + sum(t.numel() for t in tokenizer.values()) == total


PARTS = ("weight", "bias")


@pytest.mark.parametrize("size", COUNTS)
def test_a_published_network_gets_its_recipe(size: str) -> None:
    recipe = get(f"mage-{size}")
    found = Foreign(recipe.network, {}, {"kind": "mage", "file": "a/weights"})
    assert matching_recipe(found) == recipe
    other = matching_recipe(found._replace(network=replace(recipe.network, depth=2)))
    assert (other.name, other.results) == ("mage-converted", ())
    assert (other.tokenizer, other.plan, other.masking) == (
        "mage-vqgan",
        recipe.plan,
        recipe.masking,
    )


def toy_state(fixtures: Path) -> dict[str, Tensor]:
    """The toy of the golden cases by the project's keys, tokenizer included."""
    parts = {"": "mage_model", "vqgan.": "tokenizer"}
    files = {p: load_file(fixtures / "mage" / f"{n}.weights.safetensors") for p, n in parts.items()}
    return {prefix + key: t.float() for prefix, state in files.items() for key, t in state.items()}


def write(state: dict[str, Tensor], folder: Path) -> Path:
    """A file as the project's training writes it."""
    options = argparse.Namespace(batch_size=64, model="mage_vit_base_patch16")
    whole = {"model": state, "epoch": 1599, "scaler": {"scale": 1.0}, "args": options}
    torch.save(whole | {"optimizer": {"state": {}, "param_groups": []}}, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


@pytest.fixture
def toy_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy's heads, which no shape tells: 4 of 12 and 2 of 16."""
    monkeypatch.setattr("unmask.projects.mage.HEAD_WIDTH", 12)
    monkeypatch.setattr("unmask.projects.mage.DECODER_HEADS", 2)


@pytest.mark.usefixtures("toy_heads")
def test_one_folder_holds_network_and_tokenizer(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = write(toy_state(fixtures), tmp_path)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    assert "left aside" not in capsys.readouterr().out
    pipeline = load(tmp_path / "out")
    golden = load_file(fixtures / "mage" / "pretrain_from_images.io.safetensors")
    codes = pipeline.tokenizer.encode(golden["images"])
    assert torch.equal(codes, golden["token_indices"])
    recipe, model = pipeline.recipe, pipeline.model
    assert (recipe.image_size, recipe.tokenizer) == (64, "unknown")  # of 64 codes, not 1024
    assert recipe.plan.order == get("mage-base").plan.order
    masks = recipe.masking.hide(golden["mask_rate"], golden["noise"])
    batch = MaskedBatch(codes, masks.masked, None, 1 / masks.masked.sum(), masks.kept)
    with torch.no_grad():
        loss = MaskedObjective(model, label_smoothing=0.1).eval()(batch)["loss"]
    torch.testing.assert_close(loss, golden["loss"], rtol=1e-4, atol=2e-5)
    made = pipeline(seeds=[1, 2])
    assert made.pixels.shape == (2, 3, 64, 64)
    assert made.tokens.max() < 64
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.usefixtures("toy_heads")
def test_keys_of_unknown_parts_are_named(
    fixtures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    extra = ["projector.0.weight", "projector.2.bias", "temperature"]
    state = toy_state(fixtures) | {key: torch.zeros(2) for key in extra}
    source = write(state, tmp_path)
    pipeline, details = convert(source)
    assert details["unknown"] == ", ".join(extra)
    plain, quiet = convert(write(toy_state(fixtures), tmp_path))
    assert "unknown" not in quiet
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, pipeline.model.state_dict()[name]), name
    write(state, tmp_path)
    assert main(["convert", str(source), str(tmp_path / "out")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "left aside, of no part of the network: projector.0.weight, projector.2.bias" in said


@pytest.mark.usefixtures("toy_heads")
@pytest.mark.parametrize(
    ("added", "removed", "message"),
    [
        ("blocks.0.attn.surprise", "", r"no rule for the key 'blocks\.0\.attn\.surprise'"),
        ("decoder_blocks.9.norm1.scale", "", r"no rule for the key 'decoder_blocks\.9"),
        ("", "mlm_layer.ln.weight", r"do not fill 'head\.norm\.weight'"),
        ("", "decoder_norm.bias", r"do not fill 'trunk\.decoder_norm\.bias'"),
        ("", "vqgan.decoder.conv_out.bias", r"do not fill 'decoder\.conv_out\.bias'"),
        ("vqgan.loss.weight", "", r"no rule for the key 'loss\.weight'"),
        ("head.weight", "mlm_layer.fc.weight", "a fine-tuned classifier of MAGE, which needs"),
    ],
)
def test_what_does_not_fit_is_refused(
    fixtures: Path, tmp_path: Path, added: str, removed: str, message: str
) -> None:
    state = toy_state(fixtures) | ({added: torch.zeros(2)} if added else {})
    state.pop(removed, None)
    with pytest.raises(InputError, match=message) as error:
        convert(write(state, tmp_path))
    assert "\n" not in str(error.value)


def test_an_absent_file_names_the_published_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        convert(tmp_path / "mage.pth")
    for file in ("1Q6tbt3vF0bSrv5sPrjpFu8ksG3vTsVX2", "1GOz8l6N-3LcUrM6a--TnBztN7NJpZ-Hp"):
        assert f"https://drive.google.com/file/d/{file}/view" in str(error.value)
