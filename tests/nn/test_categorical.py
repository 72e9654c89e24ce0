"""Categorical heads: loss in closed form, and the laws of drawing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unmask.draws import Draws, keyed_generator
from unmask.errors import InputError
from unmask.nn.categorical import (
    CategoricalDraw,
    CategoricalHead,
    LinearHead,
    MlmHead,
    cut_to_top_k,
)
from unmask.types import Drawn, Reading

WIDTH, CODES, OUTPUTS = 8, 5, 9


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=keyed_generator(1, "features"))


def head_of(name: str) -> CategoricalHead:
    head: CategoricalHead = LinearHead(CODES, WIDTH)
    if name == "mlm":
        head = MlmHead(CODES, WIDTH, outputs=OUTPUTS, gelu="erf")
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=keyed_generator(2, str(parameter.shape)))
    return head.requires_grad_(False)


def draw(
    head: CategoricalHead,
    strong: Tensor,
    weak: Tensor | None = None,
    scale: Tensor | None = None,
    *,
    where: Tensor | None = None,
    options: CategoricalDraw | None = None,
    seeds: list[int] | None = None,
) -> Drawn:
    batch, positions, _ = strong.shape
    where = torch.arange(positions).expand(batch, -1) if where is None else where
    branches = () if weak is None or scale is None else ((weak,), (scale,))
    reading = Reading(strong, where, positions, 0, *branches)
    return head.draw(reading, options or CategoricalDraw(), Draws(seeds or list(range(batch))))


@pytest.mark.parametrize("name", ["linear", "mlm"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_is_smoothed_cross_entropy_over_all_outputs(name: str, smoothing: float) -> None:
    head, x, targets = head_of(name), normal(6, WIDTH), torch.tensor([0, 1, 2, 3, 4, 0])
    log_probs = head.logits(x).double().log_softmax(-1)
    picked = log_probs.gather(1, targets[:, None]).squeeze(1)
    wanted = -(1 - smoothing) * picked - smoothing * log_probs.mean(-1)
    loss = head.loss(x, targets, label_smoothing=smoothing)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=1e-5)


def test_loss_is_float32_under_autocast() -> None:
    head = head_of("mlm")
    with torch.autocast("cpu", torch.bfloat16):
        assert head.loss(normal(3, WIDTH), torch.tensor([0, 1, 2])).dtype == torch.float32


def test_code_logits_are_the_first_logits() -> None:
    head, x = head_of("mlm"), normal(3, WIDTH)
    assert head.logits(x).shape == (3, OUTPUTS)
    torch.testing.assert_close(head.code_logits(x), head.logits(x)[:, :CODES])


def test_log_prob_is_that_of_the_drawn_code() -> None:
    head, x = head_of("mlm"), normal(3, 7, WIDTH)
    drawn = draw(head, x, options=CategoricalDraw(temperature=0.7))
    log_probs = (head.code_logits(x) / 0.7).log_softmax(-1)
    wanted = log_probs.gather(-1, drawn.values.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(drawn.log_prob, wanted, rtol=1e-4, atol=1e-5)


def test_log_prob_of_a_code_that_cannot_be_drawn_is_finite() -> None:
    head, x = head_of("linear"), normal(1, 3, WIDTH)
    worst = head.code_logits(x).argmin(-1)  # (1, 3)

    class Wrong(Draws):
        def categorical(self, probs: Tensor, step: int, where: Tensor, length: int) -> Tensor:
            return worst

    reading = Reading(x, torch.arange(3)[None], 3)
    log_prob = head.draw(reading, CategoricalDraw(top_k=1), Wrong([0])).log_prob
    assert log_prob is not None
    torch.testing.assert_close(log_prob, torch.full((1, 3), math.log(1e-20)))


def test_codes_are_drawn_with_their_probabilities() -> None:
    head, count = head_of("mlm"), 20_000
    x = normal(WIDTH).expand(1, count, WIDTH)
    drawn = draw(head, x).values
    probs = head.code_logits(x[0, 0]).softmax(-1)
    shares = torch.bincount(drawn.flatten(), minlength=CODES) / count
    assert (shares - probs).abs().max() < 4 * 0.5 / count**0.5


def beside(strong: Tensor, weak: Tensor, scales: list[float]) -> Reading:
    where = torch.arange(strong.shape[1]).expand(len(strong), -1)
    return Reading(strong, where, strong.shape[1], 0, [weak], [torch.tensor(scales)])


def test_scale_1_is_no_guidance_and_scale_0_is_the_weak_branch() -> None:
    head, strong, weak = head_of("linear"), normal(2, 4, WIDTH), -normal(2, 4, WIDTH)
    guided = head.guided_logits(beside(strong, weak, [1.0, 0.0]))
    torch.testing.assert_close(guided[0], head.code_logits(strong[0]))
    torch.testing.assert_close(guided[1], head.code_logits(weak[1]))


def test_guidance_goes_from_the_weak_branch_through_the_strong_one() -> None:
    head, strong, weak = head_of("linear"), normal(2, 4, WIDTH), -normal(2, 4, WIDTH)
    a, b = head.code_logits(strong), head.code_logits(weak)
    guided = head.guided_logits(beside(strong, weak, [3.0, 3.0]))
    torch.testing.assert_close(guided, 3 * a - 2 * b, rtol=1e-4, atol=1e-4)


def test_top_k_keeps_ties_and_cuts_the_rest() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, 0.0]])
    kept = cut_to_top_k(logits, 2).isfinite()
    assert kept.tolist() == [[False, True, True, True, False]]
    assert torch.equal(cut_to_top_k(logits, None), logits)
    assert torch.equal(cut_to_top_k(logits, 9), logits)


@pytest.mark.parametrize(
    "options", [CategoricalDraw(top_k=1), CategoricalDraw(temperature=1e-4)], ids=["top_k", "cold"]
)
def test_top_1_and_a_vanishing_temperature_draw_the_likeliest(options: CategoricalDraw) -> None:
    head, x = head_of("linear"), normal(3, 50, WIDTH)
    assert torch.equal(draw(head, x, options=options).values, head.code_logits(x).argmax(-1))


def test_a_row_depends_on_its_own_seed_alone() -> None:
    head, x = head_of("linear"), normal(3, 20, WIDTH)
    both = draw(head, x, seeds=[5, 6, 7]).values
    back = draw(head, x.flip(0), seeds=[7, 6, 5]).values
    assert torch.equal(both, back.flip(0))


def test_a_position_draws_the_same_whatever_else_is_read() -> None:
    head, x = head_of("linear"), normal(1, 20, WIDTH)
    where = torch.tensor([[3, 17, 4]])
    everything = draw(head, x).values
    few = head.draw(Reading(x[:, where[0]], where, 20), CategoricalDraw(), Draws([0])).values
    assert torch.equal(few, everything.gather(1, where))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "draw.temperature=0.0 must be at least 1e-06"),
        ({"temperature": float("nan")}, "draw.temperature=nan"),
        ({"top_k": 0}, "draw.top_k=0 must be at least 1"),
    ],
)
def test_options_that_leave_nothing_to_draw_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        CategoricalDraw(**options)
