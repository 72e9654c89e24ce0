"""The network of MAR and eMIGM from its sizes, and the weights it begins with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.latent import LatentNetwork
from unmask.nn.model import MaskedModel, initialize
from unmask.nn.positions import take
from unmask.types import Canvas

NETWORK = LatentNetwork(
    channels=4,
    width=96,
    depth=2,
    heads=4,
    decoder_width=96,
    decoder_depth=1,
    decoder_heads=2,
    length=16,
    head_width=64,
    head_depth=2,
    classes=3,
    buffer=5,
)
TIED = replace(NETWORK, tied=True)
SEEING = replace(NETWORK, drops=False)
NETWORKS = [NETWORK, TIED, SEEING, replace(TIED, drops=False), replace(NETWORK, decoder_width=48)]
IDS = ["mar", "tied", "seeing", "tied and seeing", "narrow decoder"]


def built(network: LatentNetwork) -> MaskedModel:
    model = network.build()
    initialize(model, keyed_generator(0, "weights"))
    return model.eval()


def canvas_of(batch: int = 3, hidden: int = 11) -> Canvas:
    generator = keyed_generator(0, "canvas")
    latents = torch.randn(batch, 16, 4, generator=generator)
    order = torch.rand(batch, 16, generator=generator).argsort(1)
    return Canvas(latents, order < hidden)


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_hidden_tokens_are_not_seen(network: LatentNetwork) -> None:
    model, canvas, labels = built(network), canvas_of(), torch.tensor([0, 2, 3])
    other = torch.where(canvas.masked[..., None], 7.0, canvas.tokens)
    seen = model.hidden(canvas, labels).tokens
    assert seen.shape == (3, 16, network.decoder_width)
    assert torch.equal(model.hidden(Canvas(other, canvas.masked), labels).tokens, seen)
    known = torch.where(canvas.masked[..., None], canvas.tokens, canvas.tokens + 1)
    assert not torch.allclose(model.hidden(Canvas(known, canvas.masked), labels).tokens, seen)


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_reading_some_positions_is_reading_all_and_picking(network: LatentNetwork) -> None:
    model, canvas, labels = built(network), canvas_of(), torch.tensor([0, 2, 3])
    where = torch.tensor([[0, 3, 9], [15, 1, 2], [4, 5, 6]])
    some = model.hidden(canvas, labels, where).tokens
    torch.testing.assert_close(some, take(model.hidden(canvas, labels).tokens, where))


def test_no_labels_are_the_null_class() -> None:
    model, canvas = built(NETWORK), canvas_of()
    assert model.null_class == 3
    null = model.hidden(canvas, torch.full((3,), 3)).tokens
    assert torch.equal(model.hidden(canvas, None).tokens, null)
    assert not torch.allclose(model.hidden(canvas, torch.zeros(3, dtype=torch.long)).tokens, null)


def test_an_unconditional_network_has_only_the_null_class() -> None:
    network = replace(NETWORK, classes=0)
    assert not network.has_null_class
    assert built(network).hidden(canvas_of(), None).tokens.shape == (3, 16, 96)


def test_the_tied_vector_is_counted_and_saved_as_one() -> None:
    model = built(TIED)
    assert model.trunk.mask_token is model.embed.null
    assert sum(p.numel() for p in model.parameters()) == (
        sum(p.numel() for p in built(NETWORK).parameters()) - 96
    )


def test_it_begins_as_published() -> None:
    model = built(NETWORK)
    for name, module in model.trunk.named_modules():
        if isinstance(module, nn.Linear):
            bound = (6 / sum(module.weight.shape)) ** 0.5  # Xavier, on the fused matrix too
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert not module.bias.any()
    for vectors in (
        model.embed.null,
        model.embed.positions,
        model.embed.classes.weight,
        model.trunk.mask_token,
        model.trunk.positions,
        model.trunk.tail,
    ):
        assert vectors.std().item() == pytest.approx(0.02, rel=0.25)
    features = torch.randn(6, 96, generator=keyed_generator(0, "features"))
    assert not model.head.predict_at(torch.ones(6, 4), torch.arange(6), features).any()
    for block in model.head.blocks:
        assert not block.modulation.weight.any()
        assert block.norm.weight.eq(1).all()
        assert block.first.weight.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder_width": 91}, "width=91 does not divide by decoder_heads=2"),
        ({"channels": 0}, "network.channels=0 must be at least 1"),
        ({"buffer": 0}, "network.buffer=0 must be at least 1"),
        ({"length": 15}, "network.length=15 is not a 3x3 grid"),
        ({"dropout": 1.0}, "network.dropout=1.0 must lie in"),
        ({"classes": -1}, "network.classes=-1"),
        ({"tied": True, "decoder_width": 48}, "decoder_width=48: a mask token tied to the null"),
        ({"drops": False, "decoder_width": 48}, "network.width=96 and .* drops=False needs"),
    ],
)
def test_sizes_that_make_no_network_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(NETWORK, **changes)
