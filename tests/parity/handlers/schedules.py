"""Schedules of the three MaskGIT projects: mask ratios, counts, noise, guidance, learning rate."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from golden import Case
from torch import Tensor

from unmask.counts import FixedCounts
from unmask.curves import find_curve
from unmask.draws import Draws
from unmask.guidance import Guidance
from unmask.masking import TrainMasking
from unmask.orders import Confidence
from unmask.recipes.training import Ema, Training
from unmask.train.optim import ema_decay, learning_rate

PYTORCH_RAMPS = {"constant": "constant", "linear": "steps", "linear-r": "revealed"}


def counts(rule: FixedCounts, steps: int, length: int) -> Tensor:
    """``(T,)`` counts of a fresh canvas."""
    masked = torch.ones(1, length, dtype=torch.bool)
    return rule.table(steps, 0, masked, Draws([0]))[:, 0]


def sizes(text: str) -> tuple[int, int]:
    """Steps and tokens of a name that ends in ``8x256``."""
    steps, length = text.split("x")
    return int(steps), int(length)


def temperatures(order: Confidence, steps: int) -> Tensor:
    return torch.tensor([order.temperature_at(t, steps) for t in range(steps)], dtype=torch.float64)


def pytorch_guidance(ramp: str, scale: float, size: str) -> Tensor:
    steps, length = sizes(size)
    power = 1.0
    if ramp.startswith("power-cosine-"):
        ramp, power = "power-cosine", float(ramp.removeprefix("power-cosine-"))
    guidance = Guidance(scale=scale, ramp=PYTORCH_RAMPS.get(ramp, ramp), power=power)
    remaining = counts(FixedCounts(pace="overall"), steps, length)[:, None]
    flat = torch.ones(steps, 1, dtype=torch.float64)  # of a scale of 1 there is no table
    return guidance.table(remaining, steps, length).get("null", flat)[:, 0]


def numbers(case: Case, pattern: str, *usual: float) -> list[float]:
    """What the case's prose says of its schedules, or what all have said so far."""
    prose = " ".join(value for value in case.spec.values() if isinstance(value, str))
    found = re.search(pattern.replace("#", r"([\d.]+(?:e[-+]?\d+)?)"), prose)
    return [float(number.rstrip(".")) for number in found.groups()] if found else list(usual)


def lr_table(settings: Training, steps: int) -> Tensor:
    return torch.tensor([learning_rate(settings, k) for k in range(steps)], dtype=torch.float64)


def pytorch_schedules(case: Case) -> dict[str, Tensor]:
    r = case.input("r")
    found: dict[str, Tensor] = {}
    for schedule in case.spec.get("schedules", []):
        assert case.has(f"gamma/{schedule}")
    for name in case.names("gamma/*"):
        share = find_curve(name.split("/")[1])(r).clamp(0, 1)
        found[name] = torch.where(r == 1, 0.0, share)
    for name in case.names("train_n_masked/*"):
        _, curve, length = name.split("/")
        masking = TrainMasking(curve=curve, rounding="up", shared=True)
        fewest = (r < 1).long()  # the source never draws r = 1, where it masks nothing
        found[name] = masking.counts(r, int(length)) * fewest
    for name in case.names("sample_n/*"):
        _, curve, size = name.split("/")
        found[name] = counts(FixedCounts(curve=curve, pace="overall"), *sizes(size))
    for name in case.names("cfg/*"):
        _, ramp, scale, size = name.split("/")
        found[name] = pytorch_guidance(ramp, float(scale), size)
    for name in case.names("gumbel_temp/*"):
        _, base, steps = name.split("/")
        found[name] = temperatures(Confidence(temperature=float(base)), int(steps))
    return found | pytorch_optimisation(case)


