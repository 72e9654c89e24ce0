"""Counts that depend on what was drawn, and orders that hide a token again."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import ClassVar

import pytest
import torch
from test_decode import CODES, LENGTH, MODEL, ORDERS, run
from test_decode_latents import MODELS
from test_decode_latents import run as run_latents
from torch import Tensor
from toy_system import TOY

from unmask.counts import Counts, FixedCounts
from unmask.decode import Plan, check_head
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.files.serial import from_dict, to_dict
from unmask.guidance import Guidance, Weak
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.positions import FEWEST_ROWS
from unmask.orders import Confidence, Order, RandomOrder
from unmask.recipes.recipe import Recipe
from unmask.types import Canvas, Moment, Step

STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Confident(Counts):
    """Reveals every token above a threshold, at least one, and what the schedule demands."""

    needs_density: ClassVar[bool] = True
    threshold: float = 0.3

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        return FixedCounts().table(steps, first_step, masked, draws)

    def adapt(self, most: Tensor, at: Moment) -> Tensor:
        assert at.log_prob is not None
        sure = (at.masked & (at.log_prob > math.log(self.threshold))).sum(1)  # (B,)
        return at.masked.sum(1) - sure.clamp(min=1)


@dataclass(frozen=True)
class Unruly(Confident):
    """Wants more to be masked than is, above all after its second step, or fewer than none."""

    def adapt(self, most: Tensor, at: Moment) -> Tensor:
        return torch.ones_like(most) if at.step == 1 else most * 9 - 40


@dataclass(frozen=True)
class Forgetful(Order):
    """Random, and some known tokens are as likely to be hidden as unknown ones."""

    hides_again: ClassVar[bool] = True

    def score(self, at: Moment, draws: Draws) -> Tensor:
        u, doubt = draws.uniform("order", at.step, 2, at.masked.shape[1]).unbind(1)  # (B, L)
        return u + (~at.masked & (doubt > 0.4))


COUNTS: dict[str, Counts] = {
    "table": FixedCounts(),
    "confident": Confident(),
    "unruly": Unruly(),
}
AGAIN: dict[str, Order] = {
    "forgetful": Forgetful(),
    "hot": Confidence(temperature=60.0, anneal="compound", known="rescore"),
}
EVERY_ORDER = {**ORDERS, **AGAIN}
GUIDANCES = {
    "none": Guidance(),
    "revealed": Guidance(scale=3.0, ramp="revealed"),
    "reused": Guidance(scale=3.0, refresh=2),
}
GRID = [
    case
    for case in product(COUNTS, EVERY_ORDER, GUIDANCES)
    if case[0] != "table" or case[1] in AGAIN
]


def plan_of(counts: str, order: str, guidance: str = "none", steps: int = STEPS) -> Plan:
    return Plan(
        steps=steps,
        counts=COUNTS[counts],
        order=EVERY_ORDER[order],
        guidance=GUIDANCES[guidance],
    )


def hidden_again(steps: list[Step]) -> int:
    return sum(int((now.masked & ~before.masked).sum()) for before, now in pairwise(steps))


@pytest.mark.parametrize(("counts", "order", "guidance"), GRID)
def test_every_image_ends_fully_revealed_and_below_its_table(
    counts: str, order: str, guidance: str
) -> None:
    plan, seeds = plan_of(counts, order, guidance), [5, 6, 7]
    steps = run(plan, seeds)
    assert len(steps) == STEPS
    blank = torch.ones(3, LENGTH, dtype=torch.bool)
    table = plan.counts.table(STEPS, 0, blank, Draws(seeds))
    for step, most in zip(steps, table, strict=True):
        assert (step.masked.sum(1) <= most).all()
    for before, now in pairwise(steps):
        assert (now.masked.sum(1) <= before.masked.sum(1)).all(), "more is masked than before"
        kept = ~before.masked
        assert torch.equal(now.tokens[kept], before.tokens[kept]), "a known token changed"
    if order not in AGAIN:
        assert hidden_again(steps) == 0
    elif order == "forgetful" or counts == "table":  # 88.7 is high where little stays masked
        assert hidden_again(steps) > 0
    assert not steps[-1].masked.any()
    assert steps[-1].tokens.min() >= 0
    assert steps[-1].tokens.max() < CODES


@pytest.mark.parametrize(("counts", "order", "guidance"), GRID)
def test_an_image_does_not_depend_on_its_batch(counts: str, order: str, guidance: str) -> None:
    plan = plan_of(counts, order, guidance)
    together = run(plan, list(range(9)))
    for start in (0, 1, 5):
        alone = run(plan, list(range(start, start + 2)))
        for one, other in zip(alone, together, strict=True):
            assert torch.equal(one.tokens, other.tokens[start : start + 2])
            assert torch.equal(one.masked, other.masked[start : start + 2])


def test_images_take_counts_of_their_own_by_their_own_probabilities() -> None:
    steps = run(plan_of("confident", "greedy"), list(range(16)))
    counts = torch.stack([step.masked.sum(1) for step in steps])  # (S, B)
    assert len(counts.unique(dim=1).T) > 4
    sure, doubtful = (
        run(replace(plan_of("confident", "greedy"), counts=Confident(threshold=t)), [3])
        for t in (0.01, 1.0)
    )
    assert not sure[0].masked.any(), "all are above the lowest threshold"
    table = FixedCounts().table(STEPS, 0, torch.ones(1, LENGTH, dtype=torch.bool), Draws([3]))
    assert [int(s.masked.sum()) for s in doubtful] == table[:, 0].tolist(), "the table is a ceiling"


def test_a_batch_that_is_done_early_runs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    hidden = MODEL.hidden

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> object:
        sizes.append(-1 if read is None else read.shape[1])
        return hidden(canvas, labels, read)

    monkeypatch.setattr(MODEL, "forward", counted)
    steps = run(plan_of("confident", "greedy"), [1, 2])
    before = [LENGTH, *(int(step.masked.sum(1).max()) for step in steps)][:STEPS]
    read = [max(count, FEWEST_ROWS) for count in before if count]
    assert sizes == read, "reads what is masked, and no more"
    sizes.clear()
    run(replace(plan_of("confident", "greedy"), counts=Confident(threshold=1e-6)), [1, 2])
    assert sizes == [LENGTH]


@dataclass(frozen=True, kw_only=True)
class WhereMuchIsHidden(Guidance):
    """Guides only images that hide more than four tokens."""

    def table(self, remaining: Tensor, steps: int, total: int) -> dict[Weak, Tensor]:
        tables = super().table(remaining, steps, total)
        return {weak: torch.where(remaining > 4, table, 1.0) for weak, table in tables.items()}


def test_rows_of_one_step_may_be_guided_or_not() -> None:
    plan = Plan(steps=STEPS, guidance=WhereMuchIsHidden(scale=4.0))
    masked = torch.arange(LENGTH).expand(2, -1) < torch.tensor([[4], [LENGTH]])
    tokens = torch.zeros(2, LENGTH, dtype=torch.long)
    together = run(plan, [1, 2], canvas=Canvas(tokens, masked))[-1].tokens
    for row, seed in enumerate((1, 2)):
        one = Canvas(tokens[row : row + 1], masked[row : row + 1])
        assert torch.equal(run(plan, [seed], canvas=one)[-1].tokens[0], together[row])
    plain = run(replace(plan, guidance=Guidance()), [1, 2], canvas=Canvas(tokens, masked))[-1]
    assert torch.equal(plain.tokens[0], together[0])
    assert not torch.equal(plain.tokens[1], together[1])


@dataclass(frozen=True)
class HalfToTheEnd(Counts):
    """Half of the tokens stay masked until the last step."""

    def table(self, steps: int, first_step: int, masked: Tensor, draws: Draws) -> Tensor:
        return (masked.sum(1) // 2).expand(steps - first_step, -1)


def test_a_step_that_only_exchanges_tokens_shares_its_weak_branch_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes: list[int] = []
    hidden = MODEL.hidden

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> object:
        sizes.append(len(canvas.masked))
        return hidden(canvas, labels, read)

    monkeypatch.setattr(MODEL, "forward", counted)
    plan = Plan(steps=6, counts=HalfToTheEnd(), order=Forgetful(), guidance=GUIDANCES["reused"])
    steps = run(plan, [1, 2])
    assert all(hidden_again([a, b]) for a, b in pairwise(steps[:-1]))
    assert sizes == [4, 2, 4, 2, 4, 2]


@pytest.mark.parametrize("order", [*AGAIN, "greedy"])
@pytest.mark.parametrize("counts", COUNTS)
def test_what_was_given_is_never_hidden(counts: str, order: str) -> None:
    masked = torch.zeros(4, LENGTH, dtype=torch.bool)
    masked[0, 3:9] = True
    masked[1, 0] = True
    masked[3] = True  # row 2 is known already
    tokens = torch.arange(LENGTH).expand(4, LENGTH) % CODES
    steps = run(plan_of(counts, order), [1, 2, 3, 4], canvas=Canvas(tokens, masked))
    for step in steps:
        assert torch.equal(step.tokens[~masked], tokens[~masked])
        assert not (step.masked & ~masked).any()
    assert not steps[-1].masked.any()


@contextmanager
def counted_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the calls that read a tensor back to the host."""
    waits: list[str] = []

    def counting(name: str) -> object:
        original = getattr(Tensor, name)

        def call(self: Tensor, *arguments: object) -> object:
            waits.append(name)
            return original(self, *arguments)

        return call

    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
            patch.setattr(Tensor, name, counting(name))
        yield waits


