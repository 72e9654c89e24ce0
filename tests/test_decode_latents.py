"""Laws of decoding latents, for every network x count x order x guidance, and every solver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from toy_latents import NETWORKS, latent_model

from unmask.counts import AncestralCounts, Counts, FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.model import MaskedModel
from unmask.nn.positions import FEWEST_ROWS
from unmask.orders import RandomOrder, StaticOrder
from unmask.types import Canvas, Step

LENGTH, CHANNELS, CLASSES, STEPS = 16, 6, 3, 5
MODELS = {name: latent_model(network) for name, network in NETWORKS.items()}
COUNTS: dict[str, Counts] = {
    "fixed": FixedCounts(least=1),
    "overall": FixedCounts(pace="overall"),
    "ancestral": AncestralCounts(),
}
ORDERS = {"random": RandomOrder(), "halton": StaticOrder(roll=True)}
GUIDANCES = {
    "none": Guidance(),
    "ramp": Guidance(scale=3.0, ramp="revealed"),
    "interval": Guidance(scale=3.0, interval=(0.2, 0.7)),
    "reused": Guidance(scale=3.0, refresh=3),
}
SOLVERS = {
    "ddpm": DiffusionDraw(respacing="ddim3"),
    "ddim": DiffusionDraw(solver="ddim", respacing="ddim3"),
    "dpm-solver": DiffusionDraw(solver="dpm-solver", respacing="3"),
}
GRID = list(product(MODELS, COUNTS, ORDERS, GUIDANCES))
UNTIED = [case for case in GRID if "tied" not in case[0]]


def plan_of(
    counts: str = "fixed", order: str = "random", guidance: str = "ramp", solver: str = "ddpm"
) -> Plan:
    return Plan(
        steps=STEPS,
        counts=COUNTS[counts],
        order=ORDERS[order],
        guidance=GUIDANCES[guidance],
        draw=SOLVERS[solver],
    )


def run(
    model: MaskedModel,
    plan: Plan,
    seeds: list[int],
    labels: list[int] | None = None,
    *,
    canvas: Canvas | None = None,
    run_seed: int = 0,
) -> list[Step]:
    labels = labels or [seed % CLASSES for seed in seeds]
    canvas = canvas or blank_canvas(len(seeds), LENGTH, channels=CHANNELS)
    draws = Draws(seeds, run_seed=run_seed)
    return list(decode(model, torch.tensor(labels), plan, draws, canvas))


def assert_same_but_for_rounding(found: Tensor, wanted: Tensor) -> None:
    """A matrix product of other rows may sum in another order.

    An untrained network makes some latents a thousand times larger than others, and errors with
    them, so the largest is the measure: 2e-5 of it are 170 float32 roundings.
    """
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("name", "counts", "order", "guidance"), GRID)
def test_each_position_is_revealed_exactly_once(
    name: str, counts: str, order: str, guidance: str
) -> None:
    steps = run(MODELS[name], plan_of(counts, order, guidance), [5, 6, 7])
    assert len(steps) == STEPS
    revealed = torch.zeros(3, LENGTH, dtype=torch.long)
    before, tokens = torch.ones(3, LENGTH, dtype=torch.bool), torch.zeros(3, LENGTH, CHANNELS)
    for step in steps:
        assert not (step.masked & ~before).any(), "a known token was masked again"
        assert len(step.masked.sum(1).unique()) == 1, "rows hide unequally many"
        assert torch.equal(step.tokens[~before], tokens[~before]), "a known token changed"
        assert (step.tokens[step.masked] == 0).all(), "a token was drawn before its turn"
        revealed += before & ~step.masked
        before, tokens = step.masked, step.tokens
    assert (revealed == 1).all()
    assert not before.any()
    assert tokens.isfinite().all()
    assert (tokens != 0).all()


@pytest.mark.parametrize(("name", "counts", "order", "guidance"), UNTIED)
def test_a_permuted_batch_gives_permuted_latents(
    name: str, counts: str, order: str, guidance: str
) -> None:
    plan = plan_of(counts, order, guidance)
    seeds, labels, shuffle = [11, 12, 13, 14], [0, 1, 2, 0], [2, 0, 3, 1]
    straight = run(MODELS[name], plan, seeds, labels)
    shuffled = run(MODELS[name], plan, [seeds[i] for i in shuffle], [labels[i] for i in shuffle])
    for one, other in zip(straight, shuffled, strict=True):
        assert torch.equal(other.masked, one.masked[shuffle])
        assert_same_but_for_rounding(other.tokens, one.tokens[shuffle])


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("counts", COUNTS)
def test_an_image_alone_is_the_image_in_its_batch(name: str, counts: str, solver: str) -> None:
    plan = plan_of(counts, solver=solver)
    together = run(MODELS[name], plan, list(range(5)))[-1].tokens
    alone = torch.cat([run(MODELS[name], plan, [seed])[-1].tokens for seed in range(5)])
    assert_same_but_for_rounding(alone, together)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", MODELS)
def test_guidance_scale_one_equals_none(name: str, solver: str) -> None:
    plan = plan_of(guidance="none", solver=solver)
    for guidance in (Guidance(scale=1.0, ramp="revealed"), Guidance(interval=(0.2, 0.7))):
        guided = run(MODELS[name], replace(plan, guidance=guidance), [1, 2])
        for one, other in zip(run(MODELS[name], plan, [1, 2]), guided, strict=True):
            assert torch.equal(one.tokens, other.tokens)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("guidance", ["ramp", "interval"])
def test_guidance_seed_class_and_run_seed_matter(guidance: str, solver: str) -> None:
    model, plain = MODELS["drops"], plan_of("ancestral", guidance="none", solver=solver)
    guided = run(model, replace(plain, guidance=GUIDANCES[guidance]), [1, 1, 2], [0, 1, 0])
    tokens = run(model, plain, [1, 1, 2], [0, 1, 0])[-1].tokens
    assert not torch.allclose(tokens, guided[-1].tokens)
    assert not torch.allclose(tokens[0], tokens[1])
    assert not torch.allclose(tokens[0], tokens[2])
    counts = {
        tuple(int(step.masked[0].sum()) for step in run(model, plain, [1], run_seed=seed))
        for seed in range(8)
    }
    assert len(counts) > 4, "the run's seed decides the counts"


@pytest.mark.parametrize("counts", COUNTS)
@pytest.mark.parametrize("name", MODELS)
def test_known_tokens_are_kept_to_the_bit(name: str, counts: str) -> None:
    generator = torch.Generator().manual_seed(0)
    masked = torch.rand(3, LENGTH, generator=generator).argsort(1) < 9  # nine in each row
    known = torch.randn(3, LENGTH, CHANNELS, generator=generator)
    canvas = Canvas(known, masked)
    for step in run(MODELS[name], plan_of(counts), [1, 2, 3], canvas=canvas):
        assert torch.equal(step.tokens[~masked], known[~masked])
        assert not (step.masked & ~masked).any()
    assert not step.masked.any()
    other = Canvas(torch.where(masked[..., None], 9.0, known), masked)
    again = run(MODELS[name], plan_of(counts), [1, 2, 3], canvas=other)[-1].tokens
    assert torch.equal(again, step.tokens), "what a hidden token holds must not matter"


@pytest.mark.parametrize("name", ["drops", "tied"])
def test_rows_that_hide_unequally_many_are_refused_where_they_must_be(name: str) -> None:
    masked = torch.ones(2, LENGTH, dtype=torch.bool)
    masked[0, 0] = False
    canvas = Canvas(torch.zeros(2, LENGTH, CHANNELS), masked)
    with pytest.raises(InputError, match="from 15 to 16 tokens"):
        run(MODELS[name], plan_of(), [1, 2], canvas=canvas)
    steps = run(MODELS["full"], plan_of(), [1, 2], canvas=canvas)
    assert not steps[-1].masked.any()
    with pytest.raises(InputError, match="random counts are shared"):
        run(MODELS["full"], plan_of("ancestral"), [1, 2], canvas=canvas)


class Waits(TorchDispatchMode):
    """Refuses operations for whose result the host would have to wait."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "item", "equal", "unique")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        assert name not in self.FORBIDDEN, f"{name} makes the host wait for the device"
        if name == "index":  # by positions, never by a mask
            assert all(t is None or t.dtype != torch.bool for t in args[1]), "index by a mask"
        return func(*args, **(kwargs or {}))


