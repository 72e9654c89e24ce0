"""DPM-Solver++: the schedule's closed facts, and its steps against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.errors import InputError
from unmask.nn import dpm_solver
from unmask.nn.dpm_solver import dpm_solver_stages, half_log_snr, knots, network_time, time_at
from unmask.nn.gaussian import Stage


def test_four_steps_are_dropped_and_the_ends_are_as_published() -> None:
    times, log_alphas = knots()
    assert len(times) == len(log_alphas) == 996
    assert times.dtype == log_alphas.dtype == torch.float32
    assert half_log_snr(times[-1:]).item() == pytest.approx(-5.077755, abs=1e-5)
    assert half_log_snr(times[:1]).item() == pytest.approx(5.047494, abs=1e-3)
    assert network_time(times[-1:]).item() == pytest.approx(998.996, abs=1e-3)
    assert network_time(times[:1]).item() == 0


def test_lambda_falls_and_time_at_inverts_it() -> None:
    times = torch.linspace(0.01, 1, 200)
    lambdas = half_log_snr(times)
    assert bool((lambdas[1:] < lambdas[:-1]).all())
    torch.testing.assert_close(time_at(lambdas), times, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("evaluations", "orders"),
    [
        (1, [1]),
        (2, [2]),
        (3, [2, 1]),
        (8, [3, 3, 2]),
        (9, [3, 3, 2, 1]),
        (10, [3, 3, 3, 1]),
        (14, [3, 3, 3, 3, 2]),
    ],
)
def test_evaluations_are_spent_in_full(evaluations: int, orders: list[int]) -> None:
    assert dpm_solver.orders(evaluations) == orders
    stages = dpm_solver_stages(str(evaluations))
    assert len(stages) == evaluations == sum(orders)
    assert [len(s.noises) for s in stages if s.ends] == orders
    assert all(stage.spread == 0 for stage in stages)


def test_inner_points_are_at_thirds_and_halves() -> None:
    times = dpm_solver.step_times(14)
    thirds = dpm_solver.ratios(times[0], times[1], 3)
    torch.testing.assert_close(thirds, torch.tensor([1 / 3, 2 / 3, 1.0]), rtol=1e-4, atol=0)
    half = dpm_solver.ratios(times[-2], times[-1], 2)
    torch.testing.assert_close(half, torch.tensor([0.5, 1.0]), rtol=1e-4, atol=0)


@pytest.mark.parametrize("text", ["", "0", "1001", "ddim25", "8.0", "-8", "10,10"])
def test_only_whole_numbers_of_evaluations_are_taken(text: str) -> None:
    with pytest.raises(InputError, match="dpm-solver takes the number of its evaluations"):
        dpm_solver_stages(text)


def followed(stages: tuple[Stage, ...], x: float, noise_at: object) -> float:
    start, seen = x, []
    for stage in stages:
        seen.append(noise_at(x, stage.time))  # type: ignore[operator]
        x = stage.state * start + sum(c * e for c, e in zip(stage.noises, seen, strict=True))
        if stage.ends:
            start, seen = x, []
    return x


@pytest.mark.parametrize("text", ["1", "2", "3", "8", "14"])
def test_the_true_noise_of_one_point_leads_to_it(text: str) -> None:
    """If the clean latents are the same everywhere, every order is exact."""
    clean = 0.7

    def noise_at(x: float, told: float) -> float:
        alpha, sigma = amplitudes(told)
        return (x - alpha * clean) / sigma

    found = followed(dpm_solver_stages(text), -1.3, noise_at)
    end = amplitudes(0.0)[0] * clean
    assert found == pytest.approx(end, abs=0.01)  # what is left of the noise: sigma = 0.0064


def amplitudes(told: float) -> tuple[float, float]:
    time = torch.tensor([told / 1000 + 1 / 996], dtype=torch.float32)
    return dpm_solver.log_alpha(time).exp().item(), dpm_solver.sigma(time).item()


def test_more_evaluations_come_nearer_to_the_exact_path() -> None:
    """For normal data, (x - alpha mu) / deviation of x never changes on the exact path."""
    mean, deviation = 0.5, 0.3

    def scale(alpha: float, sigma: float) -> float:
        return math.sqrt(alpha**2 * deviation**2 + sigma**2)

    def noise_at(x: float, told: float) -> float:
        alpha, sigma = amplitudes(told)
        return sigma * (x - alpha * mean) / scale(alpha, sigma) ** 2

    begin, end = amplitudes(1000 - 1000 / 996), amplitudes(0.0)
    exact = end[0] * mean + scale(*end) / scale(*begin) * (1.5 - begin[0] * mean)
    counts = (2, 8, 14, 32, 62)
    errors = [abs(followed(dpm_solver_stages(str(n)), 1.5, noise_at) - exact) for n in counts]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] < 0.01
    assert errors[3] < 2e-4


def test_stages_are_made_once() -> None:
    assert dpm_solver_stages("8") is dpm_solver_stages("8")
