"""Laws of decoding, for every order x count x guidance."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from unmask.counts import FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws, keyed_generator
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.nn.model import MaskedModel, initialize
from unmask.orders import Confidence, RandomOrder, StaticOrder
from unmask.types import Canvas, Drawn, Reading, Step

LENGTH, CODES, CLASSES = 16, 11, 3

ORDERS = {
    "confidence": Confidence(temperature=4.5),
    "greedy": Confidence(temperature=0.0),
    "compound": Confidence(temperature=4.5, anneal="compound"),
    "random": RandomOrder(),
    "halton": StaticOrder(path="halton"),
    "rolled": StaticOrder(path="halton", roll=True),
    "raster": StaticOrder(path="raster"),
    "scripted": StaticOrder(path="scripted", script=tuple(reversed(range(LENGTH)))),
}
COUNTS = {
    "overall": FixedCounts(pace="overall"),
    "each_step": FixedCounts(least=1, precision="float32"),
    "arccos": FixedCounts(curve="arccos"),
    "pow2": FixedCounts(curve="pow2.5", pace="overall"),
}
GUIDANCES = {
    "none": Guidance(),
    "constant": Guidance(scale=3.0),
    "revealed": Guidance(scale=3.0, ramp="revealed"),
    "steps": Guidance(scale=0.5, ramp="steps"),
    "power-cosine": Guidance(scale=2.0, ramp="power-cosine", power=2.0),
    "reused": Guidance(scale=3.0, refresh=2),
}
GRID = list(product(ORDERS, COUNTS, GUIDANCES))


def pre_norm(**changes: int) -> MaskedModel:
    sizes = {"codes": CODES, "width": 16, "depth": 2, "heads": 2, "length": LENGTH}
    model = MaskGITVitNetwork(**{**sizes, "classes": CLASSES, **changes}).build()
    initialize(model, keyed_generator("weights"))
    for parameter in model.parameters():  # away from near-uniform predictions
        parameter.data.mul_(4)
    return model.eval()


def post_norm() -> MaskedModel:
    network = MaskGITBertNetwork(
        codes=CODES, width=16, depth=2, heads=2, feed_forward=32, length=LENGTH, classes=CLASSES
    )
    model = network.build()
    initialize(model, keyed_generator("weights"))
    return model.eval()


MODEL = pre_norm()


def run(
    plan: Plan,
    seeds: list[int],
    labels: list[int] | None = None,
    *,
    model: MaskedModel = MODEL,
    canvas: Canvas | None = None,
) -> list[Step]:
    labels = labels or [seed % CLASSES for seed in seeds]
    canvas = canvas or blank_canvas(len(seeds), model.length)
    return list(decode(model, torch.tensor(labels), plan, Draws(seeds), canvas))


def plan_of(order: str, counts: str, guidance: str, steps: int = 6) -> Plan:
    return Plan(
        steps=steps, order=ORDERS[order], counts=COUNTS[counts], guidance=GUIDANCES[guidance]
    )


@pytest.mark.parametrize(("order", "counts", "guidance"), GRID)
def test_each_position_is_revealed_exactly_once(order: str, counts: str, guidance: str) -> None:
    steps = run(plan_of(order, counts, guidance), [5, 6, 7])
    assert len(steps) == 6
    revealed = torch.zeros(3, LENGTH, dtype=torch.long)
    before, tokens = torch.ones(3, LENGTH, dtype=torch.bool), torch.zeros(3, LENGTH)
    for step in steps:
        assert not (step.masked & ~before).any(), "a known token was masked again"
        known = ~before
        assert torch.equal(step.tokens[known], tokens[known]), "a known token changed"
        revealed += before & ~step.masked
        before, tokens = step.masked, step.tokens
    assert (revealed == 1).all()
    assert not before.any()
    assert tokens.min() >= 0
    assert tokens.max() < CODES


@pytest.mark.parametrize(("order", "counts", "guidance"), GRID)
def test_a_permuted_batch_gives_permuted_images(order: str, counts: str, guidance: str) -> None:
    plan = plan_of(order, counts, guidance)
    seeds, labels = [11, 12, 13, 14], [0, 1, 2, 0]
    shuffle = [2, 0, 3, 1]
    straight = run(plan, seeds, labels)[-1].tokens
    shuffled = run(plan, [seeds[i] for i in shuffle], [labels[i] for i in shuffle])[-1].tokens
    assert torch.equal(shuffled, straight[shuffle])


@pytest.mark.parametrize("ramp", ["constant", "steps", "revealed", "power-cosine"])
@pytest.mark.parametrize("order", ["confidence", "random"])
def test_guidance_scale_one_equals_none(order: str, ramp: str) -> None:
    plan = plan_of(order, "overall", "none")
    guided = replace(plan, guidance=Guidance(scale=1.0, ramp=ramp))
    for plain, other in zip(run(plan, [1, 2]), run(guided, [1, 2]), strict=True):
        assert torch.equal(plain.tokens, other.tokens)
        assert torch.equal(plain.masked, other.masked)


def test_guidance_of_scale_one_runs_no_doubled_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    model = pre_norm()
    hidden = model.hidden

    def counted(canvas: Canvas, class_labels: Tensor | None, read: Tensor | None = None) -> object:
        sizes.append(len(canvas.tokens))
        return hidden(canvas, class_labels, read)

    monkeypatch.setattr(model, "forward", counted)
    run(plan_of("confidence", "overall", "none"), [1, 2], model=model)
    assert sizes == [2] * 6
    sizes.clear()
    run(plan_of("confidence", "overall", "constant"), [1, 2], model=model)
    assert sizes == [4] * 6, "strong and weak must share one batch"
    sizes.clear()
    run(plan_of("confidence", "overall", "steps"), [1, 2], model=model)
    assert sizes == [2] + [4] * 5, "a ramp that starts at 1 needs no weak branch yet"


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("guidance", ["none", "revealed"])
def test_an_image_does_not_depend_on_its_batch(order: str, guidance: str) -> None:
    plan = plan_of(order, "each_step", guidance)
    images = {}
    for size in (1, 7, 64):
        rows = [run(plan, list(range(64))[i : i + size])[-1].tokens for i in range(0, 64, size)]
        images[size] = torch.cat(rows)
    assert torch.equal(images[1], images[7])
    assert torch.equal(images[1], images[64])


def test_other_seeds_and_classes_give_other_images() -> None:
    plan = plan_of("confidence", "overall", "none")
    tokens = run(plan, [1, 1, 2], [0, 1, 0])[-1].tokens
    assert not torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


@pytest.mark.parametrize("order", list(ORDERS))
def test_known_tokens_stay_and_rows_may_know_different_shares(order: str) -> None:
    masked = torch.zeros(4, LENGTH, dtype=torch.bool)
    masked[0, 3:9] = True
    masked[1, 0] = True
    masked[3] = True  # row 2 is known already
    tokens = torch.arange(LENGTH).expand(4, LENGTH) % CODES
    steps = run(
        plan_of(order, "each_step", "constant"), [1, 2, 3, 4], canvas=Canvas(tokens, masked)
    )
    for step in steps:
        assert torch.equal(step.tokens[~masked], tokens[~masked])
        assert not (step.masked & ~masked).any()
    assert not steps[-1].masked.any()


def test_hot_rescored_confidence_masks_known_tokens_again_and_still_ends() -> None:
    plan = Plan(
        steps=6,
        counts=FixedCounts(least=1, precision="float32"),
        order=Confidence(temperature=60.0, anneal="compound", known="rescore"),
    )
    steps = run(plan, list(range(8)))
    again = sum(int((now.masked & ~before.masked).sum()) for before, now in pairwise(steps))
    assert again > 0
    assert not steps[-1].masked.any()


def test_raster_reveals_from_the_first_position_on() -> None:
    for step in run(plan_of("raster", "overall", "none"), [1]):
        count = int(step.masked.sum())
        expected = torch.arange(LENGTH) >= LENGTH - count
        assert torch.equal(step.masked[0], expected)


def test_editing_skips_the_first_steps() -> None:
    plan = replace(plan_of("confidence", "each_step", "none", steps=12), first_step=2)
    steps = run(plan, [1])
    assert [step.index for step in steps] == list(range(2, 12))
    assert int(steps[0].masked.sum()) == int(LENGTH * 0.9238795)  # cos(3/12 pi/2)


@pytest.mark.parametrize("images", [1, 2, 3, 5])
def test_a_head_reads_four_rows_or_more(images: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, rows = pre_norm(), []
    draw = model.head.draw

    def counted(reading: Reading, *others: object) -> Drawn:
        rows.append(reading.strong.shape[:2].numel())
        assert reading.where.shape == reading.strong.shape[:2]
        return draw(reading, *others)

    monkeypatch.setattr(model.head, "draw", counted)
    run(plan_of("random", "each_step", "none", steps=LENGTH), list(range(images)), model=model)
    assert min(rows) == {1: 4, 2: 4, 3: 6, 5: 5}[images], "fewer would be added up in another order"


def test_codes_of_logits_that_are_no_numbers_are_told_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, calls = pre_norm(), []
    logits = model.head.code_logits

    def broken_once(features: Tensor) -> Tensor:
        calls.append(True)
        return logits(features) * (torch.nan if len(calls) == 2 else 1.0)

    monkeypatch.setattr(model.head, "code_logits", broken_once)
    steps = run(plan_of("confidence", "overall", "none"), [1, 2], model=model)
    assert [bool(step.unsound) for step in steps] == [False, *[True] * 5]


def test_the_post_norm_network_decodes_too() -> None:
    steps = run(plan_of("confidence", "each_step", "none"), [1, 2], model=post_norm())
    assert not steps[-1].masked.any()


def test_decoding_leaves_no_trace_in_the_canvas() -> None:
    canvas = blank_canvas(2, LENGTH)
    before = canvas.tokens.clone(), canvas.masked.clone()
    run(plan_of("confidence", "overall", "none"), [1, 2], canvas=canvas)
    assert torch.equal(before[0], canvas.tokens)
    assert torch.equal(before[1], canvas.masked)


@pytest.mark.parametrize("changes", [{"steps": 0}, {"steps": 4, "first_step": 4}])
def test_a_plan_without_steps_is_refused(changes: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"steps=0 must be at least 1|must be below plan.steps=4"):
        Plan(**changes)
