"""MAR: network, loss and gradients, optimiser steps, whole trajectories, tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from golden import Case
from handlers.diffusion_head import process_tables
from tape import Tape
from torch import Tensor, nn

from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.counts import FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.guidance import Guidance
from unmask.image_size import checked_size, height_width
from unmask.masking import Masks, NormalMasking
from unmask.networks.latent import LatentNetwork
from unmask.nn.diffusion import DiffusionDraw, frequencies
from unmask.nn.gaussian import STEPS, process
from unmask.nn.model import MaskedModel
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.orders import RandomOrder
from unmask.projects.mar import TABLE, network_of, settle_tie
from unmask.projects.project import Checkpoint
from unmask.recipes.training import Ema, Training
from unmask.train.loop import optimise_step
from unmask.train.optim import EmaWeights, learning_rate, make_optimizer, parameter_groups
from unmask.types import Canvas, MaskedBatch

RAMPS = {"constant": "constant", "linear": "revealed"}


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    own = settle_tie(to_own(case.weights(), TABLE, case.name))
    heads, decoder_heads = config["encoder_num_heads"], config["decoder_num_heads"]
    found = Checkpoint({}, Path(case.name), own=own, grid=grid_of(config))
    sizes = network_of(found._replace(heads=heads, decoder_heads=decoder_heads))
    sizes = replace(sizes, drops=config.get("use_mae", True), dropout=dropout_of(config))
    check_told(case, sizes)
    model = sizes.build()
    load_state(model, own, case.name)
    for norm in (m for m in model.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = config.get("norm_eps", norm.eps)  # 1e-6 in every published model, as ours
    return model.eval()


def dropout_of(config: Mapping[str, Any]) -> float:
    """One number here, two in the source, which every published training sets alike."""
    attention = config.get("attn_dropout", 0.0)
    assert config.get("proj_dropout", attention) == attention
    return attention


def grid_of(config: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of tokens; the source has squares, whose side is a number."""
    stated, patch = config.get("latent_hw"), config.get("patch_size", 1)
    if stated is None:
        height, width = height_width(checked_size(config["img_size"]))
        stated = height // config["vae_stride"], width // config["vae_stride"]
    return stated[0] // patch, stated[1] // patch


