"""A network of h x w tokens is one of w x h tokens whose positions are turned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.latent import LatentNetwork
from unmask.networks.mage import MageNetwork
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.networks.network import Network
from unmask.nn.feedback import Feedback
from unmask.types import Canvas

PRE = MaskGITVitNetwork(codes=11, width=16, depth=2, heads=4, length=15, classes=3, grid=(3, 5))
POST = MaskGITBertNetwork(
    codes=11, width=16, depth=2, heads=4, feed_forward=24, length=15, classes=3, grid=(3, 5)
)
HALVES = {"width": 16, "depth": 2, "heads": 2, "decoder_width": 16, "decoder_depth": 2}
MAGE = MageNetwork(**HALVES, codes=11, decoder_heads=2, length=15, grid=(3, 5))
MAR = LatentNetwork(
    **HALVES, channels=4, decoder_heads=2, head_width=8, head_depth=1, classes=3, buffer=3,
    length=15, grid=(3, 5),
)  # fmt: skip
NETWORKS: dict[str, Network] = {
    "pre-norm": PRE,
    "unconditional": replace(PRE, classes=0),
    "pre-norm, adapter": replace(PRE, feedback=Feedback()),
    "post-norm": POST,
    "post-norm, adapter": replace(POST, feedback=Feedback()),
    "mage": MAGE,
    "mar": MAR,
    "emigm": replace(MAR, tied=True, drops=False),
}
POSITIONS = ("embed.positions", "embed.positions.weight", "trunk.positions", "trunk.tail")


def built(network: Network, state: dict[str, Tensor] | None = None) -> torch.nn.Module:
    model, generator = network.build(), keyed_generator("turned")
    for name, parameter in model.named_parameters():
        given = torch.randn(parameter.shape, generator=generator) * 0.2
        parameter.data = given if state is None else state[name]
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_turned_positions_give_the_turned_features(name: str) -> None:
    network = NETWORKS[name]
    turn = torch.arange(15).view(3, 5).T.flatten()  # the place in the 3 x 5 of each of the 5 x 3
    straight = built(network)
    state = dict(straight.state_dict())
    for key in POSITIONS:
        if key in state:
            rows = state[key].shape[-2] - 15
            state[key] = torch.cat([state[key][..., :rows, :], state[key][..., rows + turn, :]], -2)
    turned = built(replace(network, grid=(5, 3)), state)
    assert turned.grid == (5, 3)
    generator = keyed_generator("canvas")
    tokens = torch.randint(11, (2, 15), generator=generator)
    if straight.channels is not None:
        tokens = torch.randn(2, 15, straight.channels, generator=generator)
    masked = torch.stack([torch.randperm(15, generator=generator) < 9 for _ in range(2)])
    labels = torch.tensor([0, 2]) if network.classes else None
    wanted = straight.hidden(Canvas(tokens, masked), labels).tokens[:, turn]
    found = turned.hidden(Canvas(tokens[:, turn], masked[:, turn]), labels).tokens
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(straight.hidden(Canvas(tokens, masked), labels).tokens, wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_square_said_or_left_unsaid_is_one_network(name: str) -> None:
    network = replace(NETWORKS[name], length=16, grid=None)
    said, unsaid = built(replace(network, grid=(4, 4))), built(network)
    assert said.grid == unsaid.grid == (4, 4)
    pairs = zip(said.state_dict().items(), unsaid.state_dict().items(), strict=True)
    assert all(a[0] == b[0] and torch.equal(a[1], b[1]) for a, b in pairs)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("grid", [(1, 15), (15, 1), (5, 3)])
def test_thin_grids_are_grids(name: str, grid: tuple[int, int]) -> None:
    assert replace(NETWORKS[name], grid=grid).build().grid == grid


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("grid", [(3, 4), (-3, -5), (0, 15), (15, 0)])
def test_a_grid_that_the_tokens_do_not_fill_is_refused(name: str, grid: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"network\.(length=15 is not a|grid=)") as told:
        replace(NETWORKS[name], grid=grid)
    assert "\n" not in str(told.value)
