"""Published checkpoints fit our networks key by key, without their weights."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.checkpoints.names import Table, to_own, to_source
from unmask.checkpoints.store import check_state
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.nn.feedback import Feedback
from unmask.projects import maskgit_jax, maskgit_pytorch, unlockmgm
from unmask.projects.project import Checkpoint

IMAGENET = MaskGITVitNetwork(
    codes=1024, width=768, depth=24, heads=8, length=256, classes=1000, dropout=0.1
)
FFHQ = MaskGITVitNetwork(codes=8192, width=768, depth=12, heads=8, length=256, dropout=0.1)


def port(length: int, **changes: object) -> MaskGITBertNetwork:
    sizes = {"codes": 1024, "width": 768, "depth": 24, "heads": 16, "feed_forward": 3072}
    return MaskGITBertNetwork(**sizes, length=length, classes=1000, **changes)


def original(length: int) -> MaskGITBertNetwork:
    return port(length, gelu="tanh", tie_embeddings=True, drop_attention_output=True)


def guided(length: int) -> MaskGITBertNetwork:
    return port(length, feedback=Feedback())


PUBLISHED = {
    "maskgit_pytorch_imagenet256": (maskgit_pytorch.TABLE, IMAGENET, 172_595_200),
    "maskgit_pytorch_ffhq256": (maskgit_pytorch.TABLE, FFHQ, 97_816_832),
    "unlockmgm_maskgit_256": (unlockmgm.TABLE, port(256), 174_012_393),
    "unlockmgm_maskgit_512": (unlockmgm.TABLE, port(1024), 174_602_217),
    "unlockmgm_toast_256": (unlockmgm.TABLE, guided(256), 174_012_393 + 41_793_808),
    "unlockmgm_toast_512": (unlockmgm.TABLE, guided(1024), 174_602_217 + 41_793_808),
    "flax_maskgit_transformer_256": (maskgit_jax.TABLE, original(256), 174_012_393 - 2025 * 768),
    "flax_maskgit_transformer_512": (maskgit_jax.TABLE, original(1024), 174_602_217 - 2025 * 768),
}


def manifest(fixtures: Path, name: str) -> dict[str, Tensor]:
    shapes = json.loads((fixtures / "manifests" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_checkpoint_fills_its_network_exactly(fixtures: Path, name: str) -> None:
    table, network, count = PUBLISHED[name]
    with torch.device("meta"):
        model = network.build()
    check_state(model.state_dict(), to_own(manifest(fixtures, name), table, name), name)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize("name", [n for n, (t, *_) in PUBLISHED.items() if t != maskgit_jax.TABLE])
def test_our_network_gives_the_published_keys_back(fixtures: Path, name: str) -> None:
    table, network, _ = PUBLISHED[name]
    with torch.device("meta"):
        source = to_source(network.build().state_dict(), table)
    published = {key: tensor.shape for key, tensor in manifest(fixtures, name).items()}
    assert {key: tensor.shape for key, tensor in source.items()} == published


@pytest.mark.parametrize("size", [256, 512])
def test_a_guided_model_is_its_base_and_an_adapter(fixtures: Path, size: int) -> None:
    full, plain = (
        to_own(manifest(fixtures, f"unlockmgm_{what}_{size}"), unlockmgm.TABLE, what)
        for what in ("toast", "maskgit")
    )
    added = full.keys() - plain.keys()
    assert added == {name for name in full if name.startswith("feedback.")}
    assert plain.keys() == full.keys() - added
    assert sum(full[name].numel() for name in added) == 41_793_808


def test_sizes_are_read_off_the_shapes(fixtures: Path) -> None:
    told = {"n_heads": 8, "dropout": 0.1}
    for name, network in (("imagenet256", IMAGENET), ("ffhq256", FFHQ)):
        state = manifest(fixtures, f"maskgit_pytorch_{name}")
        own = to_own(state, maskgit_pytorch.TABLE, name)
        found = Checkpoint(state, Path("a"), config=told, own=own)
        assert maskgit_pytorch.network_of(found) == network
    for length, size in ((256, 256), (1024, 512)):
        state = manifest(fixtures, f"flax_maskgit_transformer_{size}")
        assert maskgit_jax.network_of(Checkpoint(state, Path("a"))) == original(length)


@pytest.mark.parametrize("table", [maskgit_pytorch.TABLE, unlockmgm.TABLE, maskgit_jax.TABLE])
def test_no_two_rules_compete(table: Table) -> None:
    for side in ("source", "own"):
        patterns = Counter(pattern for rule in table for pattern in getattr(rule, side))
        assert set(patterns.values()) == {1}
