"""Weak branches that are reused: when, and what stands in for them."""

from __future__ import annotations

import pytest
import torch
from test_self_guidance import LABELS, LENGTH, MODEL
from torch import Tensor
from toy_latents import latent_model

from unmask.branches import Branches, branches
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import RandomOrder
from unmask.types import Canvas, Hidden

WEAK = ("null", "self")
NOW, LATER = torch.tensor([[0, 5, 9]] * 4), torch.tensor([[5, 15]] * 4)


@torch.inference_mode()
def test_what_is_kept_stays_as_far_away() -> None:
    known = blank_canvas(4, LENGTH)
    grown = Canvas(known.tokens + 3, torch.arange(LENGTH).expand(4, -1) > 4)
    steps = Branches(MODEL, LABELS)
    strong, weak = steps(known, WEAK, NOW, "keep")
    once = branches(MODEL, known, LABELS, WEAK, NOW)
    torch.testing.assert_close((strong, weak), once, atol=1e-5, rtol=1e-5)
    again, reused = steps(grown, WEAK, LATER, "reuse")
    torch.testing.assert_close(again, MODEL.hidden(grown, LABELS, LATER).tokens)
    before, others = branches(MODEL, known, LABELS, WEAK, LATER)
    for found, other in zip(reused, others, strict=True):
        torch.testing.assert_close(found - again, other - before, atol=1e-5, rtol=1e-4)


def test_every_so_manyth_guided_step_evaluates() -> None:
    guided = [bool(int(word)) for word in "0111101111"]
    for refresh, wanted in ((1, "0000000000"), (2, "0010100101"), (3, "0011000110")):
        reused = Guidance(scale=2.0, refresh=refresh).reused(guided)
        assert "".join(str(int(now)) for now in reused) == wanted
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

    monkeypatch.setattr(model, "hidden", counted)
    draw = DiffusionDraw(respacing="ddim3")
    plan = Plan(steps=steps, order=RandomOrder(), guidance=guidance, draw=draw)
    masked = torch.arange(LENGTH).expand(2, -1) < hidden
    canvas = blank_canvas(2, LENGTH, channels=6)._replace(masked=masked)
    *_, last = decode(model, torch.tensor([0, 1]), plan, Draws([1, 2]), canvas)
    assert found == sizes
    assert not last.masked.any()