def pytorch_optimisation(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    lr, warm, steps = numbers(case, "base #, warmup #, training #", 1e-4, 6, 20)
    for name in case.names("lr/*"):
        schedule, _, warmup = name.split("/")[1].partition("_")
        settings = Training(
            steps=int(steps), lr=lr, schedule=schedule, warmup_steps=int(warm) * bool(warmup)
        )
        found[name] = lr_table(settings, len(case.input(name)))
    updates = case.input("ema_decay/num_updates").tolist()
    for name in set(case.names("ema_decay/*")) - {"ema_decay/num_updates"}:
        values = [ema_decay(pytorch_average(name.partition("/")[2]), n) for n in updates]
        found[name] = torch.tensor(values, dtype=torch.float64)
    return found


def pytorch_average(name: str) -> Ema:
    """The rule of a name such as ``crowsonkb_p0_75``, whose number is the power."""
    kind, _, power = name.partition("_p")
    if kind.startswith("crowsonkb"):
        return Ema(warmup="power", power=float(power.replace("_", ".")) if power else 2 / 3)
    return Ema(warmup={"none": "none", "tensorflow_like": "inverse"}[name])


UNLOCKMGM_CURVES = {
    "cosine": "cosine",
    "linear": "linear",
    "sqrt": "sqrt",
    "sigmoid": "sigmoid",
    "pipeline_custom": "muse",
}


def unlockmgm_curve(name: str) -> Callable[[Tensor], Tensor]:
    """The source's clipping differs by schedule: none for cosine and its pipeline's own."""
    if name.startswith("exponential_"):
        return find_curve("exponential", int(name.split("_")[1]))
    if name.startswith("sigmoid_"):
        start, end, tau = name.removeprefix("sigmoid_").split("_")
        curve = find_curve(f"sigmoid({start},{end},{tau.removeprefix('t')})")
    else:
        curve = find_curve(UNLOCKMGM_CURVES.get(name, name))
    unclipped = name in ("cosine", "pipeline_custom")
    return curve if unclipped else lambda t: curve(t).clamp(1e-6, 1)


def unlockmgm_schedules(case: Case) -> dict[str, Tensor]:
    t = case.input("t")
    found: dict[str, Tensor] = {}
    for name in (n for n in case.names("*") if "/" not in n and n != "t"):
        expected = case.input(name)
        found[name] = unlockmgm_curve(name)(t[: len(expected)])
    for name in case.names("mask_len/*"):
        _, curve, size = name.split("/")
        rule = FixedCounts(curve=curve, least=1, precision="float32")
        found[name] = counts(rule, *sizes(size))
    for name in case.names("temp_*/*"):
        kind, base, steps = name.split("/")
        anneal = "compound" if kind == "temp_compounded" else "linear"
        found[name] = temperatures(Confidence(temperature=float(base), anneal=anneal), int(steps))
    case.leave("floor/*")  # mask_len before its bounds
    return found | unlockmgm_optimisation(case)


def unlockmgm_optimisation(case: Case) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    lr, warm, total = numbers(case, "base #, warmup #, # steps", 1e-4, 5, 50)
    for name in case.names("lr/*"):
        cycles = name.removesuffix("cycles").rpartition("_")[2]
        settings = Training(
            steps=int(total),
            lr=lr,
            schedule="restarts",
            warmup_steps=int(warm),
            cycles=int(cycles) if cycles.isdigit() else 1,
        )
        found[name] = lr_table(settings, len(case.input(name)))
    after, decay = numbers(case, "update_after_step=#, decay #", 5000, 0.9999)
    rule = Ema(decay=decay, warmup="inverse", after_step=int(after))
    steps = case.input("ema_decay/optimization_step").tolist()
    values = [ema_decay(rule, n) for n in steps]
    found["ema_decay/value"] = torch.tensor(values, dtype=torch.float64)
    return found


JAX_CURVES = {"uniform": "linear", "log": "logarithmic", "exp": "exponential"}


def jax_schedules(case: Case) -> dict[str, Tensor]:
    ratio = case.input("ratio")
    found: dict[str, Tensor] = {}
    for name in case.names("schedule/*"):
        method, _, total = name.removeprefix("schedule/").partition("/")
        curve = find_curve(JAX_CURVES.get(method, method), int(total or 0))
        found[name] = curve(ratio).clamp(1e-6, 1)
    for name in case.names("mask_len/*"):
        _, method, size = name.split("/")
        curve = JAX_CURVES.get(method, method)
        rule = FixedCounts(curve=curve, least=1, precision="float32")
        found[name] = counts(rule, *sizes(size))
    return found


HANDLERS = {
    "maskgit_pytorch.schedules": pytorch_schedules,
    "unlockmgm.schedules": unlockmgm_schedules,
    "maskgit_jax.schedules": jax_schedules,
}
