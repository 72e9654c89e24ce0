"""The diffusion head: loss against a transcription, laws of drawing, and what a step costs."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tape import Tape
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unmask.draws import Draws, keyed_generator
from unmask.errors import InputError
from unmask.nn import dpm_solver
from unmask.nn.diffusion import DiffusionDraw, DiffusionHead
from unmask.nn.gaussian import process
from unmask.types import Reading

CHANNELS, CONDITION, WIDTH = 4, 12, 16
DRAWS = {
    "ddpm": DiffusionDraw(respacing="ddim10", temperature=0.9),
    "ddim": DiffusionDraw(solver="ddim", respacing="ddim10"),
    "dpm-solver": DiffusionDraw(solver="dpm-solver", respacing="8"),
}


def normal(*shape: int, key: str = "x") -> Tensor:
    return torch.randn(*shape, generator=keyed_generator(1, key))


def head_of(*, depth: int = 2, channels: int = CHANNELS) -> DiffusionHead:
    head = DiffusionHead(channels, CONDITION, width=WIDTH, depth=depth)
    for name, parameter in head.named_parameters():
        torch.nn.init.normal_(parameter, std=0.15, generator=keyed_generator(2, name))
    return head.requires_grad_(False)


def draw(
    head: DiffusionHead,
    strong: Tensor,
    weak: tuple[Tensor, ...] = (),
    scales: tuple[Tensor, ...] = (),
    *,
    options: DiffusionDraw = DRAWS["ddpm"],
    draws: Draws | None = None,
) -> Tensor:
    batch, positions, _ = strong.shape
    where = torch.arange(positions).expand(batch, -1)
    reading = Reading(strong, where, positions, 3, weak, scales)
    drawn = head.draw(reading, options, draws or Draws(list(range(batch))))
    assert drawn.log_prob is None
    assert drawn.values.dtype == torch.float32
    assert drawn.values.shape == (batch, positions, head.channels)
    return drawn.values


# Loss


def transcribed(found: Tensor, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """MAR's loss of every row, ``(R, M)``, from the network's ``(R, M, 2 C)``, term by term."""
    path, (eps, v) = process(), found.chunk(2, dim=-1)

    def column(table: Tensor) -> Tensor:
        return table[t].unsqueeze(-1)

    signal = column(path.signal)
    xt = signal.sqrt() * x0 + (1 - signal).sqrt() * noise
    mse = (noise - eps).square().mean(-1)
    true_log = column(path.posterior_log_variance)
    log_variance = (v + 1) / 2 * column(path.betas).log() + (1 - v) / 2 * true_log
    clean = (1 / signal).sqrt() * xt - (1 / signal - 1).sqrt() * eps
    mean = column(path.posterior_clean) * clean + column(path.posterior_state) * xt
    true = column(path.posterior_clean) * x0 + column(path.posterior_state) * xt
    kl = (log_variance - true_log - 1 + (true_log - log_variance).exp()) / 2
    kl = kl + (true - mean).square() * (-log_variance).exp() / 2

    def cdf(u: Tensor) -> Tensor:
        return (1 + ((2 / math.pi) ** 0.5 * (u + 0.044715 * u**3)).tanh()) / 2

    s = (-log_variance / 2).exp()
    upper, lower = cdf(s * (x0 - mean + 1 / 255)), cdf(s * (x0 - mean - 1 / 255))
    middle = (upper - lower).clamp(min=1e-12).log()
    high, low = (1 - lower).clamp(min=1e-12).log(), upper.clamp(min=1e-12).log()
    log_p = torch.where(x0 < -0.999, low, torch.where(x0 > 0.999, high, middle))
    bits = torch.where(t.unsqueeze(-1) == 0, -log_p, kl).mean(-1) / math.log(2)
    return mse + bits


@pytest.mark.parametrize("first", [0, 1, 500, 999])
def test_loss_is_the_transcribed_one(first: int) -> None:
    head, rows = head_of(), 40
    z, x0, noise = normal(rows, CONDITION), normal(rows, CHANNELS, key="y"), normal(3, rows, 4)
    x0[:4] = torch.tensor([-1.2, -0.9995, 0.9995, 1.2])  # both tails of the likelihood
    times = torch.randint(1000, (3, rows), generator=keyed_generator(0))
    times[0] = first
    loss = head.loss(z, x0, times=times, noise=noise)
    assert loss.shape == (rows,)
    assert loss.dtype == torch.float32
    signal = process().signal[times].unsqueeze(-1)
    noised = (signal.sqrt() * x0 + (1 - signal).sqrt() * noise).float()
    found = head.predict_at(noised, times, z.expand(3, -1, -1)).double()
    wanted = transcribed(found, x0.double(), times, noise.double()).mean(0)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-4, atol=1e-4)


def test_the_bound_teaches_the_variance_alone() -> None:
    head = head_of().requires_grad_(True)
    args = {"times": torch.tensor([[0, 1, 700, 999]]), "noise": normal(1, 4, CHANNELS)}
    error, bits = head.loss_terms(normal(4, CONDITION), normal(4, CHANNELS), **args)
    (grad,) = torch.autograd.grad(bits.sum(), head.out.weight, retain_graph=True)
    assert not grad[:CHANNELS].any()
    assert grad[CHANNELS:].any()
    (grad,) = torch.autograd.grad(error.sum(), head.out.weight)
    assert grad[:CHANNELS].any()
    assert not grad[CHANNELS:].any()


def test_features_are_embedded_once_for_all_repeats() -> None:
    head, calls = head_of(), []
    head.condition.register_forward_hook(lambda module, args, out: calls.append(out.shape))
    times = torch.zeros(3, 5, dtype=torch.long)
    head.loss(normal(5, CONDITION), normal(5, CHANNELS), times=times, noise=normal(3, 5, CHANNELS))
    assert calls == [(5, WIDTH)]


def test_loss_and_latents_are_float32_under_autocast() -> None:
    head, z = head_of(), normal(2, 3, CONDITION)
    with torch.autocast("cpu", torch.bfloat16):
        times = torch.tensor([[0, 999, 4]])
        loss = head.loss(z[0], normal(3, CHANNELS), times=times, noise=normal(1, 3, CHANNELS))
        assert loss.dtype == torch.float32
        assert bool(loss.isfinite().all())
        assert bool(draw(head, z, (-z,), (torch.full((2,), 3.0),)).isfinite().all())


# Weights


@pytest.mark.parametrize(
    ("condition", "width", "depth", "count"),
    [(768, 1024, 6, 35_749_920), (1024, 1280, 8, 72_230_432), (1280, 1536, 12, 151_206_944)],
)
def test_published_heads_have_their_published_size(
    condition: int, width: int, depth: int, count: int
) -> None:
    with torch.device("meta"):
        head = DiffusionHead(16, condition, width=width, depth=depth)
    w, c = width, 16
    formula = 256 * w + w + w**2 + w + condition * w + w + c * w + w
    formula += depth * (5 * w**2 + 7 * w) + 2 * w**2 + 2 * w + 2 * c * w + 2 * c
    assert sum(p.numel() for p in head.parameters()) == count == formula
    assert set(head.state_dict()) == {name for name, _ in head.named_parameters()}
    assert not head.tables.is_meta


def test_a_fresh_head_predicts_nothing_and_depends_on_the_generator_alone() -> None:
    heads = [head_of(), DiffusionHead(CHANNELS, CONDITION, width=WIDTH, depth=2)]
    for head in heads:
        head.initialize(keyed_generator(0, "weights"))
    head, other = heads
    for a, b in zip(head.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not head.predict_at(
        normal(3, CHANNELS), torch.tensor([0, 5, 999]), normal(3, CONDITION)
    ).any()
    bound = (6 / (CONDITION + WIDTH)) ** 0.5
    assert 0.9 * bound < head.condition.weight.abs().max() <= bound
    assert head.time[0].weight.std() == pytest.approx(0.02, rel=0.1)
    assert not any(p.any() for name, p in head.named_parameters() if name.endswith(".bias"))


# Drawing


def test_scale_1_is_no_guidance() -> None:
    head, strong, weak = head_of(), normal(3, 5, CONDITION), normal(3, 5, CONDITION, key="weak")
    ones = torch.ones(3)
    for options in DRAWS.values():
        plain = draw(head, strong, options=options)
        for branches in (1, 2):
            guided = draw(head, strong, (weak,) * branches, (ones,) * branches, options=options)
            torch.testing.assert_close(guided, plain, rtol=1e-4, atol=1e-4)


def test_guidance_acts_on_the_noise_and_not_on_the_variance() -> None:
    head, z = head_of(), normal(3, 6, CONDITION)  # (G, M, D)
    scales = [torch.full((6,), 2.5), torch.full((6,), 1.7)]
    options, noise = DRAWS["ddpm"], normal(6, 10, CHANNELS)
    first = next(iter(head.denoise(z, scales, noise=noise, options=options)))
    stage, x = options.stages()[0], noise[:, 0]
    found = head.predict_at(x, torch.full((3, 6), stage.time), z)
    strong, null, other = found[..., :CHANNELS]
    eps = null + 2.5 * (strong - null) + 0.7 * (strong - other)
    amount = 0.9 * stage.spread * (stage.tilt * found[0, :, CHANNELS:]).exp()
    wanted = stage.state * x + stage.noises[0] * eps + amount * noise[:, 1]
    torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("solver", DRAWS)
def test_permuted_rows_give_permuted_latents(solver: str) -> None:
    head, strong, weak = head_of(), normal(3, 5, CONDITION), normal(3, 5, CONDITION, key="weak")
    scale, order = torch.tensor([1.5, 2.0, 3.0]), torch.tensor([2, 0, 1])
    options = DRAWS[solver]
    there = draw(head, strong, (weak,), (scale,), options=options, draws=Draws([7, 8, 9]))
    back = draw(
        head, strong[order], (weak[order],), (scale[order],),
        options=options, draws=Draws([9, 7, 8]),
    )  # fmt: skip
    torch.testing.assert_close(back, there[order], rtol=1e-5, atol=1e-5)
    assert not torch.equal(there[0], there[1])


@pytest.mark.parametrize("solver", DRAWS)
def test_a_position_draws_the_same_whatever_is_read_after_it(solver: str) -> None:
    head, strong = head_of(), normal(2, 9, CONDITION)
    few = draw(head, strong[:, :3], options=DRAWS[solver])
    more = draw(head, strong, options=DRAWS[solver])
    torch.testing.assert_close(few, more[:, :3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", DRAWS)
def test_no_positions_give_no_latents(solver: str) -> None:
    assert draw(head_of(), normal(2, 0, CONDITION), options=DRAWS[solver]).shape == (2, 0, 4)


def test_temperature_scales_the_fresh_noise_alone() -> None:
    head, strong = head_of(), normal(1, 400, CONDITION)
    cold = draw(head, strong, options=DiffusionDraw(respacing="ddim10", temperature=0.0))
    noise = Draws([0]).normal_at("diffusion", 3, torch.arange(400)[None], 10, CHANNELS)
    silent = torch.cat([noise[:, :, :1], torch.zeros_like(noise[:, :, 1:])], dim=2)
    tape = Tape({"diffusion": silent.expand(4, *silent.shape)}, 1)
    hot = draw(head, strong, options=DiffusionDraw(respacing="ddim10"), draws=tape)
    torch.testing.assert_close(cold, hot)
    assert not torch.allclose(cold, draw(head, strong, options=DRAWS["ddpm"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "draw.temperature=-0.1 must be at least 0"),
        ({"temperature": math.inf}, "draw.temperature=inf"),
        ({"respacing": "1"}, "cannot be sampled"),
        ({"solver": "ddim", "respacing": "often"}, "none of its forms"),
        ({"solver": "ddim", "temperature": 0.9}, "does nothing with ddim"),
        ({"solver": "dpm-solver"}, "draw.respacing='ddim25': dpm-solver takes the number"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        DiffusionDraw(**options)


class NormalData(DiffusionHead):
    """Predicts perfectly for latents of mean 0.5 and deviation 0.3, in closed form."""

    mean, deviation = 0.5, 0.3

    def __init__(self, options: DiffusionDraw) -> None:
        super().__init__(1, 1, width=1, depth=0)
        self.condition.requires_grad_(False).weight.zero_()
        self.condition.bias.requires_grad_(False).zero_()
        self.options = options

    def embed_times(self, times: Tensor) -> Tensor:
        return times.unsqueeze(-1)

    def predict(self, x: Tensor, y: Tensor, *, outputs: int) -> Tensor:
        told = y.flatten()[:1]
        if self.options.solver == "dpm-solver":
            signal = (2 * dpm_solver.log_alpha(told / 1000 + 1 / 996)).exp()
            return self.noise(x, signal).expand_as(y)
        path = process(self.options.respacing)
        k = int((path.times == int(told)).nonzero())
        signal = path.signal[k]
        eps = self.noise(x, signal).float()
        spread = self.deviation**2 * (1 - signal) / (signal * self.deviation**2 + 1 - signal)
        variance = path.posterior_variance[k] + path.posterior_clean[k] ** 2 * spread
        lower, upper = path.posterior_log_variance[k], path.betas[k].log()
        v = 2 * (variance.log() - lower) / (upper - lower) - 1
        return torch.cat([eps, v.float().expand_as(eps)], dim=-1).unsqueeze(0)[..., :outputs]

    def noise(self, x: Tensor, signal: Tensor) -> Tensor:
        whole = signal * self.deviation**2 + 1 - signal
        return (1 - signal).sqrt() * (x - signal.sqrt() * self.mean) / whole


@pytest.mark.parametrize(
    "options",
    [
        DiffusionDraw(respacing="ddim100"),
        DiffusionDraw(solver="ddim", respacing="100"),
        DiffusionDraw(solver="dpm-solver", respacing="14"),
    ],
    ids=["ddpm", "ddim", "dpm-solver"],
)
def test_a_perfect_network_gives_the_datas_moments(options: DiffusionDraw) -> None:
    values = draw(NormalData(options), torch.zeros(1, 40_000, 1), options=options)
    assert values.mean().item() == pytest.approx(0.5, abs=0.01)  # 4 standard errors: 0.006
    assert values.std().item() == pytest.approx(0.3, rel=0.03)


def test_ddim_of_all_steps_is_deterministic_bounded_and_ends_at_the_mean_from_zero() -> None:
    options = DiffusionDraw(solver="ddim", respacing="")
    head, z = NormalData(options), torch.zeros(1, 50, 1)
    values = draw(head, z, options=options)
    assert torch.equal(values, draw(head, z, options=options))
    assert (values - 0.5).abs().max() < 5 * 0.3
    zeros = Tape({"diffusion": torch.zeros(4, 1, 50, 1, 1)}, 1)
    from_zero = draw(head, z, options=options, draws=zeros)
    torch.testing.assert_close(from_zero, torch.full_like(from_zero, 0.5), rtol=0, atol=5e-3)


# Cost


class Counter(TorchDispatchMode):
    """Counts operations that compute or copy; views are free."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not (func.is_view or "_unsafe_view" in func.name())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def operations(call: object, *args: object, **kwargs: object) -> int:
    with Counter() as counter:
        call(*args, **kwargs)  # type: ignore[operator]
    return counter.count