def check_told(case: Case, sizes: LatentNetwork) -> None:
    """Sizes that the configuration tells and the weights as well."""
    config, patch = case.config, case.config.get("patch_size", 1)
    case.told(
        encoder_embed_dim=sizes.width,
        encoder_depth=sizes.depth,
        decoder_embed_dim=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        class_num=sizes.classes,
        buffer_size=sizes.buffer,
        diffloss_d=sizes.head_depth,
        diffloss_w=sizes.head_width,
        token_embed_dim=sizes.channels,
        use_unsup_cfg=sizes.tied,
    )
    assert config.get("vae_embed_dim", sizes.channels // patch**2) * patch**2 == sizes.channels
    hidden = int(sizes.width * config.get("mlp_ratio", 4.0))
    assert hidden == round(sizes.width * sizes.mlp_ratio)
    case.aside("img_size", "vae_stride")  # where the size of the latents is told


def leave_training(case: Case) -> None:
    """What does not matter to a network that is not trained."""
    case.aside("mask_ratio_min", "label_drop_prob", "diffusion_batch_mul", "mask_strategy")
    case.aside("use_weighted_loss", "clamp_t_min")


def leave_sampling(case: Case) -> None:
    """What does not matter where nothing is drawn."""
    case.aside("num_sampling_steps", "sampling_algo", "cfg_t_min", "cfg_t_max")


def to_tokens(case: Case, latents: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, L, C)``."""
    return F.pixel_unshuffle(latents, case.config.get("patch_size", 1)).flatten(2).transpose(1, 2)


def to_latents(case: Case, tokens: Tensor) -> Tensor:
    """The reverse."""
    placed = tokens.transpose(1, 2).unflatten(2, grid_of(case.config))
    return F.pixel_shuffle(placed, case.config.get("patch_size", 1))


def unconditional(case: Case, labels: Tensor) -> Tensor:
    return torch.full_like(labels, case.config["class_num"])


def encoded(model: MaskedModel, canvas: Canvas, labels: Tensor) -> tuple[Tensor, Tensor]:
    """What the encoder and what the decoder says."""
    seen: list[Tensor] = []
    handle = model.trunk.encoder_norm.register_forward_hook(lambda *call: seen.append(call[2]))
    tokens = model.hidden(canvas, labels).tokens
    handle.remove()
    return seen[0], tokens


@torch.inference_mode()
def forward(case: Case) -> dict[str, Tensor]:
    leave_training(case)
    leave_sampling(case)
    model, labels = network(case), labels_of(case)
    tokens, masked = to_tokens(case, case.input("latents")), case.input("mask") != 0
    case.leave("orders")  # the mask is theirs
    canvas, none = Canvas(tokens, masked), unconditional(case, labels)
    all_masked = Canvas(tokens, torch.ones_like(masked))
    found = {
        "tokens": tokens,
        "unpatchified": to_latents(case, tokens),
        "encoder_out_all_masked": encoded(model, all_masked, labels)[0],
    }
    found["encoder_out"], found["decoder_out"] = encoded(model, canvas, labels)
    found["encoder_out_uncond"], found["decoder_out_uncond"] = encoded(model, canvas, none)
    return found


def drop_labels(case: Case, labels: Tensor, u: Tensor | None) -> Tensor:
    """The null class where u is below the share of dropped labels."""
    if u is None:
        return labels
    share = case.config.get("label_drop_prob", 0.1)
    return labels.masked_fill(u < share, case.config["class_num"])


def masks_of(case: Case, ratio: Tensor, orders: Tensor) -> Masks:
    rule = NormalMasking(mean=1.0, least=case.config["mask_ratio_min"])
    return rule.hide(ratio, orders.argsort(1).float())


def examples(
    tokens: Tensor, masks: Masks, labels: Tensor, *, times: Tensor, noise: Tensor
) -> LocatedBatch:
    """A batch of the objective, whose every masked token counts equally unless weighted.

    Times and noise are ``(R, B, L[, C])``, of all tokens.
    """
    weight = torch.ones(len(tokens)) if masks.weight is None else masks.weight
    batch = MaskedBatch(tokens, masks.masked, labels, weight / masks.masked.sum(), masks.kept)
    where = masks.masked.flatten()
    return locate(batch, times=times.flatten(1)[:, where], noise=noise.flatten(1, 2)[:, where])


def gradients(model: MaskedModel) -> dict[str, Tensor]:
    """By the source's names, and the norm of all."""
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = torch.stack([g.norm() for g in own.values()]).norm()
    found = {f"grad.{key}": value for key, value in to_source(own, TABLE).items()}
    return found | {"grad_norm_total": norm}


def losses(case: Case, masks: Masks) -> dict[str, Tensor]:
    """The loss and all gradients, and the head's terms at all tokens."""
    leave_sampling(case)
    model = network(case).train()
    tokens = to_tokens(case, case.input("latents"))
    labels = drop_labels(case, labels_of(case), case.maybe("drop_uniform"))
    times, noise = case.input("t"), case.input("noise")
    case.told(diffusion_batch_mul=len(times))
    batch = examples(tokens, masks, labels, times=times, noise=noise)
    loss = MaskedObjective(model)(batch)["loss"]
    loss.backward()
    with torch.inference_mode():
        z = model.hidden(Canvas(tokens, masks.masked, masks.kept), labels).tokens
        mse, vb = model.head.loss_terms(
            z.flatten(0, 1), tokens.flatten(0, 1), times=times.flatten(1), noise=noise.flatten(1, 2)
        )
    terms = {"mse": mse.view(times.shape), "vb": vb.view(times.shape)}
    return {"loss": loss.detach(), "z": z, "mask": masks.masked, **terms, **gradients(model)}


def loss(case: Case) -> dict[str, Tensor]:
    return losses(case, masks_of(case, case.input("mask_rate"), case.input("orders")))


def whole_steps(*epochs: float) -> int:
    """Steps an epoch that make whole what a run takes in epochs; where it is may be a fraction."""
    return lcm(*(Fraction(e).limit_denominator(10**6).denominator for e in epochs))


def schedule_of(config: Mapping[str, float], peak: str, epoch: int) -> Training:
    """The source's schedule at ``epoch`` steps an epoch."""
    return Training(
        steps=round(config["epochs"] * epoch),
        lr=config[peak],
        min_lr=config.get("min_lr", 0.0),
        schedule=config.get("lr_schedule", "constant"),
        warmup_steps=round(config["warmup_epochs"] * epoch),
        betas=tuple(config.get("betas", (0.9, 0.95))),
        eps=config.get("adam_eps", 1e-8),
        weight_decay=config.get("weight_decay", 0.0),
        decay_only_matrices=True,
        decay_head=False,
        clip_grad_norm=config.get("grad_clip"),
        ema=Ema(decay=config.get("ema_rate", 0.9999), warmup="none"),
    )


def train_steps(case: Case) -> dict[str, Tensor]:
    leave_sampling(case)
    config, model = case.config, network(case).train()
    case.told(diffusion_batch_mul=case.input("t").shape[1])
    epochs = config["fractional_epochs"]
    epoch = whole_steps(config["epochs"], config["warmup_epochs"])
    training = schedule_of(config, "peak_lr", epoch)
    objective = MaskedObjective(model)
    optimizer, ema = make_optimizer(objective, training), EmaWeights(model, training.ema)
    check_groups(case, model, training)
    found: dict[str, list[Tensor]] = {"loss": [], "grad_norm_before_clip": [], "lr": []}
    drops, steps = case.maybe("drop_uniform"), [e * epoch for e in epochs]
    every = labels_of(case)
    for k, step in enumerate(steps):
        labels = drop_labels(case, every[k], None if drops is None else drops[k])
        masks = masks_of(case, case.input("mask_rate")[k], case.input("orders")[k])
        tokens = to_tokens(case, case.input("latents")[k])
        values = optimise_step(
            objective,
            [
                examples(
                    tokens, masks, labels, times=case.input("t")[k], noise=case.input("noise")[k]
                )
            ],
            optimizer=optimizer,
            settings=training,
            step=step,
            accelerator=Accelerator(cpu=True),
            ema=ema,
        )
        found["loss"].append(values["loss"])
        found["grad_norm_before_clip"].append(values.get("grad_norm", torch.tensor(torch.nan)))
        found["lr"].append(torch.tensor(learning_rate(training, step), dtype=torch.float64))
    parameters = to_source({k: v.detach() for k, v in model.state_dict().items()}, TABLE)
    if training.clip_grad_norm is None:
        del found["grad_norm_before_clip"]
    return {
        **{name: torch.stack(rows) for name, rows in found.items()},
        **{f"param.{key}": value for key, value in parameters.items()},
        **{f"ema.{key}": value for key, value in to_source(ema.state_dict(), TABLE).items()},
    }


def check_groups(case: Case, model: MaskedModel, training: Training) -> None:
    """Which parameters decay, as the source's optimiser has them."""
    names = {id(p): name for name, p in model.named_parameters()}
    decayed, spared = parameter_groups(model, training)
    for wanted, group in (("decay", decayed), ("no_decay", spared)):
        ours = to_source({names[id(p)]: p for p in group["params"]}, TABLE)
        if wanted in case.spec:
            assert sorted(ours) == sorted(case.spec[wanted])


def head_noise(case: Case, steps: int, draw: DiffusionDraw) -> Tensor:
    """``(T, B, L, S, C)``: a token is drawn once, so every step has the same record."""
    first = case.input("init_noise").unsqueeze(2)
    if draw.solver == "ddpm":
        fresh = case.input("step_noise").permute(1, 2, 0, 3)  # (B, L, S, C); the last is unused
        first = torch.cat([first, fresh[:, :, :-1]], dim=2)
    return first.expand(steps, *first.shape)


def labels_of(case: Case) -> Tensor:
    """Without labels every image is of the null class, in both branches."""
    labels = case.maybe("labels")
    if labels is not None:
        return labels
    of = case.input("latents" if case.has("latents") else "init_noise")
    rows = of.shape[: max(1, of.ndim - 3)]  # (B,), or (S, B) of a case of S training steps
    return torch.full(rows, case.config["class_num"])


@torch.inference_mode()
def trajectory(case: Case, plan: Plan, records: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decode loop on recorded randomness, and what the network said on its way."""
    leave_training(case)
    case.aside("labels", "executed_iterations", "temperature")  # the tensors tell; of one solver
    model, labels = network(case), labels_of(case)
    check_times(case, plan.draw)
    tape = Tape({"diffusion": head_noise(case, plan.steps, plan.draw), **records}, len(labels))
    canvas = blank_canvas(len(labels), model.length, channels=model.channels)
    steps = list(decode(model, labels, plan, tape, canvas))
    tokens = torch.stack([canvas.tokens, *(step.tokens for step in steps)])
    masked = torch.stack([canvas.masked, *(step.masked for step in steps)])
    remaining = plan.counts.table(plan.steps, 0, canvas.masked, tape)
    scales = plan.guidance.table(remaining, plan.steps, model.length).get("null")
    guide = torch.ones(plan.steps) if scales is None else scales[:, 0].float()
    before = [Canvas(*pair) for pair in zip(tokens[:-1], masked[:-1], strict=True)]
    none = unconditional(case, labels)
    weak = [model.hidden(c, none).tokens * (s != 1) for c, s in zip(before, guide, strict=True)]
    executed = int(masked[:-1].any(2).any(1).sum())
    found = {
        "tokens_after_iter": tokens[1:],
        "mask_before": masked[:-1],
        "mask_to_pred": masked[:-1] & ~masked[1:],
        "mask_len": remaining[:, 0],
        "cfg_iter": guide,
        "z_cond": torch.stack([model.hidden(c, labels).tokens for c in before]),
        "z_uncond": torch.stack(weak),
    }
    found = {name: value[:executed] for name, value in found.items()}
    return {"latents_out": to_latents(case, tokens[-1]), **found}


def check_times(case: Case, draw: DiffusionDraw) -> None:
    """The diffusion steps that the head is asked at."""
    if "timestep_map" in case.config:
        assert process(draw.respacing).times.tolist() == case.config["timestep_map"]


def draw_of(config: Mapping[str, Any]) -> DiffusionDraw:
    solver, respacing = config.get("sampling_algo", "ddpm"), str(config["num_sampling_steps"])
    if solver != "ddpm":  # it has no use for a temperature
        return DiffusionDraw(solver=solver, respacing=respacing)
    return DiffusionDraw(respacing=respacing, temperature=config.get("temperature", 1.0))


def sample(case: Case) -> dict[str, Tensor]:
    config, steps = case.config, case.config["num_iter"]
    plan = Plan(
        steps=steps,
        counts=FixedCounts(least=1),
        order=RandomOrder(),
        guidance=Guidance(
            scale=config.get("cfg", 1.0), ramp=RAMPS[config.get("cfg_schedule", "linear")]
        ),
        draw=draw_of(config),
    )
    places = case.input("orders").argsort(1).float()  # the first of the order stay masked
    return trajectory(case, plan, {"order": places.expand(steps, *places.shape)})


def tables(case: Case) -> dict[str, Tensor]:
    case.told(diffusion_steps=STEPS, noise_schedule="cosine")
    case.told(timestep_embedding_dim=2 * len(frequencies()))
    found, config = process_tables(case), case.config["lr"]
    for name in case.names("truncnorm_ppf.min*"):
        least = float(name.removeprefix("truncnorm_ppf.min"))
        found[name] = NormalMasking(mean=1.0, least=least).ratio(case.input("truncnorm_q"))
    epochs = case.input("lr_epoch").tolist()
    epoch = whole_steps(config["epochs"], config["warmup_epochs"])
    training = schedule_of(config, "lr", epoch)
    rates = [learning_rate(training, e * epoch) for e in epochs]
    check_counts(case)
    return found | {"lr_value": torch.tensor(rates, dtype=torch.float64)}


def check_counts(case: Case) -> None:
    """``mask_len`` lies in the JSON, under names such as ``L256_iter16``."""
    for name, expected in case.spec.get("mask_len", {}).items():
        length, steps = map(int, name.removeprefix("L").split("_iter"))
        blank = torch.ones(1, length, dtype=torch.bool)
        table = FixedCounts(least=1).table(steps, 0, blank, Draws([0]))
        assert table[:, 0].tolist() == expected, name


HANDLERS = {
    "mar.forward": forward,
    "mar.loss": loss,
    "mar.train_steps": train_steps,
    "mar.sample": sample,
    "mar.tables": tables,
}