@pytest.mark.parametrize(("order", "counts"), list(product(EVERY_ORDER, COUNTS)))
def test_a_step_waits_only_for_parts_that_depend_on_the_data(
    order: str, counts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from unmask import decode as module

    plan, entered = plan_of(counts, order, "revealed"), []
    advance = module._Batch.advance

    def timed(*arguments: object) -> object:
        with counted_waits(monkeypatch) as waits:
            made = advance(*arguments)  # type: ignore[arg-type]
        entered.append(waits)
        return made

    monkeypatch.setattr(module._Batch, "advance", timed)
    run(plan, [1, 2])
    depends = counts != "table" or order == "forgetful"
    assert plan.waits == depends
    assert entered == [["__int__"] if depends else []] * STEPS


@pytest.mark.parametrize("name", MODELS)
def test_latents_are_hidden_again_too(name: str) -> None:
    plan = Plan(
        steps=5,
        order=Forgetful(),
        guidance=Guidance(scale=3.0, refresh=2),
        draw=DiffusionDraw(respacing="ddim3"),
    )
    steps = run_latents(MODELS[name], plan, [1, 2, 3])
    assert hidden_again(steps) > 0
    assert not steps[-1].masked.any()
    assert steps[-1].tokens.isfinite().all()
    for before, now in pairwise(steps):
        assert torch.equal(now.tokens[~before.masked], before.tokens[~before.masked])


def test_counts_by_probability_are_refused_where_there_are_none() -> None:
    diffuse = Plan(counts=Confident(), order=RandomOrder(), draw=DiffusionDraw())
    with pytest.raises(
        InputError, match=r"plan\.counts=Confident needs probabilities.*FixedCounts"
    ):
        check_head(diffuse, codes=False)
    check_head(Plan(counts=Confident(), order=RandomOrder()), codes=True)
    with pytest.raises(InputError, match="needs equally many hidden tokens in every row"):
        run_latents(MODELS["drops"], diffuse, [1, 2])


def test_a_recipe_holds_them_without_a_list_of_kinds() -> None:
    plan = replace(TOY.plan, order=Forgetful(), counts=Confident(threshold=0.25))
    recipe = replace(TOY, plan=plan)
    data = to_dict(recipe)
    assert data["plan"]["order"] == {"kind": "Forgetful"}
    assert data["plan"]["counts"] == {"threshold": 0.25, "kind": "Confident"}
    assert from_dict(Recipe, data, "here") == recipe
    data["plan"]["order"] = {"kind": "Forgetfull"}
    with pytest.raises(InputError, match="unknown class 'Forgetfull'; did you mean 'Forgetful'"):
        from_dict(Recipe, data, "here")
