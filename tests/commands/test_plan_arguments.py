"""Every field of a plan is an option of sampling and judging, whatever classes its parts have."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
from toy_latents import LATENT_TOY
from toy_system import TOY

from unmask.cli import main
from unmask.commands.arguments import parse
from unmask.commands.plan_arguments import PlanArguments
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.diffusion import DiffusionDraw
from unmask.orders import Confidence, RandomOrder, StaticOrder
from unmask.plan_changes import kinds_of
from unmask.ranges import ranges

TOLD = {  # words and value, where the type alone does not give one
    "counts.curve": ("linear", "linear"),
    "guidance.interval": ("0.1 0.5", (0.1, 0.5)),
    "order.script": ("1 0 2", (1, 0, 2)),
    "draw.respacing": ("10", "10"),
    "draw.top_k": ("3", 3),
    "draw.temperature": ("0.5", 0.5),
    "steps": ("3", 3),
    "first_step": ("1", 1),
}


def places() -> Iterator[tuple[str, str, type]]:
    """Part, class and dataclass of everything that a plan may hold."""
    yield "", "", Plan
    for field in fields(Plan):
        for kind, cls in kinds_of(field.name).items():
            yield field.name, kind, cls


def every_path() -> list[tuple[str, str]]:
    """Path and class of each field that is no part."""
    return [
        (f"{part}.{field.name}".lstrip("."), kind)
        for part, kind, cls in places()
        for field in fields(cls)  # type: ignore[arg-type]
        if part or not kinds_of(field.name)
    ]


def example(path: str, cls: type) -> tuple[str, Any]:
    if path in TOLD:
        return TOLD[path]
    name = path.rpartition(".")[2]
    said = ranges(cls)[name]
    default = next(f.default for f in fields(cls) if f.name == name)  # type: ignore[arg-type]
    if said.choices:
        return (other := next(c for c in said.choices if c != default)), other
    if isinstance(default, bool):
        return str(not default), not default
    return ("7", 7) if int in said.kinds else ("7.5", 7.5)


def applied(words: str, plan: Plan) -> Plan:
    found = parse(PlanArguments, words.split(), prog="unmask sample")
    system: Any = SimpleNamespace(plan=plan)
    return found.of(system)


def leaves(plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in fields(Plan):
        value = getattr(plan, field.name)
        if kinds_of(field.name):
            found |= {f"{field.name}.{f.name}": getattr(value, f.name) for f in fields(value)}
        else:
            found[field.name] = value
    return found


@pytest.mark.parametrize(("path", "kind"), every_path())
def test_every_field_of_every_class_is_set_and_no_other(path: str, kind: str) -> None:
    part = path.partition(".")[0]
    cls = kinds_of(part).get(kind, Plan)
    begun = TOY.plan if not kind else replace(TOY.plan, **{part: cls()})
    word, value = example(path, cls)
    option = path.replace("_", "-")
    changed = applied(f"--plan.{option} {word}", begun)
    wanted = {**leaves(begun), path: value}
    assert leaves(changed) == wanted
    if kind and len(kinds_of(part)) > 1:  # from a plan whose part is of another class
        other = next(c for name, c in kinds_of(part).items() if name != kind)
        begun = replace(TOY.plan, **{part: other()})
        chosen = f"--plan.{part}.kind {kind} --plan.{option} {word}"
        assert leaves(applied(chosen, begun)) == wanted
        if path not in leaves(begun):
            with pytest.raises(
                InputError, match=f"plan.{path} is of {kind}, and this plan"
            ) as said:
                applied(f"--plan.{option} {word}", begun)
            assert "\n" not in str(said.value)


@pytest.mark.parametrize("command", ["sample", "eval"])
def test_help_lists_them_all_and_says_what_each_is(command: str) -> None:
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        main([command, "--help"])
    text = told.getvalue()
    listed = set(re.findall(r"--plan\.([a-z.-]+)", text))
    parts = {f.name for f in fields(Plan) if len(kinds_of(f.name)) > 1}
    wanted = {path.replace("_", "-") for path, _ in every_path()}
    assert listed == wanted | {f"{part}.kind" for part in parts}
    plain = " ".join(re.sub("[\u2500-\u257f]", " ", text).split())
    assert plain.count('"own" keeps the plan\'s. (default: own)') == len(listed)
    assert "Range: [1e-06, 10**6]. DiffusionDraw: Factor of the fresh noise" in plain
    assert "--guidance-scale" in text, "short names stay"


def test_none_is_a_value_where_a_field_may_be_none() -> None:
    begun = replace(
        TOY.plan, draw=CategoricalDraw(top_k=4), guidance=Guidance(scale=2, interval=(0.1, 0.5))
    )
    assert applied("--plan.draw.top-k None", begun).draw == CategoricalDraw()
    assert applied("--plan.guidance.interval None", begun).guidance == Guidance(scale=2)
    assert applied("--plan.draw.top-k own", begun) == begun


def test_options_of_one_part_are_set_together_and_beside_short_names() -> None:
    solver = "--plan.draw.respacing 14 --solver dpm-solver"  # neither is right alone
    drawn = DiffusionDraw(solver="dpm-solver", respacing="14")
    assert applied(solver, LATENT_TOY.plan).draw == drawn
    assert applied("--order halton --plan.order.roll True", TOY.plan).order == StaticOrder(
        roll=True
    )
    ramped = applied("--guidance-scale 3 --plan.guidance.ramp constant", TOY.plan)
    assert ramped.guidance == Guidance(scale=3, ramp="constant")
    hot = "--plan.order.kind Confidence --temperature 9"
    assert applied(hot, replace(TOY.plan, order=RandomOrder())).order == Confidence(temperature=9)
    with pytest.raises(InputError, match=r"plan\.steps is given by its short name too"):
        applied("--steps 3 --plan.steps 4", TOY.plan)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--plan.steps 0", "plan.steps=0 must be at least 1"),
        ("--plan.first-step 9", "plan.first_step=9 must be below plan.steps=5"),
        ("--plan.guidance.interval 0.5 0.1", "needs 0 <= low < high <= 1"),
        ("--plan.counts.curve cosin", "did you mean 'cosine'"),
        ("--plan.order.kind Diagonal", "Diagonal"),
        ("--plan.order.temperature hot", "hot"),
    ],
)
def test_a_value_that_a_field_cannot_hold_is_one_line(words: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        applied(words, TOY.plan)
    assert "\n" not in str(error.value)
