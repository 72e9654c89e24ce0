"""Networks put together from their sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.nn.model import MaskedModel, initialize
from unmask.types import Canvas

PRE = MaskGITVitNetwork(codes=11, width=16, depth=2, heads=4, length=9, classes=3, dropout=0.1)
POST = MaskGITBertNetwork(
    codes=11, width=16, depth=2, heads=4, feed_forward=24, length=9, classes=3
)
NETWORKS = [PRE, replace(PRE, classes=0), POST, replace(POST, tie_embeddings=True)]
IDS = ["pre", "unconditional", "post", "tied"]
Network = MaskGITVitNetwork | MaskGITBertNetwork


def built(network: Network) -> MaskedModel:
    model = network.build()
    initialize(model, keyed_generator(0, "weights"))
    return model.eval()


def canvas(batch: int = 3, length: int = 9) -> Canvas:
    generator = keyed_generator(0, "canvas")
    ids = torch.randint(11, (batch, length), generator=generator)
    return Canvas(ids, torch.rand(batch, length, generator=generator) < 0.5)


def labels_of(network: Network) -> torch.Tensor | None:
    return torch.tensor([0, 1, 2]) if network.classes else None


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_hidden_has_one_vector_a_position_and_class(network: Network) -> None:
    hidden = built(network).hidden(canvas(), labels_of(network))
    assert hidden.tokens.shape == (3, 9, 16)
    assert hidden.prefix.shape == (3, 1 if network.classes else 0, 16)


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_rows_do_not_see_each_other(network: Network) -> None:
    model, some = built(network), canvas()
    labels = labels_of(network)
    alone = model.hidden(
        Canvas(some.tokens[1:2], some.masked[1:2]), None if labels is None else labels[1:2]
    )
    torch.testing.assert_close(model.hidden(some, labels).tokens[1:2], alone.tokens)


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_every_parameter_gets_a_gradient(network: Network) -> None:
    model = built(network).train()
    hidden = model.hidden(canvas(), labels_of(network)).tokens
    model.head.loss(hidden.flatten(0, 1), canvas().tokens.flatten()).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_build_on_the_meta_device_has_the_same_parameters(network: Network) -> None:
    with torch.device("meta"):
        ghost = network.build()
    assert all(p.is_meta for p in ghost.parameters())
    shapes = {name: p.shape for name, p in ghost.named_parameters()}
    assert shapes == {name: p.shape for name, p in network.build().named_parameters()}


@pytest.mark.parametrize("network", NETWORKS, ids=IDS)
def test_initial_weights_follow_from_the_generator(network: Network) -> None:
    one, two = built(network).state_dict(), built(network).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = network.build()
    initialize(other, keyed_generator(1, "weights"))
    assert not torch.equal(other.embed.tokens.weight, one["embed.tokens.weight"])


def test_initial_weights_are_as_published() -> None:
    model = built(replace(PRE, width=128, depth=1))
    wide = [p for p in model.parameters() if p.dim() > 1 and p.numel() > 4000]
    assert len(wide) == 4
    for weight in wide:
        assert weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.embed.positions.std().item() == pytest.approx(0.02, rel=0.1)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert (parameter == (1.0 if name.endswith("norm.weight") else 0.0)).all(), name


def test_tying_saves_one_table() -> None:
    apart, tied = POST.build(), replace(POST, tie_embeddings=True).build()
    counts = [sum(p.numel() for p in model.parameters()) for model in (apart, tied)]
    assert counts[0] - counts[1] == (11 + 3 + 1) * 16


def test_only_the_pre_norm_network_with_classes_can_drop_a_label() -> None:
    assert [built(n).null_class for n in NETWORKS] == [3, None, None, None]
    assert [n.has_null_class for n in NETWORKS] == [True, False, False, False]


def test_a_grid_need_not_be_square() -> None:
    assert PRE.build().grid == (3, 3)
    assert replace(PRE, length=10, grid=(2, 5)).build().grid == (2, 5)


@pytest.mark.parametrize(
    ("base", "change", "message"),
    [
        (PRE, {"length": 10}, "network.length=10 is not a 3x3 grid"),
        (PRE, {"grid": (2, 5)}, "network.length=9 is not a 2x5 grid"),
        (PRE, {"heads": 3}, "network.width=16 does not divide by heads=3"),
        (PRE, {"heads": 0}, "network.heads=0 must be at least 1"),
        (PRE, {"classes": -1}, "network.classes=-1 must be at least 0"),
        (PRE, {"dropout": 1.0}, r"network.dropout=1.0 must lie in \[0, 1\)"),
        (POST, {"classes": 0}, "network.classes=0 must be at least 1"),
        (POST, {"attention_dropout": -0.1}, r"network.attention_dropout=-0.1 must lie in \[0, 1\)"),
    ],
)
def test_sizes_that_make_no_network_are_refused(base: Network, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(base, **change)
