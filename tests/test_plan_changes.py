"""Plans with some numbers replaced, in Python and by the options of the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest
from toy_latents import LATENT_TOY, latent_pipeline
from toy_system import TOY

from unmask.commands.plan_arguments import PlanArguments
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import Confidence, RandomOrder
from unmask.plan_changes import PlanChanges
from unmask.recipes.recipe import NamedPlan


def test_some_numbers_are_replaced() -> None:
    assert PlanChanges().applied(TOY.plan) == TOY.plan
    plan = PlanChanges(steps=3, guidance_scale=1.5, temperature=0.5, top_k=4).applied(TOY.plan)
    assert (plan.steps, plan.guidance.scale, plan.order.temperature) == (3, 1.5, 0.5)
    assert plan.draw.top_k == 4
    assert plan.guidance.ramp == "revealed"
    assert PlanChanges(softmax_temperature=0.7).applied(TOY.plan).draw.temperature == 0.7
    assert PlanChanges(order="random").applied(TOY.plan).order == RandomOrder()


def test_an_order_that_is_there_keeps_its_numbers() -> None:
    plan = replace(TOY.plan, order=Confidence(temperature=9.0))
    assert PlanChanges(order="confidence").applied(plan) == plan
    assert (
        PlanChanges(order="confidence").applied(replace(plan, order=RandomOrder())).order
        == Confidence()
    )


def test_the_solver_is_replaced() -> None:
    plan = Plan(order=RandomOrder(), draw=DiffusionDraw(respacing="100"))
    assert PlanChanges(respacing="ddim25").applied(plan).draw == DiffusionDraw(respacing="ddim25")
    assert PlanChanges(respacing="").applied(plan).draw == DiffusionDraw(respacing="")
    solver = DiffusionDraw(solver="dpm-solver", respacing="14")
    assert PlanChanges(solver="dpm-solver", respacing="14").applied(plan).draw == solver
    assert PlanChanges(solver="ddim").applied(plan).draw == DiffusionDraw(
        solver="ddim", respacing="100"
    )
    assert PlanChanges(temperature=0.9).applied(plan).draw.temperature == 0.9


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"order": "random", "temperature": 2.0}, "temperature=2.0 has no effect on RandomOrder"),
        ({"solver": "ddim"}, "plan.draw.solver is of DiffusionDraw, and this plan's draw is Categ"),
        ({"order": "diagonal"}, "unknown order 'diagonal'"),
    ],
)
def test_what_a_plan_has_not_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        PlanChanges(**changes).applied(TOY.plan)
    with pytest.raises(InputError, match=r"plan.draw.top_k is of CategoricalDraw, and this plan's"):
        PlanChanges(top_k=4).applied(LATENT_TOY.plan)
    with pytest.raises(InputError, match="this plan draws latents"):
        PlanChanges(softmax_temperature=0.5).applied(LATENT_TOY.plan)


FAST = replace(
    LATENT_TOY.plan,
    steps=2,
    guidance=Guidance(scale=2.0, interval=(0.1, 0.5)),
    draw=DiffusionDraw(solver="dpm-solver", respacing="8"),
)


def test_options_choose_a_plan_and_change_it() -> None:
    plain = latent_pipeline()
    pipeline = latent_pipeline(replace(LATENT_TOY, plans=(NamedPlan(name="fast", plan=FAST),)))
    assert PlanArguments().of(pipeline) == LATENT_TOY.plan
    assert PlanArguments(fast=True).of(pipeline) == FAST
    assert PlanArguments(plan="fast", changes=PlanChanges(steps=3)).of(pipeline) == replace(
        FAST, steps=3
    )
    with pytest.raises(InputError, match="--fast is a plan of its own; give it or --plan other"):
        PlanArguments(fast=True, plan="other").of(pipeline)
    with pytest.raises(InputError, match="toy-latents has no plan 'fast'; it has only its default"):
        PlanArguments(fast=True).of(plain)
