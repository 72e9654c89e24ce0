"""MAR's and eMIGM's published checkpoints fit our networks key by key, without their weights."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import check_state
from unmask.errors import InputError
from unmask.projects.mar import TABLE, network_of, settle_tie
from unmask.projects.project import Checkpoint
from unmask.recipes import emigm, get, mar

NAMES = [recipe.name for recipe in (*mar.PUBLISHED, *emigm.PUBLISHED)]


def manifest(fixtures: Path, name: str) -> dict[str, Tensor]:
    path = fixtures / "manifests" / f"{name.replace('-', '_')}.json"
    shapes = json.loads(path.read_text())
    return {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}


@pytest.mark.parametrize("name", NAMES)
def test_a_published_checkpoint_fills_its_recipe_exactly(fixtures: Path, name: str) -> None:
    with torch.device("meta"):
        model = get(name).network.build()
    state = manifest(fixtures, name)
    own = to_own(state, TABLE, name)
    check_state(model.state_dict(), own, name)
    found = network_of(Checkpoint({}, Path(name), own=own))  # heads by the width, the rest seen
    assert found == get(name).network
    back = to_source(model.state_dict(), TABLE)
    assert {key: t.shape for key, t in back.items()} == {key: t.shape for key, t in state.items()}


def test_no_two_rules_compete() -> None:
    for side in ("source", "own"):
        patterns = Counter(pattern for rule in TABLE for pattern in getattr(rule, side))
        assert set(patterns.values()) == {1}


def test_a_tied_vector_is_one_parameter_with_the_value_under_the_mask_token() -> None:
    network = replace(get("emigm-small-256").network, width=16, decoder_width=16, length=4)
    model = replace(network, depth=1, decoder_depth=1, head_width=8, classes=3).build()
    assert model.trunk.mask_token is model.embed.null
    state = to_source(model.state_dict(), TABLE)
    assert {"fake_latent", "mask_token"} <= state.keys()
    state |= {"fake_latent": torch.full((1, 16), 1.0), "mask_token": torch.full((1, 16), 2.0)}
    own = settle_tie(to_own(state, TABLE, "averaged"))
    assert own["embed.null"].eq(2).all()
    untied = to_own(state | {"mask_token": torch.full((1, 1, 16), 2.0)}, TABLE, "untied")
    assert settle_tie(untied)["embed.null"].eq(1).all()


def test_an_unknown_width_needs_the_number_of_heads(fixtures: Path) -> None:
    own = to_own(manifest(fixtures, "mar-base"), TABLE, "a")
    odd = own | {"trunk.encoder_norm.weight": torch.empty(760, device="meta")}
    with pytest.raises(InputError, match=r"width 760 .* \(448, 512, 768, 1024, 1280\); give the"):
        network_of(Checkpoint({}, Path("a"), own=odd))
    found = Checkpoint({}, Path("a"), own=own, heads=6)
    assert network_of(found).decoder_heads == 6
    assert network_of(found._replace(decoder_heads=4)).decoder_heads == 4
