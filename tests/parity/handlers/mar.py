"""MAR: network, loss and gradients, optimiser steps, whole trajectories, tables."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from math import lcm

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from golden import Case
from handlers.diffusion_head import process_tables
from torch import Tensor

from unmask.checkpoints.mar import TABLE, network_of, settle_tie
from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.counts import FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws, Tape
from unmask.guidance import Guidance
from unmask.masking import Masks, NormalMasking
from unmask.model import MaskedModel
from unmask.nn.diffusion import DiffusionDraw
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.orders import RandomOrder
from unmask.train.ema import EmaWeights
from unmask.train.loop import optimise_step
from unmask.train.optim import learning_rate, make_optimizer, parameter_groups
from unmask.train.settings import Ema, Training
from unmask.types import Canvas, MaskedBatch

RAMPS = {"constant": "constant", "linear": "revealed"}


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    own = settle_tie(to_own(case.weights(), TABLE, case.name))
    model = network_of(
        own,
        heads=(config["encoder_num_heads"], config["decoder_num_heads"]),
        drops=config.get("use_mae", True),
        dropout=config["attn_dropout"],
        origin=case.name,
    ).build()
    load_state(model, own, case.name)
    return model.eval()


def to_tokens(case: Case, latents: Tensor) -> Tensor:
    """``(B, C, H, W)`` to ``(B, L, C)``."""
    return F.pixel_unshuffle(latents, case.config["patch_size"]).flatten(2).transpose(1, 2)


def to_latents(case: Case, tokens: Tensor) -> Tensor:
    """The reverse."""
    side = case.config["img_size"] // case.config["vae_stride"] // case.config["patch_size"]
    return F.pixel_shuffle(
        tokens.transpose(1, 2).unflatten(2, (side, side)), case.config["patch_size"]
    )


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
    model, labels = network(case), case.input("labels")
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
    return labels.masked_fill(u < case.config["label_drop_prob"], case.config["class_num"])


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
    model = network(case).train()
    tokens = to_tokens(case, case.input("latents"))
    labels = drop_labels(case, case.input("labels"), case.maybe("drop_uniform"))
    times, noise = case.input("t"), case.input("noise")
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
    """Steps an epoch that make all these fractions of epochs whole."""
    return lcm(*(Fraction(e).limit_denominator(10**6).denominator for e in epochs))


def schedule_of(config: Mapping[str, float], peak: str, epoch: int) -> Training:
    """The source's schedule at ``epoch`` steps an epoch."""
    return Training(
        steps=round(config["epochs"] * epoch),
        lr=config[peak],
        min_lr=config["min_lr"],
        schedule=config["lr_schedule"],
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
    config, model = case.config, network(case).train()
    epochs = config["fractional_epochs"]
    epoch = whole_steps(*epochs, config["epochs"], config["warmup_epochs"])
    training = schedule_of(config, "peak_lr", epoch)
    objective = MaskedObjective(model)
    optimizer, ema = make_optimizer(objective, training), EmaWeights(model, training.ema)
    check_groups(case, model, training)
    found: dict[str, list[Tensor]] = {"loss": [], "grad_norm_before_clip": [], "lr": []}
    drops, steps = case.maybe("drop_uniform"), [round(e * epoch) for e in epochs]
    for k, step in enumerate(steps):
        labels = drop_labels(case, case.input("labels")[k], None if drops is None else drops[k])
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
        found["grad_norm_before_clip"].append(values["grad_norm"])
        found["lr"].append(torch.tensor(learning_rate(training, step), dtype=torch.float64))
    parameters = to_source({k: v.detach() for k, v in model.state_dict().items()}, TABLE)
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
    batch = len(case.input("init_noise"))
    return torch.full((batch,), case.config["class_num"]) if labels is None else labels


@torch.inference_mode()
def trajectory(case: Case, plan: Plan, records: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The decode loop on recorded randomness, and what the network said on its way."""
    model, labels = network(case), labels_of(case)
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


def draw_of(config: Mapping[str, object]) -> DiffusionDraw:
    solver, respacing = config.get("sampling_algo", "ddpm"), str(config["num_sampling_steps"])
    if solver != "ddpm":  # it has no use for a temperature
        return DiffusionDraw(solver=solver, respacing=respacing)
    return DiffusionDraw(respacing=respacing, temperature=config["temperature"])


def sample(case: Case) -> dict[str, Tensor]:
    config, steps = case.config, case.config["num_iter"]
    plan = Plan(
        steps=steps,
        counts=FixedCounts(least=1),
        order=RandomOrder(),
        guidance=Guidance(scale=config["cfg"], ramp=RAMPS[config["cfg_schedule"]]),
        draw=draw_of(config),
    )
    places = case.input("orders").argsort(1).float()  # the first of the order stay masked
    return trajectory(case, plan, {"order": places.expand(steps, *places.shape)})


def tables(case: Case) -> dict[str, Tensor]:
    found, config = process_tables(case), case.config["lr"]
    for name in case.names("truncnorm_ppf.min*"):
        least = float(name.removeprefix("truncnorm_ppf.min"))
        found[name] = NormalMasking(mean=1.0, least=least).ratio(case.input("truncnorm_q"))
    epochs = case.input("lr_epoch").tolist()
    epoch = whole_steps(*epochs, config["epochs"], config["warmup_epochs"])
    training = schedule_of(config, "lr", epoch)
    rates = [learning_rate(training, round(e * epoch)) for e in epochs]
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
