"""A converted run of maskgit-pytorch keeps what its configuration says."""

from __future__ import annotations

from typing import Any

import pytest

from unmask.errors import InputError
from unmask.recipes.maskgit import PYTORCH_FFHQ256, PYTORCH_IMAGENET256
from unmask.recipes.maskgit_pytorch_run import with_settings
from unmask.recipes.training import Ema

CONFIG: dict[str, Any] = {
    "seed": 7,
    "data": {"name": "imagenet", "img_size": 256, "crop": "random"},
    "vqmodel": {"model_name": "taming/vqgan_imagenet_f16_1024"},
    "transformer": {"params": {"n_heads": 8, "mask_schedule_type": "arccos"}},
    "train": {
        "n_steps": 500_000,
        "batch_size": 2048,
        "micro_batch_size": None,
        "label_smoothing": 0,
        "cond_drop_prob": 0.2,
        "ema": {"decay": 0.999, "ema_warmup_type": "crowsonkb", "inv_gamma": 1.0, "power": 0.75},
        "print_freq": 10,
        "save_freq": 1000,
        "sample_freq": 500,
        "optim": {
            "target": "torch.optim.AdamW",
            "params": {"lr": 3e-4, "betas": [0.9, 0.99], "weight_decay": 0.01},
        },
        "sched": {"target": "utils.scheduler.ConstantWarmupLR", "params": {"warmup_steps": 50}},
    },
}


def changed(*keys: str, value: object) -> dict[str, Any]:
    """The configuration with another value at some place."""
    first, *rest = keys
    if not rest:
        return CONFIG | {first: value}
    inner, place = dict(CONFIG[first]), CONFIG[first]
    whole = CONFIG | {first: inner}
    for key in rest[:-1]:
        place = place[key]
        inner[key] = dict(place)
        inner = inner[key]
    inner[rest[-1]] = value
    return whole


def test_every_setting_of_a_run_is_in_the_recipe() -> None:
    recipe = with_settings(PYTORCH_IMAGENET256, CONFIG, "config.yaml")
    assert recipe.plan.counts.curve == recipe.masking.curve == "arccos"
    assert recipe.tokenizer == "taming-vqgan-imagenet-f16-1024"
    assert recipe.crop == "random"
    training = recipe.training
    assert (training.steps, training.batch_size, training.seed) == (500_000, 2048, 7)
    assert (training.lr, training.betas, training.weight_decay) == (3e-4, (0.9, 0.99), 0.01)
    assert (training.label_smoothing, training.label_dropout) == (0.0, 0.2)
    assert (training.schedule, training.warmup_steps) == ("constant", 50)
    assert training.clip_grad_norm is None  # the source clips only where it is told to
    assert training.ema == Ema(decay=0.999, warmup="power", power=0.75)
    assert (training.log_every, training.save_every, training.preview_every) == (10, 1000, 500)
    assert training.normalize == PYTORCH_IMAGENET256.training.normalize


def test_published_rows_keep_their_numbers_and_take_the_schedule_of_the_network() -> None:
    recipe = with_settings(PYTORCH_IMAGENET256, CONFIG, "config.yaml")
    rows = {named.name: named.plan for named in recipe.plans}
    assert [(p.guidance.scale, p.order.temperature, p.counts.curve) for p in rows.values()] == [
        (1.0, 4.0, "arccos"),
        (2.0, 5.0, "arccos"),
        (3.0, 10.0, "arccos"),
    ]
    untaught = changed("train", "cond_drop_prob", value=0)
    names = [named.name for named in with_settings(PYTORCH_IMAGENET256, untaught, "").plans]
    assert names == ["scale-1"]


@pytest.mark.parametrize("curve", ["linear", "cosine", "arccos", "pow2", "pow0.5"])
def test_samplers_take_the_schedule_of_the_network(curve: str) -> None:
    config = changed("transformer", "params", "mask_schedule_type", value=curve)
    recipe = with_settings(PYTORCH_FFHQ256, config, "config.yaml")
    assert recipe.plan.counts.curve == recipe.masking.curve == curve
    assert recipe.training.label_dropout == 0.0  # there is no null class to learn


def test_sampling_is_that_of_the_scripts_without_options() -> None:
    plan = with_settings(PYTORCH_IMAGENET256, {}, "lost").plan
    assert (plan.guidance.scale, plan.order.temperature, plan.steps) == (1.0, 4.5, 8)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("transformer", "params", "mask_schedule_type"), "cosin", "did you mean 'cosine'"),
        (("train", "optim", "params", "lr"), "fast", "lr='fast' is no float"),
        (("train", "optim", "params", "betas"), [0.9], "betas"),
        (("train", "n_steps"), -1, "steps=-1"),
        (("train", "n_steps"), [1], r"steps='\[1\]'"),
        (("train", "ema", "decay"), 2.0, "decay=2.0"),
        (("train", "label_smoothing"), float("nan"), "label_smoothing=nan"),
    ],
)
def test_a_value_that_no_recipe_can_hold_is_one_line(
    keys: tuple[str, ...], value: object, message: str
) -> None:
    with pytest.raises(InputError, match=f"^config.yaml: .*{message}") as error:
        with_settings(PYTORCH_IMAGENET256, changed(*keys, value=value), "config.yaml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("part", [*CONFIG, "nothing"])
@pytest.mark.parametrize("value", [None, 3, "text", [], {}, {"params": 4, "optim": 1, "ema": 2}])
def test_other_layouts_are_passed_over(part: str, value: object) -> None:
    recipe = with_settings(PYTORCH_IMAGENET256, CONFIG | {part: value}, "config.yaml")
    assert recipe.network == PYTORCH_IMAGENET256.network
