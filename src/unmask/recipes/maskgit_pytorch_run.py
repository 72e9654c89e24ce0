"""What the configuration of a maskgit-pytorch run says, as parts of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unmask.counts import FixedCounts
from unmask.curves import find_curve
from unmask.decode import Plan
from unmask.errors import InputError
from unmask.masking import TrainMasking
from unmask.orders import Confidence
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import Ema, Training
from unmask.tokenizers.published import SOURCE_NAMES

SCALE, TEMPERATURE = 1.0, 4.5  # of its sampling scripts, where no option is given
SCHEDULES = {
    "ConstantLR": "constant",
    "ConstantWarmupLR": "constant",
    "LinearWarmupLR": "linear",
    "CosineWarmupLR": "cosine",
}
WARMUPS = {"crowsonkb": "power", "tensorflow-like": "inverse", "none": "none"}
# Keys below "train", and what the same is called here.
TRAIN = {
    "n_steps": "steps",
    "batch_size": "batch_size",
    "micro_batch_size": "micro_batch_size",
    "label_smoothing": "label_smoothing",
    "clip_grad_norm": "clip_grad_norm",
    "print_freq": "log_every",
    "save_freq": "save_every",
    "sample_freq": "preview_every",
}
OPTIMISER = {"lr": "lr", "betas": "betas", "eps": "eps", "weight_decay": "weight_decay"}
# Fields of a recipe that may be None, of which the value at hand does not tell the kind.
KINDS = {"micro_batch_size": int, "clip_grad_norm": float, "ema": Ema, "group": int}
MAY_LACK = KINDS.keys()


def with_settings(recipe: Recipe, config: Mapping[str, Any], origin: str) -> Recipe:
    """The recipe with the settings of a run, whose sampling is that of the source's scripts.

    Args:
        recipe: of an equal network, whose other parts stay.
        config: the run's ``config-*.yaml``; empty where it is lost.
        origin: the file, named in errors.

    Raises:
        InputError: for a value that the recipe cannot hold.
    """
    try:
        return _with_settings(recipe, config)
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def _with_settings(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    curve = _text(config, "transformer", "params", "mask_schedule_type")
    curve = curve or _text(config, "transformer", "mask_schedule_type")
    name = _text(config, "vqmodel", "model_name")
    crop = _text(config, "data", "crop")
    assert isinstance(recipe.masking, TrainMasking), "its recipes mask so"
    changes: dict[str, Any] = {"plan": _plan(recipe.plan, curve)}
    if curve is not None:
        find_curve(curve, 1)
        changes["masking"] = replace(recipe.masking, curve=curve)
    if name is not None:
        changes["tokenizer"] = SOURCE_NAMES.get(name, name)
    if crop in ("center", "random"):
        changes["crop"] = crop
    if isinstance(at(config, "train"), dict):
        has_null = recipe.network.has_null_class
        changes["training"] = _training(recipe.training, config, dropout=has_null)
    taught = changes.get("training", recipe.training).label_dropout > 0
    changes["plans"] = tuple(
        replace(named, plan=_curved(named.plan, curve))
        for named in recipe.plans
        if taught or not named.plan.guidance.scales
    )
    return replace(recipe, **changes)


def _plan(plan: Plan, curve: str | None) -> Plan:
    assert isinstance(plan.order, Confidence), "its recipes reveal so"
    order = replace(plan.order, temperature=TEMPERATURE)
    guidance = replace(plan.guidance, scale=SCALE)
    return replace(_curved(plan, curve), order=order, guidance=guidance)


def _curved(plan: Plan, curve: str | None) -> Plan:
    assert isinstance(plan.counts, FixedCounts), "its recipes count so"
    return plan if curve is None else replace(plan, counts=replace(plan.counts, curve=curve))


def _training(training: Training, config: Mapping[str, Any], *, dropout: bool) -> Training:
    train, optimiser = at(config, "train"), at(config, "train", "optim", "params")
    found = {own: train[key] for key, own in TRAIN.items() if key in train}
    if isinstance(optimiser, dict):
        found |= {own: optimiser[key] for key, own in OPTIMISER.items() if key in optimiser}
    if "betas" in found:
        found["betas"] = tuple(found["betas"]) if isinstance(found["betas"], list) else None
    target = _text(config, "train", "sched", "target")
    if target is not None and target.rpartition(".")[2] in SCHEDULES:
        warmup = at(config, "train", "sched", "params", "warmup_steps")
        found["schedule"] = SCHEDULES[target.rpartition(".")[2]]
        found["warmup_steps"] = warmup if warmup is not None else 0
    if isinstance(config.get("seed"), int):
        found["seed"] = config["seed"]
    drop = train.get("cond_drop_prob")
    found["label_dropout"] = (training.label_dropout if drop is None else drop) if dropout else 0.0
    found.setdefault("clip_grad_norm", None)
    found["ema"] = _ema(at(config, "train", "ema"))
    return checked(training, found)


def _ema(told: object) -> Ema | None:
    """The average of weights of a run; without this entry it takes none."""
    if not isinstance(told, dict):
        return None
    kind = str(told.get("ema_warmup_type", told.get("warmup_type"))).lower()
    found = {key: told[key] for key in ("decay", "power") if key in told}
    return checked(Ema(warmup=WARMUPS.get(kind, "power")), found)  # type: ignore[arg-type]


def checked(settings: Any, found: Mapping[str, Any]) -> Any:
    """Settings with other values, each of its field's kind; others are named by their field."""
    fitting = dict(found)
    for name, value in found.items():
        kind = KINDS.get(name, type(getattr(settings, name)))
        if kind is float and type(value) is int:
            fitting[name] = float(value)
        elif type(value) is not kind and not (value is None and name in MAY_LACK):
            raise InputError(f"{name}={str(value)[:60]!r} is no {kind.__name__}")
    return replace(settings, **fitting)


def at(tree: object, *keys: str) -> Any:
    """What stands below these keys, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _text(tree: object, *keys: str) -> str | None:
    found = at(tree, *keys)
    return found if isinstance(found, str) and found else None
