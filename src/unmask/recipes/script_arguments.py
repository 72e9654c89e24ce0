"""What the options of the training scripts of MAR, eMIGM and MAGE say, as parts of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from unmask.errors import InputError
from unmask.masking import BernoulliMasking
from unmask.networks.latent import LatentNetwork
from unmask.recipes.maskgit_pytorch_run import checked
from unmask.recipes.recipe import Recipe

# Fields of a recipe's training, and what their options are called.
TRAINING = {
    "lr": "lr",
    "min_lr": "min_lr",
    "schedule": "lr_schedule",
    "weight_decay": "weight_decay",
    "clip_grad_norm": "grad_clip",
    "accumulate": "accum_iter",
    "seed": "seed",
    "label_dropout": "label_drop_prob",
    "noise_repeats": "diffusion_batch_mul",
    "recompute": "grad_checkpointing",
}
EPOCHS = {"steps": "epochs", "warmup_steps": "warmup_epochs", "save_every": "save_last_freq"}
MASKING = {
    "mean": "mask_ratio_mu",
    "std": "mask_ratio_std",
    "least": "mask_ratio_min",
    "most": "mask_ratio_max",
    "curve": "mask_strategy",
    "least_time": "clamp_t_min",
    "weighted": "use_weighted_loss",
}
CURVES = {"poly-0.5": "sqrt"}  # otherwise of the same names


def images_a_step(args: Mapping[str, Any]) -> int:
    """Images of all processes in an optimiser step; 0 where the options are lost."""
    if "batch_size" not in args:
        return 0
    return args["batch_size"] * args.get("world_size", 1) * args.get("accum_iter", 1)


def with_arguments(recipe: Recipe, args: Mapping[str, Any], epoch: int) -> Recipe:
    """The recipe with the options of a run; what they do not name stays.

    Args:
        recipe: of an equal network.
        args: the script's options; empty where they are lost.
        epoch: steps of an epoch.

    Raises:
        InputError: for a value that the recipe cannot hold.
    """
    found = {own: args[theirs] for own, theirs in TRAINING.items() if theirs in args}
    found |= {own: epoch * args[theirs] for own, theirs in EPOCHS.items() if theirs in args}
    if "batch_size" in args:
        found["batch_size"] = images_a_step(args)
    if "ema_rate" in args and recipe.training.ema is not None:
        found["ema"] = replace(recipe.training.ema, decay=args["ema_rate"], warmup="none")
    pixels = args.get("img_size", args.get("input_size", recipe.image_size))
    return replace(
        recipe,
        image_size=pixels,
        network=_network(recipe, args),
        masking=_masking(recipe, args),
        training=checked(recipe.training, found),
    )


def _network(recipe: Recipe, args: Mapping[str, Any]) -> Any:
    rates = {args[name] for name in ("attn_dropout", "proj_dropout") if name in args}
    if len(rates) > 1:
        raise InputError(
            f"attn_dropout={args['attn_dropout']} and proj_dropout={args['proj_dropout']} differ, "
            "and network.dropout is one number for both; this training cannot be taken over"
        )
    found: dict[str, Any] = {"dropout": float(*rates)} if rates else {}
    if isinstance(recipe.network, LatentNetwork) and "use_mae" in args:
        found["drops"] = args["use_mae"]
    return checked(recipe.network, found)


def _masking(recipe: Recipe, args: Mapping[str, Any]) -> Any:
    masking = recipe.masking
    has = {own: theirs for own, theirs in MASKING.items() if hasattr(masking, own)}
    found = {own: args[theirs] for own, theirs in has.items() if theirs in args}
    if "curve" in found:
        found["curve"] = CURVES.get(found["curve"], found["curve"])
    if isinstance(masking, BernoulliMasking) and "use_mae" in args:
        found["shared"] = args["use_mae"] or not args["use_weighted_loss"]
    if "batch_size" in args:
        found["group"] = args["batch_size"]  # each process draws a ratio of its own
    return checked(masking, found)
