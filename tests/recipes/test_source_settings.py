"""Settings of the source projects as parts of a recipe; what has no counterpart is refused."""

from __future__ import annotations

from typing import Any

import pytest

from unmask.errors import InputError
from unmask.masking import BernoulliMasking, NormalMasking
from unmask.networks.latent import LatentNetwork
from unmask.recipes import get
from unmask.recipes.script_arguments import with_arguments
from unmask.recipes.unlockmgm_run import with_configuration

GUIDED = get("selfguidance-imagenet256")
TRAIN = {
    "max_train_steps": 90,
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "use_dynamic_substitution": True,
    "min_masking_rate": 0.1,
}
AVERAGE = {"decay": 0.9, "use_ema_warmup": False, "power": 0.5, "update_after_step": 7}


@pytest.mark.parametrize(
    ("use_mae", "weighted", "shared"),
    [(True, True, True), (False, False, True), (False, True, False)],
)
def test_masks_of_emigm_are_drawn_as_its_options_couple_them(
    use_mae: bool, weighted: bool, shared: bool
) -> None:
    args = {"use_mae": use_mae, "use_weighted_loss": weighted, "mask_strategy": "poly-0.5"}
    recipe = with_arguments(get("emigm-base-256"), {**args, "batch_size": 8, "world_size": 4}, 5)
    assert isinstance(recipe.masking, BernoulliMasking)
    assert isinstance(recipe.network, LatentNetwork)
    assert (recipe.masking.shared, recipe.masking.weighted) == (shared, weighted)
    assert (recipe.masking.curve, recipe.masking.group) == ("sqrt", 8)
    assert (recipe.network.drops, recipe.training.batch_size) == (use_mae, 32)


def test_epochs_of_mage_are_steps_and_its_micro_batches_count() -> None:
    args = {"epochs": 3, "warmup_epochs": 1, "accum_iter": 2, "batch_size": 4, "world_size": 2}
    recipe = with_arguments(get("mage-base"), {**args, "mask_ratio_std": 0.3, "lr": 1e-3}, 10)
    training, masking = recipe.training, recipe.masking
    assert isinstance(masking, NormalMasking)
    assert (training.steps, training.warmup_steps, training.lr) == (30, 10, 1e-3)
    assert (training.batch_size, training.accumulate, masking.std) == (16, 2, 0.3)
    assert with_arguments(get("mage-base"), {}, 10) == get("mage-base")


def configuration(**training: Any) -> dict[str, Any]:
    schedule = {"scheduler": "constant_with_warmup", "params": {"warmup_steps": 7}}
    return {"training": {**TRAIN, **training}, "lr_scheduler": schedule}


def test_a_configuration_of_unlockmgm_counts_one_process() -> None:
    recipe = with_configuration(GUIDED, configuration(), AVERAGE)
    training = recipe.training
    assert (training.steps, training.batch_size, training.accumulate) == (90, 16, 2)
    assert (training.schedule, training.warmup_steps) == ("constant", 7)
    assert training.ema is not None
    assert (training.ema.decay, training.ema.warmup, training.ema.after_step) == (0.9, "inverse", 7)
    assert recipe.substitution is not None
    assert recipe.substitution.dynamic
    assert with_configuration(GUIDED, {}, {}).training.ema is None


@pytest.mark.parametrize(
    ("config", "average", "words"),
    [
        (configuration(use_generation_loss=True), AVERAGE, "training.use_generation_loss=True"),
        ({**configuration(), "optimizer": {"name": "lion"}}, AVERAGE, "optimizer.name='lion'"),
        ({**configuration(), "lr_scheduler": {"scheduler": "polynomial"}}, AVERAGE, "'polynomial'"),
        (configuration(), {**AVERAGE, "min_decay": 0.5}, "min_decay=0.5"),
        (configuration(), {**AVERAGE, "update_after_step": 0}, "began with the first step"),
    ],
)
def test_what_has_no_counterpart_is_refused(
    config: dict[str, Any], average: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        with_configuration(GUIDED, config, average)