@pytest.mark.parametrize("weak", [0, 1])
@pytest.mark.parametrize("depth", [2, 6, 12])
def test_a_step_costs_at_most_a_tenth_more_than_its_network(depth: int, weak: int) -> None:
    head, z = head_of(depth=depth), normal(2, 3, CONDITION)
    branches, scales = (z,) * weak, (torch.full((2,), 2.0),) * weak
    network = operations(
        head.predict_at, normal(6, CHANNELS), torch.full((6,), 3.0), z.flatten(0, 1)
    )

    def cost(options: DiffusionDraw) -> int:
        return operations(draw, head, z, branches, scales, options=options)

    short, long = (cost(DiffusionDraw(respacing=f"ddim{n}")) for n in (5, 10))
    assert (long - short) / 5 <= 1.1 * network
    solver = cost(DiffusionDraw(solver="dpm-solver", respacing="14"))
    assert solver <= 1.1 * 14 * network


@pytest.mark.parametrize("solver", DRAWS)
def test_what_a_whole_draw_shares_is_computed_once(solver: str) -> None:
    head, z, calls = head_of(), normal(2, 3, CONDITION), []
    for layer in (head.condition, head.time):
        layer.register_forward_hook(lambda module, args, out: calls.append(tuple(out.shape)))
    draw(head, z, (z,), (torch.full((2,), 2.0),), options=DRAWS[solver])
    evaluations = len(DRAWS[solver].stages())
    assert calls == [(evaluations, WIDTH), (2, 6, WIDTH)]
