"""Self-guidance as it was published, as data."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unmask.counts import FixedCounts
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.classifier import load_fashion_classifier
from unmask.guidance import Guidance
from unmask.nn.feedback import Feedback
from unmask.nn.model import initialize
from unmask.objectives.substitution import SubstitutionObjective
from unmask.pictures import to_uint8
from unmask.pipeline import load
from unmask.recipes import get, self_guidance
from unmask.recipes.recipe import Recipe
from unmask.train.optim import ema_decay, learning_rate

PUBLISHED = {256: ("selfguidance-imagenet256", 25.0), 512: ("selfguidance-imagenet512", 45.0)}


@pytest.mark.parametrize("size", PUBLISHED)
def test_sampling_is_as_published(size: int) -> None:
    name, temperature = PUBLISHED[size]
    recipe = get(name)
    plan = recipe.plan
    assert plan.steps == 18
    assert plan.guidance == Guidance(weak="self", scale=2.0)  # the papers' s = 1
    assert plan.counts == FixedCounts(curve="cosine", least=1, precision="float32")
    order = plan.order
    assert (order.temperature, order.anneal, order.known) == (temperature, "compound", "rescore")
    assert recipe.network.feedback == Feedback(factor=16, blank=True)
    assert recipe.network.gelu == "erf"


@pytest.mark.parametrize("name", [name for name, _ in PUBLISHED.values()])
def test_training_is_as_published(name: str) -> None:
    recipe = get(name)
    training, options = recipe.training, recipe.substitution
    assert (training.steps, training.betas, training.eps) == (50_000, (0.9, 0.96), 1e-8)
    assert (training.weight_decay, training.clip_grad_norm) == (0.0, None)
    assert (training.label_smoothing, options.variational, options.rate) == (0.1, 0.1, 0.3)
    assert (options.proposal, options.fully_masked) == ("double-softmax", "mask")
    assert options.base_dropout
    assert (recipe.network.dropout, recipe.network.attention_dropout) == (0.1, 0.1)
    assert training.batch_size == self_guidance.BATCH_AS_RUN == 64
    rates = [learning_rate(training, k) for k in (0, 2500, 5000, 27_500, 49_999)]
    assert rates == pytest.approx([0, 5e-5, 1e-4, 5e-5, 0], abs=1e-9)
    decays = [ema_decay(training.ema, n) for n in (5001, 5002, 5003, 50_000)]
    assert decays == pytest.approx([0, 2 / 11, 3 / 12, 45_000 / 45_009], abs=1e-9)


def test_the_small_one_guides_the_shipped_network() -> None:
    recipe = get("fashion-selfguidance")
    base = get("fashion-maskgit")
    assert recipe.base == base.name
    assert replace(recipe.network, feedback=None) == base.network
    with torch.device("meta"):
        model = recipe.network.build()
    assert sum(p.numel() for p in model.feedback.parameters()) < 250_000  # half a MB in float16


def test_a_plan_that_guides_itself_needs_an_adapter() -> None:
    recipe = get("fashion-maskgit")
    plan = replace(recipe.plan, guidance=replace(recipe.plan.guidance, self_scale=2.0))
    with pytest.raises(InputError, match=r"set network\.feedback"):
        replace(recipe, plan=plan)
    replace(recipe, plan=plan, network=replace(recipe.network, feedback=Feedback()))


def toy_version(recipe: Recipe) -> SubstitutionObjective:
    sizes = {"codes": 11, "width": 16, "depth": 2, "heads": 2, "length": 16, "classes": 3}
    model = replace(recipe.network, **sizes).build()
    initialize(model, keyed_generator(recipe.name))
    options = recipe.substitution
    return SubstitutionObjective(model, options, label_smoothing=recipe.training.label_smoothing)


@pytest.mark.parametrize("recipe", self_guidance.RECIPES, ids=lambda recipe: recipe.name)
def test_its_toy_version_can_be_trained(recipe: Recipe) -> None:
    objective = toy_version(recipe)
    assert objective.options == recipe.substitution
    trained = {n for n, p in objective.model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith("feedback.") for name in trained)


def test_the_shipped_adapter_lies_beside_the_shipped_network() -> None:
    guided, base = load("fashion-selfguidance"), load("fashion-maskgit")
    assert guided.recipe.network == get("fashion-selfguidance").network
    state = guided.model.state_dict()
    assert all(torch.equal(state[name], t) for name, t in base.model.state_dict().items())
    assert guided.tokenizer.identity == base.tokenizer.identity
    assert guided.class_names == base.class_names
    labels = [label for label in range(10) for _ in range(4)]
    made = to_uint8(guided(labels).pixels)
    right = load_fashion_classifier().logits(made).argmax(1) == torch.tensor(labels)
    assert right.float().mean() > 0.75


def test_the_plans_differ_in_their_guidance_alone() -> None:
    recipe = get("fashion-selfguidance")
    scales = {named.name: named.plan.guidance.scales for named in recipe.plans}
    assert scales == {"unguided": {}, "by-class": {"null": 2.0}, "both": {"null": 2.0, "self": 2.0}}
    assert all(replace(n.plan, guidance=recipe.plan.guidance) == recipe.plan for n in recipe.plans)
