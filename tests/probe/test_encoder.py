"""The encoder's pooling, its place in a generator, and images of another size."""

from __future__ import annotations

import pytest
import torch
from toy_mage import SIZES, toy_encoder, toy_generator
from toy_system import toy_pipeline

from unmask.errors import InputError
from unmask.probe.classifier import encoder_of
from unmask.probe.encoder import Encoder, fit_grid, resize_positions
from unmask.types import Canvas

CODES = torch.arange(32).view(2, 16) % SIZES.codes


@torch.no_grad()
def test_each_pool_reads_its_own_positions() -> None:
    mean, slot = toy_encoder("mean"), toy_encoder("class")
    x, prefix = mean.embed(Canvas(CODES, torch.zeros_like(CODES, dtype=torch.bool)))
    assert prefix == 1
    every = mean.blocks(x)
    torch.testing.assert_close(mean(CODES), mean.norm(every[:, 1:].mean(1)))
    torch.testing.assert_close(slot(CODES), slot.norm(every)[:, 0])


@torch.no_grad()
def test_the_class_slot_does_not_depend_on_the_image() -> None:
    embed = toy_encoder().embed
    visible = torch.zeros_like(CODES, dtype=torch.bool)
    x, _ = embed(Canvas(CODES, visible))
    assert torch.equal(x[0, 0], x[1, 0])
    assert embed.tokens.num_embeddings == SIZES.codes + 1001
    hidden, _ = embed(Canvas(CODES, ~visible))
    row = embed.tokens.weight[SIZES.codes + 1000] + embed.positions.weight[1]
    torch.testing.assert_close(hidden[0, 1], embed.norm(row))


@pytest.mark.parametrize("pool", ["mean", "class"])
@torch.no_grad()
def test_a_generators_encoder_is_taken_with_its_weights(pool: str) -> None:
    pipeline = toy_generator()
    model, encoder = pipeline.model, encoder_of(pipeline, pool=pool).eval()
    x, _ = model.embed(Canvas(CODES, torch.zeros_like(CODES, dtype=torch.bool)))
    encoded = model.trunk.encoder(x)
    if pool == "mean":
        expected = torch.nn.functional.layer_norm(encoded[:, 1:].mean(1), (24,), eps=1e-6)
    else:
        expected = model.trunk.encoder_norm(encoded)[:, 0]
    torch.testing.assert_close(encoder(CODES), expected)


def test_another_systems_generator_is_refused() -> None:
    with pytest.raises(InputError, match=r"'toy', which is no MAGE.*give a MAGE model"):
        encoder_of(toy_pipeline())


def test_another_grid_is_taken_only_when_asked() -> None:
    encoder = toy_encoder()
    with pytest.raises(InputError, match=r"6x6 tokens, .* trained on 4x4.*interpolate"):
        fit_grid(encoder, (6, 6), interpolate=False)
    fit_grid(encoder, (4, 4), interpolate=False)
    before = encoder.embed.positions.weight.detach().clone()
    assert torch.equal(before, toy_encoder().embed.positions.weight)
    fit_grid(encoder, (6, 6), interpolate=True)
    assert encoder.sizes.grid == (6, 6)
    assert encoder(torch.zeros(1, 36, dtype=torch.int64)).shape == (1, SIZES.width)
    rebuilt = Encoder(encoder.sizes, pool="mean")
    rebuilt.load_state_dict(encoder.state_dict())


def test_resized_positions_keep_what_is_even() -> None:
    table = torch.arange(5.0).expand(17, 5).clone()
    table[0] = 9
    resized = resize_positions(table, (4, 4), (3, 7))
    torch.testing.assert_close(resized[1:], torch.arange(5.0).expand(21, 5))
    assert torch.equal(resized[0], table[0])
    plain = torch.randn(25, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_positions(plain, (4, 4), (4, 4)), plain[:17])


def test_drop_path_grows_to_its_rate_and_leaves_out_whole_images() -> None:
    encoder = toy_encoder()
    encoder.set_drop_path(0.5)
    assert [block.drop_path.p for block in encoder.blocks] == [0.0, 0.5]
    drop = encoder.blocks[1].drop_path.train()
    torch.manual_seed(0)
    x = torch.ones(2000, 3, 2)
    kept = drop(x)[:, 0, 0]
    assert set(kept.tolist()) == {0.0, 2.0}
    assert abs(float(kept.mean()) - 1) < 0.1
    rows = drop(x).flatten(1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert drop.eval()(x) is x
