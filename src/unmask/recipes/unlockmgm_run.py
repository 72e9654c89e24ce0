"""What the configuration of UnlockMGM's fine-tuning says, as parts of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unmask.errors import InputError
from unmask.masking import TrainMasking
from unmask.recipes.maskgit_pytorch_run import at, checked
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import Ema

# Keys below "training", and what the same is called here.
TRAINING = {
    "max_train_steps": "steps",
    "gradient_accumulation_steps": "accumulate",
    "mixed_precision": "precision",
    "seed": "seed",
    "label_smoothing": "label_smoothing",
    "max_grad_norm": "clip_grad_norm",
}
EXPERIMENT = {
    "log_every": "log_every",
    "save_every": "save_every",
    "generate_every": "preview_every",
}
SCHEDULES = {
    "constant": "constant",
    "constant_with_warmup": "constant",
    "linear": "linear",
    "cosine": "cosine",
    "cosine_with_restarts": "cosine",  # its number of cycles is never read
}
# What else a run may do, which has no counterpart here.
FIXED = {
    ("training", "use_generation_loss"): False,
    ("training", "use_correction_loss"): True,
    ("training", "correction_loss_weight"): 1.0,
    ("training", "ema_update_every"): 1,
    ("model", "fine_tune", "train_head"): False,
    ("model", "fine_tune", "predict_all"): False,
}


def with_configuration(
    recipe: Recipe, config: Mapping[str, Any], average: Mapping[str, Any]
) -> Recipe:
    """The recipe with the settings of a run; what they do not name stays.

    The batch is one process's: the source does not average gradients between processes, and saves
    what the first of them learnt.

    Args:
        recipe: of an equal network, with substitution.
        config: the run's ``config.yaml``; empty where it is lost.
        average: ``ema_model/config.json``; empty without an average.

    Raises:
        InputError: for a value that the recipe cannot hold.
    """
    for keys, wanted in FIXED.items():
        if (value := at(config, *keys)) not in (None, wanted):
            raise InputError(
                f"{'.'.join(keys)}={value!r} is beyond this library, which has {wanted}"
            )
    if (name := at(config, "optimizer", "name")) not in (None, "adamw", "fused_adam"):
        raise InputError(f"optimizer.name={name!r} is beyond this library, which has AdamW")
    if recipe.substitution is None:
        raise InputError("it trains no adapter, and only trainings of adapters are taken over")
    assert isinstance(recipe.masking, TrainMasking), "its recipes mask so"
    train, tune = at(config, "training") or {}, at(config, "model", "fine_tune") or {}
    if not train:
        return replace(recipe, training=replace(recipe.training, ema=_ema(average)))
    crops = at(config, "dataset", "preprocessing") or {}
    masked = {"least_ratio": train["min_masking_rate"]} if "min_masking_rate" in train else {}
    substitution = {"dynamic": train["use_dynamic_substitution"]}
    if "lambda_var" in tune:
        substitution["variational"] = max(0.0, tune["lambda_var"])
    changes = {"flip": crops["random_flip"]} if "random_flip" in crops else {}
    if crops.get("center_crop"):
        changes["crop"] = "center-bilinear"
    return replace(
        recipe,
        training=_training(recipe, config, train, average),
        masking=checked(recipe.masking, masked),
        substitution=checked(recipe.substitution, substitution),
        **changes,
    )


def _training(
    recipe: Recipe, config: Mapping[str, Any], train: Mapping[str, Any], average: Mapping[str, Any]
) -> Any:
    found = {own: train[key] for key, own in TRAINING.items() if key in train}
    experiment = at(config, "experiment") or {}
    found |= {own: experiment[key] for key, own in EXPERIMENT.items() if key in experiment}
    found["batch_size"] = train["batch_size"] * train.get("gradient_accumulation_steps", 1)
    name = at(config, "lr_scheduler", "scheduler")
    if name not in SCHEDULES:
        raise InputError(f"lr_scheduler.scheduler={name!r} has no counterpart here")
    found["schedule"] = SCHEDULES[name]
    found["warmup_steps"] = at(config, "lr_scheduler", "params", "warmup_steps") or 0
    return checked(recipe.training, found | {"ema": _ema(average)})


def _ema(average: Mapping[str, Any]) -> Ema | None:
    if not average:
        return None
    for key, wanted in {"min_decay": 0.0, "inv_gamma": 1.0}.items():
        if average.get(key, wanted) != wanted:
            raise InputError(f"{key}={average[key]!r} of its average is beyond this library")
    if not average["update_after_step"]:
        raise InputError("its average began with the first step, which has no counterpart here")
    return Ema(
        decay=average["decay"],
        warmup="power" if average["use_ema_warmup"] else "inverse",
        power=average["power"],
        after_step=average["update_after_step"],
    )