@contextmanager
def no_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is read back: neither by an operation nor by a copy to the host."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the host waits for the device")

    with monkeypatch.context() as patch, Waits():
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__"):
            patch.setattr(Tensor, name, refuse)
        yield


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("guidance", GUIDANCES)
@pytest.mark.parametrize("counts", ["fixed", "ancestral"])
@pytest.mark.parametrize("name", ["drops", "full"])
def test_no_step_waits_for_the_device(
    name: str, counts: str, guidance: str, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, begun = MODELS[name], []
    hidden = model.hidden

    def first_call(*arguments: Any) -> object:
        begun.append(True)
        return hidden(*arguments)

    monkeypatch.setattr(model, "forward", first_call)
    plan, labels = plan_of(counts, guidance=guidance, solver=solver), torch.tensor([0, 1])
    plan.draw.stages()  # computed once for all plans
    canvas = blank_canvas(2, LENGTH, channels=CHANNELS)
    steps = decode(model, labels, plan, Draws([1, 2]), canvas)
    next(steps)  # the tables are made here, at the price of one wait
    calls = len(begun)
    with no_waits(monkeypatch):
        rest = list(steps)
    assert len(begun) > calls
    assert not rest[-1].masked.any()


def test_what_would_wait_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(3)
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        lambda: x[x > 0],
        lambda: x.nonzero(),
        lambda: x.tolist(),
    ):
        with pytest.raises(AssertionError, match=r"wait|mask"), no_waits(monkeypatch):
            wait()


@pytest.mark.parametrize("name", MODELS)
def test_a_step_without_work_runs_no_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = MODELS[name], []
    hidden = model.hidden

    def counted(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> object:
        assert read is not None
        sizes.append((len(canvas.tokens), read.shape[1]))
        return hidden(canvas, labels, read)

    monkeypatch.setattr(model, "forward", counted)
    known = Canvas(torch.ones(2, LENGTH, CHANNELS), torch.zeros(2, LENGTH, dtype=torch.bool))
    assert len(run(model, plan_of(), [1, 2], canvas=known)) == STEPS
    assert not sizes
    one = known._replace(masked=torch.arange(LENGTH).expand(2, -1) == 3)
    run(model, plan_of(), [1, 2], canvas=one)
    assert sizes == [(4, FEWEST_ROWS)], "one hidden token is one read, strong beside weak"
    sizes.clear()
    steps = run(model, plan_of(), [1, 2])
    counts = [LENGTH, *(int(step.masked[0].sum()) for step in steps)]
    drawn = [before - after for before, after in pairwise(counts)]
    read = [max(count, FEWEST_ROWS) for count in drawn]
    assert [count for _, count in sizes] == read, "the network ends where a token is revealed alone"
