"""The two-halved trunk: what its encoder sees, what stands for hidden tokens, what is read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unmask.draws import keyed_generator
from unmask.nn.block import PreNormBlock
from unmask.nn.encoder_decoder import Blocks, EncoderDecoder
from unmask.nn.positions import first_positions, put, take
from unmask.types import Canvas

LENGTH, PREFIX, WIDTH, INNER = 6, 2, 8, 4


def blocks(width: int, depth: int = 2) -> Blocks:
    return Blocks(PreNormBlock(width, 2, feed_forward=2 * width) for _ in range(depth))


def trunk(kind: str) -> EncoderDecoder:
    inner = WIDTH if kind == "at encoder" else INNER
    made = EncoderDecoder(
        blocks(WIDTH),
        blocks(inner),
        widths=(WIDTH, inner),
        length=LENGTH,
        prefix=PREFIX,
        hidden={"drops": "dropped", "class feature": "embedded", "at encoder": "replaced"}[kind],
        mask_token=None if kind == "class feature" else nn.Parameter(torch.zeros(1, 1, inner)),
        tail=kind == "drops",
    )
    generator = keyed_generator("trunk")
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return made.eval().requires_grad_(False)


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=keyed_generator("input"))


MASKED = torch.tensor([[1, 0, 1, 0, 0, 1], [0, 1, 1, 1, 0, 0]], dtype=torch.bool)
KINDS = ["drops", "class feature", "at encoder"]


def run(kind: str, x: Tensor, read: Tensor | None = None, kept: Tensor | None = None) -> Tensor:
    return trunk(kind)(x, Canvas(MASKED, MASKED, kept), read)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_some_positions_gives_what_reading_all_gives_there(kind: str) -> None:
    x = normal(2, PREFIX + LENGTH, WIDTH)
    read = first_positions(MASKED, 3) + PREFIX
    torch.testing.assert_close(run(kind, x, read), take(run(kind, x), read))


@pytest.mark.parametrize("kind", ["drops", "at encoder"])
def test_what_is_embedded_at_a_hidden_token_does_not_matter(kind: str) -> None:
    x = normal(2, PREFIX + LENGTH, WIDTH)
    other = x.clone()
    other[:, PREFIX:][MASKED] *= -2
    torch.testing.assert_close(run(kind, x), run(kind, other))


def test_a_dropping_encoder_equals_one_that_is_told_whom_to_keep() -> None:
    x, kept = normal(2, PREFIX + LENGTH, WIDTH), first_positions(~MASKED, 3)
    assert torch.equal(run("drops", x), run("drops", x, kept=kept))


def test_an_encoder_that_is_told_whom_to_keep_sees_nobody_else() -> None:
    x = normal(2, PREFIX + LENGTH, WIDTH)
    kept = first_positions(~MASKED, 4)  # one of the hidden ones is seen too
    dropped = torch.ones_like(MASKED).scatter(1, kept, False)
    other = x.clone()
    other[:, PREFIX:][dropped] *= -2
    told = [run("class feature", part, kept=kept) for part in (x, other)]
    assert torch.equal(*told)
    assert not torch.allclose(*(run("class feature", part) for part in (x, other)))


def test_the_class_feature_stands_for_hidden_tokens_before_the_decoder() -> None:
    made = trunk("class feature")
    seen: list[Tensor] = []
    made.decoder[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    made(normal(2, PREFIX + LENGTH, WIDTH), Canvas(MASKED, MASKED))
    grid = seen[0] - made.positions
    for row, hidden in enumerate(MASKED):
        tokens = grid[row, PREFIX:]
        torch.testing.assert_close(tokens[hidden], grid[row, :1].expand(3, -1))
        assert not torch.allclose(tokens[~hidden], grid[row, :1].expand(3, -1))


def test_positions_come_first_and_ascend_and_put_undoes_take() -> None:
    assert first_positions(MASKED, 3).tolist() == [[0, 2, 5], [1, 2, 3]]
    assert first_positions(MASKED[:1], 4)[0, :3].tolist() == [0, 2, 5]
    x, where = normal(2, LENGTH, WIDTH), first_positions(MASKED, 3)
    assert torch.equal(put(x, where, take(x, where)), x)
    ids = torch.zeros(2, LENGTH, dtype=torch.long)
    assert torch.equal(put(ids, where, torch.ones_like(where)).bool(), MASKED)
