"""Named plans follow the options that change a recipe, or are left out and named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unmask.cli import main
from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.commands.train import Arguments
from unmask.guidance import Guidance
from unmask.recipes import RECIPES, get
from unmask.recipes.named_plans import follow

UNLABELLED = "--network.classes 0 --training.label-dropout 0 --plan.guidance.scale 1"


def parsed(name: str, *words: str) -> Any:
    return parse_with_recipe(
        Arguments,
        [name, "--out", "somewhere", *words],
        command="train",
        known=RECIPES,
        find=get,
    ).recipe


@pytest.mark.parametrize("name", RECIPES)
def test_without_options_a_recipe_is_itself(name: str) -> None:
    assert parsed(name) == get(name)


TAUGHT = [name for name, recipe in RECIPES.items() if "null" in recipe.plan.guidance.scales]


@pytest.mark.parametrize("name", TAUGHT)
def test_every_recipe_trains_without_classes_as_the_page_says(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = parsed(name, *UNLABELLED.split())
    assert made.plan.guidance.scale == 1
    assert all(named.plan.guidance.scale == 1 for named in made.plans)
    told = capsys.readouterr().err
    dropped = {p.name for p in get(name).plans} - {p.name for p in made.plans}
    assert all(f"the plan {name!r}" in told for name in dropped)


def test_a_plan_follows_where_it_agreed_and_keeps_what_is_its_own() -> None:
    recipe = get("fashion-maskgit")
    (fast,) = (p.plan for p in recipe.plans if p.name == "fast")
    assert fast.guidance.scale == recipe.plan.guidance.scale
    assert fast.steps != recipe.plan.steps
    bare = replace(recipe, plans=())
    guidance = replace(recipe.plan.guidance, scale=1.25)
    changed = replace(bare, plan=replace(bare.plan, steps=5, guidance=guidance))
    whole, left_out = follow(changed, recipe)
    assert left_out == []
    assert whole.named_plan("fast") == replace(fast, guidance=replace(fast.guidance, scale=1.25))


def test_a_plan_that_fits_no_more_is_left_out_with_the_reason() -> None:
    recipe = get("fashion-mar")
    longest = max(named.plan.steps for named in recipe.plans)
    network = replace(recipe.network, length=longest - 1, grid=(1, longest - 1))
    plan = replace(recipe.plan, steps=1, guidance=Guidance())
    changed = replace(recipe, plans=(), network=network, plan=plan)
    whole, left_out = follow(changed, recipe)
    assert not [p for p in whole.plans if p.plan.steps == longest]
    assert left_out
    assert all("exceeds" in line for line in left_out)


def test_plans_and_results_are_no_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "fashion-mar", "--help"])
    told = capsys.readouterr().out
    assert "--plan.steps" in told
    assert "--plans" not in told
    assert "--results" not in told
