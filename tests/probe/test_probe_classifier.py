"""MAGE's published classifiers fit our network and tokenizer key by key, both ways."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from unmask.checkpoints.names import to_source
from unmask.checkpoints.store import check_state
from unmask.errors import InputError
from unmask.probe.classifier import open_classifier, table_of, translate_mage
from unmask.probe.encoder import Encoder, EncoderSizes, TokenClassifier, build_head
from unmask.projects.mage import split_tokenizer
from unmask.tokenizers.published import PUBLISHED, translate

PUBLISHED_SIZES = {
    "vit_base_patch16": (EncoderSizes(), 325),
    "vit_large_patch16": (EncoderSizes(width=1024, depth=24, heads=16, feed_forward=4096), 469),
}
UNUSED = ("cls_token", "pos_embed", "patch_embed.", "token_emb.position_ids")


def manifest(fixtures: Path, name: str) -> dict[str, Tensor]:
    shapes = json.loads((fixtures / "manifests" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED_SIZES)
def test_a_published_classifier_fills_its_networks_exactly(fixtures: Path, name: str) -> None:
    sizes, entries = PUBLISHED_SIZES[name]
    whole = manifest(fixtures, name)
    assert len(whole) == entries
    vit, vqgan = split_tokenizer(whole)
    pool, found, own = translate_mage(vit, name)
    assert (pool, found) == ("mean", sizes)
    with torch.device("meta"):
        head = build_head(sizes.width, 1000, normed=False)
        model = TokenClassifier(Encoder(sizes, pool=pool), head)
    check_state(model.state_dict(), own, name)
    back = {key: t.shape for key, t in to_source(model.state_dict(), table_of(pool)).items()}
    assert back == {key: t.shape for key, t in vit.items() if not key.startswith(UNUSED)}
    network, tokens = translate(vqgan, {}, name)
    assert network == PUBLISHED["mage-vqgan"].network
    with torch.device("meta"):
        check_state(network.build().state_dict(), tokens, name)


def toy_file(fixtures: Path, folder: Path, without: str) -> Path:
    """A file as the project writes it, of the toy that the golden cases use."""
    state = load_file(fixtures / "mage" / "mage_vit_probe.weights.safetensors")
    state = {key: t.float() for key, t in state.items() if not key.startswith(without)}
    tokens = load_file(fixtures / "mage" / "tokenizer.weights.safetensors")
    state |= {f"vqgan.{key}": t.float() for key, t in tokens.items()}
    whole = {"model": state, "epoch": 3, "args": argparse.Namespace(lr=1.0)}
    torch.save(whole, folder / "checkpoint-last.pth")
    return folder / "checkpoint-last.pth"


@pytest.mark.parametrize(("without", "pool"), [("norm.", "mean"), ("fc_norm.", "class")])
def test_a_file_of_the_project_is_opened(
    fixtures: Path, tmp_path: Path, without: str, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmask.projects.mage.HEAD_WIDTH", 12)  # the toy's; published heads: 64
    classifier = open_classifier(toy_file(fixtures, tmp_path, without), pool=pool)
    golden = load_file(fixtures / "mage" / "probe_features.io.safetensors")
    ids = classifier.tokenizer.encode(golden["images"])
    assert torch.equal(ids, golden["image_tokens"])
    with torch.no_grad():
        name = "pool" if pool == "mean" else "cls"
        features = classifier.model.encoder(ids)
    torch.testing.assert_close(features, golden[f"image_features_{name}"], rtol=1e-4, atol=2e-5)
    assert classifier.model.classes == 10


def test_other_files_are_refused(fixtures: Path, tmp_path: Path) -> None:
    pretrained = load_file(fixtures / "mage" / "mage_model.weights.safetensors")
    torch.save({"model": pretrained}, tmp_path / "mage.pth")
    with pytest.raises(InputError, match=r"no fine-tuned MAGE classifier; .* unmask convert"):
        open_classifier(tmp_path / "mage.pth", pool="mean")
    state = load_file(fixtures / "mage" / "mage_vit_probe.weights.safetensors")
    torch.save({"model": {**state, "blocks.0.ls1.gamma": torch.ones(3)}}, tmp_path / "more.pth")
    with pytest.raises(InputError, match=r"no rule for the key"):
        open_classifier(tmp_path / "more.pth", pool="mean")
