"""Weak branches that are reused: when, and what stands in for them."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

import pytest
import torch
from test_batch_size import sums_alike
from test_self_guidance import LABELS, LENGTH, MODEL
from torch import Tensor
from toy_latents import NETWORKS, latent_model

from unmask.counts import Counts, FixedCounts
from unmask.decode import Branches, Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import Confidence, RandomOrder
from unmask.pipeline import load
from unmask.types import Canvas, Hidden

WEAK = ("null", "self")
NOW, LATER = torch.tensor([[0, 5, 9]] * 4), torch.tensor([[5, 15]] * 4)


@torch.inference_mode()
def test_what_is_kept_stays_as_far_away() -> None:
    known = blank_canvas(4, LENGTH)
    grown = Canvas(known.tokens + 3, torch.arange(LENGTH).expand(4, -1) > 4)
    steps = Branches(MODEL, LABELS)
    strong, weak = steps(known, WEAK, NOW, "keep")
    once = steps(known, WEAK, NOW)
    torch.testing.assert_close((strong, weak), once, atol=1e-5, rtol=1e-5)
    again, reused = steps(grown, WEAK, LATER, "reuse")
    torch.testing.assert_close(again, MODEL.hidden(grown, LABELS, LATER).tokens)
    before, others = steps(known, WEAK, LATER)
    for found, other in zip(reused, others, strict=True):
        torch.testing.assert_close(found - again, other - before, atol=1e-5, rtol=1e-4)


def test_every_so_manyth_guided_step_evaluates() -> None:
    guided = [bool(int(word)) for word in "0111101111"]
    for refresh, wanted in ((1, "oooooooooo"), (2, "ookrookrkr"), (3, "okrkrokrro")):
        uses = Guidance(scale=2.0, refresh=refresh).uses(guided)
        assert "".join(use[0] if use != "reuse" else "r" for use in uses) == wanted
    assert Guidance(scale=2.0, refresh=3).uses([True] * 3, 2) == ["once", "keep", "reuse"]
    with pytest.raises(InputError, match=r"guidance\.refresh=0 must be at least 1"):
        Guidance(refresh=0)


@pytest.mark.parametrize(
    ("guidance", "steps", "hidden", "sizes"),
    [
        (Guidance(scale=2.0, refresh=2), 6, 16, [4, 2, 4, 2, 4, 2]),
        (Guidance(scale=2.0, refresh=4), 6, 16, [4, 2, 2, 2, 4, 2]),
        (Guidance(scale=2.0, refresh=2, interval=(0.1, 0.7)), 8, 16, [2, 2, 4, 2, 4, 2, 4, 2]),
        (Guidance(scale=2.0, refresh=2), 6, 2, [4, 2]),  # four steps have nothing to draw
    ],
)
def test_only_those_steps_double_the_batch(
    guidance: Guidance,
    steps: int,
    hidden: int,
    sizes: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, found = latent_model(), []
    evaluate = model.hidden

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> Hidden:
        found.append(len(canvas.masked))
        return evaluate(canvas, labels, read)

    monkeypatch.setattr(model, "forward", counted)
    draw = DiffusionDraw(respacing="ddim3")
    plan = Plan(steps=steps, order=RandomOrder(), guidance=guidance, draw=draw)
    masked = torch.arange(LENGTH).expand(2, -1) < hidden
    canvas = blank_canvas(2, LENGTH, channels=6)._replace(masked=masked)
    *_, last = decode(model, torch.tensor([0, 1]), plan, Draws([1, 2]), canvas)
    assert found == sizes
    assert not last.masked.any()


@pytest.mark.parametrize("name", ["fashion-maskgit", "fashion-mage", "fashion-selfguidance"])
def test_images_of_a_class_share_their_first_step(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, as an image is the same in a batch of any size."""
    pipeline, sizes = load(name), []
    model, doubled = pipeline.model, 1 + ("null" in pipeline.plan.guidance.scales)
    evaluate = model.hidden

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> Hidden:
        sizes.append(len(canvas.masked))
        return evaluate(canvas, labels, read)

    monkeypatch.setattr(model, "forward", counted)
    labels = torch.tensor([7, 2, 7, 7, 0]) if model.classes else None
    plan = replace(pipeline.plan, steps=4)
    run = decode(model, labels, plan, Draws(range(5)), blank_canvas(5, model.length))
    together = deque(run, maxlen=1).pop().tokens
    kinds = 3 if model.classes else 1
    first = kinds if plan.guidance.ramp == "steps" else kinds * doubled  # t / T begins unguided
    assert sizes[0] == first
    assert min(sizes[1:]) >= 5
    for row, seed in enumerate(range(5)):
        one = None if labels is None else labels[row : row + 1]
        run = decode(model, one, plan, Draws([seed]), blank_canvas(1, model.length))
        alone = deque(run, maxlen=1).pop().tokens
        assert torch.equal(alone[0], together[row]) or not sums_alike()


def test_where_something_is_known_nothing_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    known, rows, evaluate = blank_canvas(3, LENGTH), [], MODEL.hidden
    known.masked[1, 0] = False

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> Hidden:
        rows.append(len(canvas.masked))
        return evaluate(canvas, labels, read)

    monkeypatch.setattr(MODEL, "forward", counted)
    plan, labels = Plan(steps=1, order=Confidence()), torch.zeros(3, dtype=torch.long)
    list(decode(MODEL, labels, plan, Draws(range(3)), known))
    assert rows == [3]


@dataclass(frozen=True)
class AsOfAll(Counts):
    """As many as if nothing had been known: a row with few hidden tokens begins late."""

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        return FixedCounts().table(steps, first_step, torch.ones_like(masked), draws)


@pytest.mark.parametrize("refresh", [2, 3, 4])
def test_rows_with_other_holes_change_nothing(refresh: int) -> None:
    model = latent_model(NETWORKS["full"])
    draw = DiffusionDraw(respacing="ddim3")
    guidance = Guidance(scale=3.0, refresh=refresh)
    plan = Plan(steps=8, counts=AsOfAll(), order=RandomOrder(), guidance=guidance, draw=draw)
    holes = torch.tensor([2, 7, 16])
    masked = torch.arange(LENGTH).expand(3, -1) < holes[:, None]
    canvas = blank_canvas(3, LENGTH, channels=6)._replace(masked=masked)
    labels, seeds = torch.tensor([0, 1, 2]), [1, 2, 3]
    *_, together = decode(model, labels, plan, Draws(seeds), canvas)
    for row, seed in enumerate(seeds):
        one = Canvas(canvas.tokens[row : row + 1], masked[row : row + 1])
        *_, alone = decode(model, labels[row : row + 1], plan, Draws([seed]), one)
        torch.testing.assert_close(alone.tokens[0], together.tokens[row], atol=1e-4, rtol=1e-4)
