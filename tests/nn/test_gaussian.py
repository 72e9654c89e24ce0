"""The cosine process: which steps a string keeps, and where each way back leads."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.errors import InputError
from unmask.nn.gaussian import (
    STEPS,
    cosine_betas,
    ddim_stages,
    ddpm_stages,
    kept_steps,
    loss_table,
    process,
)


def test_the_schedule_has_its_published_ends() -> None:
    betas = cosine_betas()
    assert betas.dtype == torch.float64
    assert len(betas) == STEPS
    assert betas[0].item() == pytest.approx(4.1284e-5, rel=1e-4)
    assert betas[-1].item() == 0.999
    assert process().signal[-1].item() == pytest.approx(2.4288e-9, rel=1e-4)


def test_all_steps_are_kept_by_the_empty_string() -> None:
    assert kept_steps("") == list(range(STEPS))
    assert torch.equal(process().betas, cosine_betas())


@pytest.mark.parametrize(("count", "stride"), [(2, 500), (10, 100), (25, 40), (50, 20), (1000, 1)])
def test_a_stride_starts_at_0_and_avoids_the_last_step(count: int, stride: int) -> None:
    kept = kept_steps(f"ddim{count}")
    assert kept == list(range(0, STEPS, stride))
    assert len(kept) == count
    assert (STEPS - 1 in kept) == (stride == 1)


def test_of_two_strides_the_smaller_is_taken() -> None:
    assert kept_steps("ddim3") == [0, 334, 668]
    assert kept_steps("ddim2") == [0, 500]


@pytest.mark.parametrize("count", [2, 7, 100, 250, 999])
def test_a_count_keeps_both_ends(count: int) -> None:
    kept = kept_steps(str(count))
    assert len(kept) == count
    assert kept[0] == 0
    assert kept[-1] == STEPS - 1
    assert kept == sorted(set(kept))


def test_a_hundred_steps_round_as_published() -> None:
    kept = kept_steps("100")
    assert kept[:7] == [0, 10, 20, 30, 40, 50, 61]
    assert kept[-2:] == [989, 999]


def test_sections_have_their_own_counts_and_the_first_are_longer() -> None:
    kept = kept_steps("10,15,20")
    sections = [range(334), range(334, 667), range(667, STEPS)]
    assert [sum(step in section for step in kept) for section in sections] == [10, 15, 20]
    assert {0, 333, 334, 666, 667, 999} <= set(kept)
    assert kept_steps("1,1") == [0, 500]


@pytest.mark.parametrize("text", ["10", "ddim25", "10,15,20"])
def test_a_shorter_process_has_the_same_signal_at_its_steps(text: str) -> None:
    path = process(text)
    torch.testing.assert_close(path.signal, process().signal[path.times], rtol=1e-9, atol=0)


@pytest.mark.parametrize("text", ["1", "ddim1", "0", "0,1"])
def test_fewer_than_two_steps_cannot_be_sampled(text: str) -> None:
    with pytest.raises(InputError, match=f"draw.respacing='{text}' .*cannot be sampled"):
        kept_steps(text)


@pytest.mark.parametrize("text", ["fast", "ddim", "ddim-5", "10,", "1e2", "10.5", "-3", " 10"])
def test_nonsense_is_told_the_three_forms(text: str) -> None:
    with pytest.raises(InputError) as caught:
        kept_steps(text)
    message = str(caught.value)
    assert all(form in message for form in (repr(text), "empty", "'ddim25'", "'10,15,20'"))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "way_out"),
    [("ddim60", "'ddim59'"), ("ddim0", "'ddim1'"), ("1001", "at most 1000"), ("400,2,2", "334")],
)
def test_counts_that_cannot_be_kept_name_one_that_can(text: str, way_out: str) -> None:
    with pytest.raises(InputError, match=way_out):
        kept_steps(text)


@pytest.mark.parametrize("text", ["10", "ddim25", ""])
def test_the_ancestral_mean_is_the_posteriors(text: str) -> None:
    """With the true noise, it is the posterior mean of the clean latents at every step."""
    path, clean, noise = process(text), 0.7, -1.3
    state = path.signal.sqrt() * clean + (1 - path.signal).sqrt() * noise
    wanted = path.posterior_clean * clean + path.posterior_state * state
    stages = list(reversed(ddpm_stages(text)))
    means = [s.state * x + s.noises[0] * noise for s, x in zip(stages, state.tolist(), strict=True)]
    torch.testing.assert_close(torch.tensor(means, dtype=torch.float64), wanted)


def test_the_variance_output_runs_between_its_bounds() -> None:
    path = process("10")
    for k, stage in enumerate(reversed(ddpm_stages("10"))):
        if k == 0:
            assert stage.spread == 0  # the last step adds no noise
            continue
        upper, lower = ((stage.spread * math.exp(v * stage.tilt)) ** 2 for v in (1, -1))
        assert upper == pytest.approx(path.betas[k].item())
        assert lower == pytest.approx(path.posterior_log_variance[k].exp().item())


@pytest.mark.parametrize("text", ["10", "ddim25", ""])
def test_ddim_with_the_true_noise_stays_on_the_straight_path(text: str) -> None:
    path, clean, noise = process(text), 0.7, -1.3
    x = (path.signal[-1].sqrt() * clean + (1 - path.signal[-1]).sqrt() * noise).item()
    for stage in ddim_stages(text):
        x = stage.state * x + stage.noises[0] * noise
    assert x == pytest.approx(clean, rel=1e-5)


def test_the_loss_table_is_finite_and_float32() -> None:
    table = loss_table()
    assert table.shape == (STEPS, 5)
    assert table.dtype == torch.float32
    assert bool(table.isfinite().all())


def test_stages_are_made_once() -> None:
    assert ddpm_stages("100") is ddpm_stages("100")
    assert process("100") is process("100")
