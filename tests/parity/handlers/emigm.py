"""eMIGM: what it does otherwise than MAR."""

from __future__ import annotations

import torch
from golden import Case
from handlers.diffusion_head import solver_tables
from handlers.mar import (
    draw_of,
    encoded,
    labels_of,
    leave_sampling,
    leave_training,
    losses,
    network,
    to_tokens,
    trajectory,
    unconditional,
)
from torch import Tensor

from unmask.counts import AncestralCounts
from unmask.curves import EARLIEST, time_curve
from unmask.decode import Plan
from unmask.guidance import REVEALED, Guidance
from unmask.masking import LEAST_TIME, BernoulliMasking, Masks
from unmask.nn import dpm_solver
from unmask.nn.positions import first_positions
from unmask.orders import RandomOrder
from unmask.types import Canvas

CURVES = {"poly-0.5": "sqrt"}
RAMPS = {
    "constant": "constant",
    "linear": "revealed",
    "power": "revealed-power",
    "cubic": "revealed-cubic",
    "exp": "revealed-exp",
    "cosine": "revealed-cosine",
}


def curve(name: str) -> str:
    return CURVES.get(name, name)


@torch.inference_mode()
def forward(case: Case) -> dict[str, Tensor]:
    leave_training(case)
    leave_sampling(case)
    model, labels = network(case), labels_of(case)
    canvas = Canvas(to_tokens(case, case.input("latents")), case.input("mask") != 0)
    found = dict(zip(("encoder_out", "decoder_out"), encoded(model, canvas, labels), strict=True))
    found["decoder_out_uncond"] = encoded(model, canvas, unconditional(case, labels))[1]
    return found


def tied_load(case: Case) -> dict[str, Tensor]:
    return forward(case) | {"effective_token": network(case).trunk.mask_token.detach()}


def shared_mask(rule: BernoulliMasking, time: Tensor, u: Tensor, perms: Tensor) -> Tensor:
    """One mask, in an order of its own for every image."""
    return (u < time_curve(rule.curve).share(rule.time(time)))[perms]


def loss(case: Case) -> dict[str, Tensor]:
    config, time, u = case.config, case.input("t_mask"), case.input("rand_vals")
    rule = BernoulliMasking(
        curve=curve(config["mask_strategy"]),
        least_time=config.get("clamp_t_min", 0.0),
        shared=config.get("use_mae", True) or not config.get("use_weighted_loss", False),
        weighted=config.get("use_weighted_loss", False),
    )
    p = rule.time(time)
    batch, length = len(labels_of(case)), u.shape[-1]
    if rule.shared:
        masked = shared_mask(rule, time, u, case.input("perms"))
        kept = first_positions(~masked, int((~masked[0]).sum()))
    else:
        masked, kept = u < time_curve(rule.curve).share(p)[:, None], None
    masks = Masks(masked, kept, rule.weight(p).expand(batch))
    return losses(case, masks) | {"p_mask": p.view(-1, 1).expand(batch, length)}


def replayed(case: Case, rule: AncestralCounts, steps: int) -> dict[str, Tensor]:
    """The source's coupled uniforms as ours: one set for the count, one for the choice.

    Its number of revealed tokens is that of the first image's masked positions below the chance;
    ours that of the first numbers below it, as many as are masked.
    """
    uniform, forced = case.input("uniform"), case.maybe("fallback_position")
    case.leave("row0_uniform", "perm_unmasked", "perm_masked")  # uniform is made of them
    executed, batch, length = uniform.shape
    forced = torch.full((executed, batch), -1) if forced is None else forced
    counts, order = torch.ones(steps, length), torch.zeros(steps, batch, length)
    masked = torch.ones(length, dtype=torch.bool)
    for k, chance in enumerate(rule.reveal_probability(steps)[:executed]):
        counts[k] = uniform[k, 0][masked.byte().argsort(descending=True, stable=True)]
        order[k] = -uniform[k]  # the lowest stay masked
        rows = (forced[k] >= 0).nonzero().squeeze(1)
        order[k, rows, forced[k, rows]] = 1.0
        revealed = masked & (uniform[k, 0] < chance)
        if not revealed.any() and forced[k, 0] >= 0:
            revealed[forced[k, 0]] = True
        masked &= ~revealed
    return {"count": counts, "order": order}


def sample(case: Case) -> dict[str, Tensor]:
    config, steps = case.config, case.config["num_iter"]
    rule = AncestralCounts(curve=curve(config["mask_strategy"]))
    interval = (config.get("cfg_t_min", 0.0), config.get("cfg_t_max", 1.0))
    guidance = Guidance(
        scale=config.get("cfg", 1.0),
        ramp=RAMPS[config.get("cfg_schedule", "constant")],
        interval=interval,
    )
    plan = Plan(
        steps=steps, counts=rule, order=RandomOrder(), guidance=guidance, draw=draw_of(config)
    )
    found = trajectory(case, plan, replayed(case, rule, steps))
    executed = len(found["cfg_iter"])
    active = found["cfg_iter"] != 1  # every ramp is above 0 once a token is known
    chances = rule.reveal_probability(steps)[:executed]
    return found | {"p_transfer": chances, "in_cfg_interval": active}


def tables(case: Case) -> dict[str, Tensor]:
    case.told(mask_eps=LEAST_TIME, sample_eps=EARLIEST)
    case.told(total_N=len(dpm_solver.knots().times))
    found = solver_tables(case)
    for name in case.names("mask_t.*"):
        tag = name.removeprefix("mask_t.")
        strategy = tag.rpartition(".")[0]
        rule = BernoulliMasking(curve=curve(strategy), least_time=case.config["clamp_t_min"])
        time = case.input(name)
        u, perms = case.input(f"mask_rand.{tag}"), case.input(f"mask_perms.{tag}")
        found[f"mask.{tag}"] = shared_mask(rule, time, u, perms)
        found[f"p_mask.{tag}"] = rule.time(time)
    for name in case.names("p_transfer.*"):
        strategy, _, steps = name.removeprefix("p_transfer.").rpartition(".n")
        found[name] = AncestralCounts(curve=curve(strategy)).reveal_probability(int(steps))
    for name in case.names("loss_weight.*"):
        rule = BernoulliMasking(curve=curve(name.removeprefix("loss_weight.")), weighted=True)
        found[name] = rule.weight(case.input("weight_p"))
    for name in case.names("cfg_ramp.*"):
        ramp = REVEALED[RAMPS[name.removeprefix("cfg_ramp.")]](case.input("cfg_fraction"))
        found[name] = 1 + (case.config["cfg_for_ramp"] - 1) * ramp
    return found


HANDLERS = {
    "emigm.forward": forward,
    "emigm.tied_load": tied_load,
    "emigm.loss": loss,
    "emigm.sample": sample,
    "emigm.tables": tables,
}
