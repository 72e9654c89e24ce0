"""Whole decoding trajectories of the three MaskGIT samplers, from recorded randomness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import torch
from golden import Case
from handlers.maskgit_pytorch import curve_of
from handlers.unlockmgm import check_told
from tape import Tape
from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import load_state
from unmask.counts import FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import gumbel_from_uniform
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.nn.categorical import CategoricalDraw
from unmask.nn.model import MaskedModel
from unmask.orders import Confidence, RandomOrder
from unmask.projects import maskgit_pytorch, unlockmgm
from unmask.projects.project import Checkpoint
from unmask.types import Canvas

PYTORCH_RAMPS = {"constant": "constant", "linear": "steps", "linear-r": "revealed"}
UNLOCKMGM_CURVES = {"cosine": "cosine", "linear": "linear", "sqrt": "sqrt", "custom": "muse"}
JAX_CURVES = {"uniform": "linear", "log": "logarithmic", "exp": "exponential"}


class Trajectory(NamedTuple):
    """Every step stacked, ``(S, B, L)`` each."""

    tokens: Tensor
    masked: Tensor


def run(
    model: MaskedModel, labels: Tensor | None, plan: Plan, tape: Tape, canvas: Canvas
) -> Trajectory:
    steps = list(decode(model.eval(), labels, plan, tape, canvas))
    return Trajectory(*(torch.stack([getattr(s, f) for s in steps]) for f in ("tokens", "masked")))


def pytorch_guidance(sampler: dict) -> Guidance:
    ramp = sampler.get("cfg_schedule", "constant")
    power = 1.0
    if ramp.startswith("power-cosine-"):
        ramp, power = "power-cosine", float(ramp.removeprefix("power-cosine-"))
    ramp = PYTORCH_RAMPS.get(ramp, ramp)
    return Guidance(scale=sampler.get("cfg", 1.0), ramp=ramp, power=power)


def pytorch_sample(case: Case) -> dict[str, Tensor]:
    weights, sampler = case.weights(), case.spec["sampler"]
    config, length = case.config, weights["pos_emb"].shape[1]
    own = to_own(weights, maskgit_pytorch.TABLE, case.name)
    found = Checkpoint(weights, Path(case.name), own=own, heads=config["n_heads"])
    network = maskgit_pytorch.network_of(found._replace(grid=(1, length)))
    case.told(
        vocab_size=network.codes,
        embed_dim=network.width,
        n_layers=network.depth,
        n_tokens=length,
        n_classes=network.classes,
    )
    case.aside("dropout")
    model = network.build()
    load_state(model, own)
    plan = Plan(
        steps=sampler["sampling_steps"],
        counts=FixedCounts(curve=curve_of(sampler, config, case.spec), pace="overall"),
        order=RandomOrder()
        if sampler.get("strategy", "maskgit") == "random"
        else Confidence(temperature=sampler.get("base_gumbel_temp", 4.5)),
        guidance=pytorch_guidance(sampler),
        draw=pytorch_draw(sampler),
    )
    exponential = case.input("exp_noise")
    order = case.input("gumbel" if case.has("gumbel") else "uniform")
    batch, length = exponential.shape[1:3]
    assert sampler.get("sequence_length", length) == length
    tape = Tape({"token": exponential, "order": order}, batch)
    found = run(model, case.maybe("y"), plan, tape, blank_canvas(batch, length))
    ids = found.tokens.masked_fill(found.masked, network.codes)
    return {"idx_per_step": ids, "mask_per_step": found.masked}


def pytorch_draw(sampler: dict) -> CategoricalDraw:
    top_k = sampler.get("topk")
    if top_k is not None:  # the source bounds it by the sequence length, not by the codes
        top_k = min(top_k, sampler["sequence_length"])
    return CategoricalDraw(temperature=sampler.get("softmax_temp", 1.0), top_k=top_k)


def unlockmgm_sample(case: Case) -> dict[str, Tensor]:
    weights, sampler = case.weights(), case.spec["sampler"]
    grid = (1, case.config["num_vq_tokens"])
    network = unlockmgm.network_of(
        Checkpoint(weights, Path(case.name), config=case.config, grid=grid)
    )
    check_told(case, network)
    model = network.build()
    load_state(model, to_own(weights, unlockmgm.TABLE, case.name))
    order = Confidence(
        temperature=sampler.get("temperature", 1.0), anneal="compound", known="rescore"
    )
    schedule = sampler.get("noise_schedule", "cosine")
    curve = UNLOCKMGM_CURVES.get(schedule, schedule)
    rule = FixedCounts(curve=curve, least=1, precision="float32")
    guidance = Guidance(weak="self", scale=1 + (sampler.get("guidance_scale") or 0.0))
    plan = Plan(steps=sampler.get("timesteps", 18), counts=rule, order=order, guidance=guidance)
    noise = gumbel_from_uniform(case.input("uniform"))
    batch, length = noise.shape[1:]
    tape = Tape({"token": case.input("exp_noise"), "order": noise}, batch)
    canvas = blank_canvas(batch, length)
    found = run(model, case.input("class_ids"), plan, tape, canvas)
    unknown = torch.cat([canvas.masked[None], found.masked[:-1]])
    check_raw_draws(case, found.tokens, unknown)
    remaining = rule.table(plan.steps, 0, canvas.masked, tape)
    return {
        "sampled_ids_per_step": found.tokens,
        "final_ids": found.tokens[-1],
        "mask_len": remaining,
    } | last_mask(case, found.masked)


def check_raw_draws(case: Case, tokens: Tensor, unknown: Tensor) -> None:
    """The source also draws where tokens are known, and throws that away."""
    if case.has("raw_sampled_ids_per_step"):
        raw = case.input("raw_sampled_ids_per_step")
        assert torch.equal(raw[unknown], tokens[unknown])
    case.leave("temperature")  # unlockmgm.schedules


def last_mask(case: Case, masked: Tensor) -> dict[str, Tensor]:
    """The source computes a mask after the last step and never applies it; we reveal everything."""
    expected = case.input("mask_per_step") != 0
    assert torch.equal(masked[:-1], expected[:-1])
    assert not masked[-1].any()
    return {}


def jax_sample(case: Case) -> dict[str, Tensor]:
    weights, spec = case.weights(), case.spec
    model = jax_model(case, weights)
    ids = case.input("input_ids")  # (B, 1 + L), the class in front
    codes = spec["codebook_size"]
    canvas = Canvas(ids[:, 1:], ids[:, 1:] == spec["mask_token_id"])
    method = spec.get("mask_scheduling_method", "cosine")
    curve = JAX_CURVES.get(method, method)
    rule = FixedCounts(curve=curve, least=1, precision="float32")
    plan = Plan(
        steps=spec["num_iter"],
        first_step=spec.get("start_iter", 0),
        counts=rule,
        order=Confidence(temperature=spec["choice_temperature"]),
    )
    race = torch.exp(-case.input("gumbel_categorical")[:, :, 1:])  # Gumbel as exponential numbers
    tape = Tape({"token": race, "order": case.input("gumbel_choice")[:, :, 1:]}, len(ids))
    found = run(model, ids[:, 0] - codes, plan, tape, canvas)
    expected = case.input("mask_per_step") != 0  # position 0, the class, is never masked
    assert torch.equal(found.masked[:-1], expected[:-1, :, 1:])
    sequences = case.input("final_seqs")[:, plan.first_step :, 1:]  # (B, S, L)
    assert torch.equal(found.tokens.transpose(0, 1), sequences)
    return {"mask_len": rule.table(plan.steps, plan.first_step, canvas.masked, tape)}


def jax_model(case: Case, weights: dict[str, Tensor]) -> MaskedModel:
    """The tanh network; its sizes stand in the case that the weights come from."""
    path = case.path.with_name(f"{case.spec.get('weights_case', case.name)}.json")
    sizes = json.loads(path.read_text())
    network = MaskGITBertNetwork(
        codes=sizes["codebook_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_layers"],
        heads=sizes["num_heads"],
        feed_forward=sizes["intermediate_size"],
        length=sizes["seq_len"],
        classes=sizes["num_classes"],
        gelu="tanh",
        grid=(1, sizes["seq_len"]),
    )
    model = network.build()
    load_state(model, to_own(weights, unlockmgm.TABLE, case.name))
    return model


HANDLERS = {
    "maskgit_pytorch.sample": pytorch_sample,
    "unlockmgm.sample": unlockmgm_sample,
    "maskgit_jax.sample": jax_sample,
}
