"""An image is a function of its seed; what cannot be generated is refused at once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from toy_system import TOY, UNCONDITIONAL, toy_pipeline

from unmask.decode import blank_canvas
from unmask.errors import InputError
from unmask.generation import generate, generate_tokens
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.orders import RandomOrder
from unmask.pipeline import Pipeline
from unmask.types import Canvas, Step

LABELS = [i % 3 for i in range(64)]


@pytest.mark.parametrize("order", [TOY.plan.order, RandomOrder()])
def test_seeds_decide_whatever_the_batch(order: object) -> None:
    pipeline = toy_pipeline()
    plan = replace(TOY.plan, order=order)
    made = {}
    for size in (64, 7, 1):
        batches = list(generate(pipeline, LABELS, seeds=range(64), plan=plan, batch_size=size))
        made[size] = torch.cat([b.tokens for b in batches])
        assert [s for b in batches for s in b.seeds] == list(range(64))
    assert torch.equal(made[64], made[7])
    assert torch.equal(made[64], made[1])
    assert len(made[64].unique(dim=0)) == 64
    turned = pipeline.tokens(LABELS[::-1], seeds=list(range(64))[::-1], plan=plan)
    assert torch.equal(turned.tokens.flip(0), made[64])


def test_the_class_matters() -> None:
    pipeline = toy_pipeline()
    one, other = (pipeline.tokens([label] * 8).tokens for label in (0, 1))
    assert not torch.equal(one, other)


def test_pixels_are_the_decoded_tokens() -> None:
    pipeline = toy_pipeline()
    (batch,) = generate(pipeline, [0, 1], seeds=[1, 2])
    assert torch.equal(batch.pixels, pipeline.tokenizer.decode(batch.tokens))
    assert batch.tokens.dtype == torch.int64
    assert batch.pixels.dtype == torch.float32
    assert 0 <= batch.pixels.min() <= batch.pixels.max() <= 1
    assert 0 <= batch.tokens.min() <= batch.tokens.max() < 16


def test_known_tokens_stay_and_every_step_is_shown() -> None:
    pipeline = toy_pipeline()
    tokens = torch.arange(32).view(2, 16) % 16
    masked = torch.zeros(2, 16, dtype=torch.bool)
    masked[:, 5:9] = True
    steps: list[Step] = []
    made = torch.cat(
        [
            batch.tokens
            for batch in generate_tokens(
                pipeline,
                [0, 1],
                seeds=[1, 2],
                batch_size=1,
                canvas=Canvas(tokens, masked),
                observe=steps.append,
            )
        ]
    )
    assert torch.equal(made[~masked], tokens[~masked])
    assert [step.index for step in steps] == [0, 1, 2, 3, 4] * 2
    assert not steps[-1].masked.any()


def original() -> Pipeline:
    """The original's network, which has no null class."""
    network = MaskGITBertNetwork(
        codes=16, width=32, depth=1, heads=2, feed_forward=32, length=16, classes=3
    )
    training = replace(TOY.training, label_dropout=0.0)
    plan = replace(TOY.plan, guidance=Guidance())
    return toy_pipeline(replace(TOY, network=network, training=training, plan=plan), pixels=False)


def test_guidance_needs_a_null_class() -> None:
    pipeline = original()
    assert pipeline.tokens([0, 1], seeds=3).tokens.shape == (2, 16)
    guided = replace(pipeline.plan, guidance=Guidance(scale=1.5))
    with pytest.raises(InputError, match=r"guidance_scale=1\.5 needs a model trained with label"):
        generate_tokens(pipeline, [0], seeds=[0], plan=guided)
    with pytest.raises(InputError, match="has no null class"):
        generate(toy_pipeline(UNCONDITIONAL), seeds=[0], plan=guided)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": []}, "no images asked for"),
        ({"class_labels": None}, "2 seeds need 2 class labels, got none"),
        ({"class_labels": [1]}, "2 seeds need 2 class labels, got 1"),
        ({"class_labels": [0, 3]}, "class 3 is out of range; use 0 to 2"),
        ({"class_labels": [-1, 0]}, "class -1 is out of range; use 0 to 2"),
        ({"plan": replace(TOY.plan, steps=17)}, "steps=17 exceeds the 16 tokens of this model"),
        ({"batch_size": 0}, "batch_size=0 must be at least 1"),
        ({"canvas": blank_canvas(1, 16)}, r"the canvas is \(1, 16\), wanted is \(2, 16\)"),
    ],
)
def test_refused_at_once(arguments: dict, message: str) -> None:
    usual = {"class_labels": [0, 1], "seeds": [0, 1]}
    with pytest.raises(InputError, match=message):
        generate(toy_pipeline(), **usual | arguments)


def test_an_unconditional_model_refuses_labels() -> None:
    with pytest.raises(InputError, match="this model is unconditional: leave out"):
        generate(toy_pipeline(UNCONDITIONAL), [0], seeds=[0])


def test_a_system_without_names_knows_its_classes_by_number() -> None:
    whole = toy_pipeline()
    bare = SimpleNamespace(model=whole.model, tokenizer=whole.tokenizer, plan=whole.plan)
    (made,) = generate(bare, [2, 0], seeds=[3, 4])
    assert torch.equal(made.tokens, whole([2, 0], seeds=[3, 4]).tokens)
    with pytest.raises(InputError, match="unknown class"):
        generate(bare, ["cat"], seeds=[1])
