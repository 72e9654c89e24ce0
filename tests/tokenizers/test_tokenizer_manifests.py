"""Published tokenizers fit our networks key by key, both ways, without their weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.checkpoints.names import to_source
from unmask.checkpoints.store import check_state
from unmask.errors import InputError
from unmask.tokenizers import names as flax_vqgan
from unmask.tokenizers import names as vqgan
from unmask.tokenizers.published import PUBLISHED, translate
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer

# name, layout, and trained numbers without buffers
MANIFESTS = {
    "maskgit_vqgan_titok_bin": ("maskgit-vqgan-imagenet-f16-256", "maskgit-vqgan", 54_515_587),
    "unlockmgm_maskgit_vqgan": ("maskgit-vqgan-imagenet-f16-256", "maskgit-vqgan", 54_515_587),
    "flax_maskgit_vqgan": ("maskgit-jax-vqgan-256", None, 54_515_587),
    "mage_vqgan": ("mage-vqgan", "mage-vqgan", 54_515_587),
    "taming_vqgan_f16_16384": ("taming-vqgan-imagenet-f16-16384", "taming-vqgan", 76_073_859),
    "taming_vqgan_f16_1024": ("taming-vqgan-imagenet-f16-1024", "taming-vqgan", 72_141_699),
    "llamagen_vq_ds16_c2i": ("llamagen-vq-ds16-c2i", "llamagen-vq", 71_883_403),
    "amused_vqvae": ("amused-256", "amused-vq", 146_244_675),
}


def manifest(fixtures: Path, name: str) -> dict[str, Tensor]:
    shapes = json.loads((fixtures / "manifests" / f"{name}.json").read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_tokenizer_fills_its_network_exactly(fixtures: Path, name: str) -> None:
    published, _, parameters = MANIFESTS[name]
    network, own = translate(manifest(fixtures, name), {}, name)
    assert network == PUBLISHED[published].network, "the sizes are read off the shapes"
    with torch.device("meta"):
        tokenizer = network.build()
    check_state(tokenizer.state_dict(), own, name)
    assert sum(p.numel() for p in tokenizer.parameters()) == parameters


@pytest.mark.parametrize("name", MANIFESTS)
def test_our_network_gives_the_published_keys_back(fixtures: Path, name: str) -> None:
    published, kind, _ = MANIFESTS[name]
    state = manifest(fixtures, name)
    if kind is None:
        table = flax_vqgan.flax_table(state, name)
    else:
        layout = vqgan.LAYOUTS[kind]
        assert vqgan.layout_of(state) == kind
        assert vqgan.count_levels(state, layout) == 5
        table = vqgan.table_of(layout, 5)
    with torch.device("meta"):
        source = to_source(PUBLISHED[published].network.build().state_dict(), table)
    buffers = {"quantize.codebook_used"}
    shapes = {key: tensor.shape for key, tensor in state.items() if key not in buffers}
    assert {key: tensor.shape for key, tensor in source.items()} == shapes


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_key_too_few_or_too_many_is_named(fixtures: Path, name: str) -> None:
    state = manifest(fixtures, name)
    lost = next(key for key in state if "decoder" in key and key.endswith(("bias", "weight")))
    network, own = translate({k: v for k, v in state.items() if k != lost}, {}, name)
    with torch.device("meta"):
        wanted = network.build().state_dict()
    with pytest.raises(InputError, match=rf"{name} do not fill 'decoder\."):
        check_state(wanted, own, name)
    with pytest.raises(InputError, match=f"{name}: no rule for the key 'decoder_2"):
        translate({**state, "decoder_2.weight": torch.zeros(1)}, {}, name)


def test_keys_of_training_are_left_aside(fixtures: Path) -> None:
    state = manifest(fixtures, "taming_vqgan_f16_1024")
    more = {"loss.discriminator.main.0.weight": torch.zeros(1), "loss.logvar": torch.zeros(1)}
    assert translate({**state, **more}, {}, "a")[1].keys() == translate(state, {}, "a")[1].keys()


def test_half_a_flax_file_is_named() -> None:
    with pytest.raises(InputError, match=r"^f holds no decoder"):
        translate({"params/quantizer/codebook": torch.zeros(4, 4)}, {}, "f")


def test_kl16_fills_its_network_exactly_and_gives_its_keys_back(fixtures: Path) -> None:
    state = manifest(fixtures, "kl16_vae")
    network, own = translate(state, {}, "kl16")
    assert network == PUBLISHED["kl16"].network == KLVAE()
    with torch.device("meta"):
        tokenizer = KLVAETokenizer(network)
    check_state(tokenizer.state_dict(), own, "kl16")
    count = {n: sum(p.numel() for p in m.parameters()) for n, m in tokenizer.named_children()}
    assert sum(count.values()) == 66_456_019
    assert count == {
        "encoder": 28_265_760 + 32 * 32 + 32,
        "decoder": 38_188_931 + 16 * 16 + 16,
    }, "each with its 1x1 projection"
    layout = vqgan.LAYOUTS["kl16"]
    table = vqgan.table_of(layout, vqgan.count_levels(state, layout))
    source = to_source(tokenizer.state_dict(), table)
    assert {k: t.shape for k, t in source.items()} == {k: t.shape for k, t in state.items()}


def test_a_kl16_key_too_few_or_too_many_is_named(fixtures: Path) -> None:
    state = manifest(fixtures, "kl16_vae")
    with torch.device("meta"):
        wanted = KLVAETokenizer(KLVAE()).state_dict()
    _, whole = translate({**state, "loss.logvar": torch.zeros(1)}, {}, "kl16")
    assert whole.keys() == wanted.keys(), "keys of training are left aside"
    del state["decoder.up.0.block.2.conv2.bias"]
    _, own = translate(state, {}, "kl16")
    with pytest.raises(InputError, match=r"do not fill 'decoder\.levels\.4\.blocks\.2\.conv2"):
        check_state(wanted, own, "kl16")
    with pytest.raises(InputError, match=r"kl16: no rule for the key 'model_ema\.decay'"):
        translate({**state, "model_ema.decay": torch.zeros(1)}, {}, "kl16")
