"""Editing keeps what is known, to the token, and mixes only under the softened hole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_system import toy_pipeline

from unmask.draws import keyed_generator
from unmask.edit import inpaint, masked_tokens, soft_edge
from unmask.errors import InputError


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 16, 16, generator=keyed_generator("edit"))


def box(top: int, left: int, bottom: int, right: int) -> Tensor:
    """A hole of 16x16 pixels."""
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[top:bottom, left:right] = True
    return hole


@pytest.mark.parametrize(
    ("hole", "ring", "expected"),
    [
        ((0, 0, 1, 1), 0, {0}),
        ((3, 3, 5, 5), 0, {0, 1, 4, 5}),
        ((4, 8, 8, 12), 0, {6}),
        ((4, 8, 8, 12), 1, {1, 2, 3, 5, 6, 7, 9, 10, 11}),
        ((0, 0, 1, 1), 1, {0, 1, 4, 5}),
        ((0, 0, 16, 16), 0, set(range(16))),
        ((15, 15, 16, 16), 3, set(range(16))),
    ],
)
def test_the_tokens_that_a_hole_touches(hole: tuple, ring: int, expected: set) -> None:
    masked = masked_tokens(box(*hole)[None], 4, ring=ring)
    assert masked.shape == (1, 16)
    assert set(masked[0].nonzero().flatten().tolist()) == expected


@pytest.mark.parametrize("ring", [0, 1])
def test_every_known_token_is_kept(ring: int) -> None:
    pipeline = toy_pipeline()
    given, hole = images(), box(8, 8, 16, 16)
    known = pipeline.tokenizer.encode(given)
    masked = masked_tokens(hole[None], 4, ring=ring).expand(2, -1)
    assert masked.sum() == 2 * (9 if ring else 4)
    changed = set()
    for seed in range(6):
        made = inpaint(pipeline, given, hole, [0, 1], seeds=[seed, seed], ring=ring)
        assert torch.equal(made.tokens[~masked], known[~masked])
        assert torch.equal(made.pixels, pipeline.tokenizer.decode(made.tokens))
        changed.add(tuple(made.tokens[masked].tolist()))
    assert len(changed) > 1


def test_a_hole_an_image() -> None:
    pipeline = toy_pipeline()
    holes = torch.stack([box(0, 0, 4, 4), box(12, 0, 16, 16)])
    known = pipeline.tokenizer.encode(images())
    made = inpaint(pipeline, images(), holes, [0, 1], seeds=[1, 2])
    masked = masked_tokens(holes, 4)
    assert masked.sum(1).tolist() == [1, 4]
    assert torch.equal(made.tokens[~masked], known[~masked])


def test_a_soft_edge() -> None:
    soft = soft_edge(box(4, 4, 12, 12)[None], 1.0)
    assert soft.shape == (1, 1, 16, 16)
    assert soft[0, 0, 8, 8] == 1
    assert 0 < soft[0, 0, 8, 4] < 1
    assert 0 < soft[0, 0, 8, 3] < soft[0, 0, 8, 4]
    assert soft[0, 0, 0, 0] == 0
    assert torch.equal(soft_edge(box(4, 4, 12, 12)[None], 0.0)[0, 0] > 0, box(4, 4, 12, 12))


def test_blending_stays_under_the_softened_hole() -> None:
    pipeline = toy_pipeline()
    given, hole = images(), box(4, 4, 8, 8)
    whole = inpaint(pipeline, given, hole, [0, 1], seeds=[1, 2])
    mixed = inpaint(pipeline, given, hole, [0, 1], seeds=[1, 2], blend_radius=1.0)
    weight = soft_edge(hole[None], 1.0).expand(2, 3, -1, -1)
    assert 0 < (weight == 0).float().mean() < 1
    assert torch.equal(mixed.pixels[weight == 0], given[weight == 0])
    low, high = torch.minimum(given, whole.pixels), torch.maximum(given, whole.pixels)
    assert (mixed.pixels >= low - 1e-6).all()
    assert (mixed.pixels <= high + 1e-6).all()
    assert not torch.equal(mixed.pixels, given)
    assert torch.equal(mixed.tokens, whole.tokens)


@pytest.mark.parametrize(
    ("given", "hole", "seeds", "message"),
    [
        (images(), torch.zeros(16, 16, dtype=torch.bool), [0, 1], "the hole is empty"),
        (images(), torch.ones(16, 8, dtype=torch.bool), [0, 1], r"\(16, 8\) pixels and .*\(16, 16"),
        (images(), torch.ones(3, 16, 16, dtype=torch.bool), [0, 1], r"\(3, 16, 16\); give \(H, W"),
        (images(), torch.ones(16, 16), [0, 1], r"the hole is torch\.float32"),
        (images()[..., :8], torch.ones(16, 8, dtype=torch.bool), [0, 1], "do not fit this system"),
        (images(), box(0, 0, 4, 4), [0], "2 images and 1 seeds"),
        (images() * 255, box(0, 0, 4, 4), [0, 1], r"wanted is \[0, 1\]"),
        (images()[:, :1], box(0, 0, 4, 4), [0, 1], "images have 1 channels"),
    ],
)
def test_what_does_not_fit(given: Tensor, hole: Tensor, seeds: list, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        inpaint(toy_pipeline(), given, hole, [0] * len(seeds), seeds=seeds)
    assert "\n" not in str(error.value)
