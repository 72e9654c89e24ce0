"""The loop: continuing, accumulating, refusing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.utils import set_seed
from toy_run import (
    StoppedError,
    StopsAt,
    ToyBatches,
    ToyObjective,
    latest,
    log_lines,
    outcome,
    toy_accelerator,
    toy_settings,
    toy_train,
)

from unmask.errors import InputError
from unmask.train import loop
from unmask.train.conduct import due
from unmask.train.loop import optimise_step
from unmask.train.optim import learning_rate, make_optimizer
from unmask.train.run import Preview
from unmask.train.state import read_checkpoint


def test_a_stopped_run_continues_bit_for_bit(tmp_path: Path) -> None:
    toy_train(tmp_path / "whole")
    with pytest.raises(StoppedError):
        toy_train(tmp_path / "parts", batches=StopsAt(toy_settings(), 10))
    result = toy_train(tmp_path / "parts")
    assert result.resumed_from == 8  # inside an interval of the log
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def test_worker_processes_change_nothing(tmp_path: Path) -> None:
    toy_train(tmp_path / "none")
    toy_train(tmp_path / "two", num_workers=2)
    assert outcome(tmp_path / "two") == outcome(tmp_path / "none")


def test_a_finished_run_does_nothing_and_can_be_prolonged(tmp_path: Path) -> None:
    constant = toy_settings(schedule="constant", save_every=0)
    toy_train(tmp_path / "a", replace(constant, steps=10))
    again = toy_train(tmp_path / "a", replace(constant, steps=10))
    assert (again.step, again.resumed_from, again.images) == (10, 10, 0)
    longer = toy_train(tmp_path / "a", replace(constant, steps=20))
    assert (longer.step, longer.resumed_from, longer.images) == (20, 10, 80)
    toy_train(tmp_path / "b", replace(constant, steps=20))
    # the first try also logged its own last step, 10
    assert outcome(tmp_path / "a")[0] == outcome(tmp_path / "b")[0]


def test_accumulation_equals_one_large_batch(tmp_path: Path) -> None:
    states = []
    for parts in (1, 2, 4):
        out = tmp_path / str(parts)
        toy_train(out, toy_settings(accumulate=parts), dropout=0.0)
        states.append(read_checkpoint(latest(out / "checkpoints")).weights)
        assert log_lines(out)[-1]["loss"] == pytest.approx(
            log_lines(tmp_path / "1")[-1]["loss"], abs=1e-5
        )
    for other in states[1:]:
        for part, state in states[0].items():
            for name, value in state.items():
                torch.testing.assert_close(other[part][name], value, atol=1e-5, rtol=1e-4)


def test_the_step_is_adamw_written_out() -> None:
    """Clipping, decoupled decay and bias correction from the closed form, one step at a time."""
    settings = toy_settings(warmup_steps=0, clip_grad_norm=0.05, weight_decay=0.1)
    objective = ToyObjective(dropout=0.0)
    accelerator = toy_accelerator()
    optimizer = accelerator.prepare_optimizer(make_optimizer(objective, settings))
    params = [p for p in objective.parameters() if p.requires_grad]
    mine = [p.detach().clone() for p in params]
    first, second = [torch.zeros_like(p) for p in mine], [torch.zeros_like(p) for p in mine]
    for step in range(3):
        batch = ToyBatches(settings)[step]
        grads = torch.autograd.grad(objective(batch[0])["loss"], params)
        norm = torch.stack([g.norm() for g in grads]).norm()
        values = optimise_step(
            objective,
            batch,
            optimizer=optimizer,
            settings=settings,
            step=step,
            accelerator=accelerator,
        )
        assert values["grad_norm"].item() == pytest.approx(norm.item(), rel=1e-5)
        rate = learning_rate(settings, step)
        for p, g, m, v in zip(mine, grads, first, second, strict=True):
            g = g * min(1.0, 0.05 / (norm.item() + 1e-6))
            m.lerp_(g, 1 - 0.9)
            v.lerp_(g * g, 1 - 0.96)
            scale = (v / (1 - 0.96 ** (step + 1))).sqrt() + settings.eps
            p.mul_(1 - rate * 0.1).sub_(rate * (m / (1 - 0.9 ** (step + 1))) / scale)
        for p, expected in zip(params, mine, strict=True):
            torch.testing.assert_close(p.detach(), expected, atol=1e-6, rtol=1e-5)


def test_the_logged_loss_is_the_mean_of_its_interval(tmp_path: Path) -> None:
    toy_train(tmp_path / "each", toy_settings(log_every=1, save_every=0))
    toy_train(tmp_path / "three", toy_settings(log_every=3, save_every=0))
    each, three = log_lines(tmp_path / "each"), log_lines(tmp_path / "three")
    assert [line["step"] for line in each] == list(range(1, 25))
    assert [line["step"] for line in three] == list(range(3, 25, 3))
    for index, line in enumerate(three):
        losses = [e["loss"] for e in each[3 * index : 3 * index + 3]]
        assert line["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
        assert line["lr"] == each[3 * index + 2]["lr"]
    assert three[-1]["loss"] < 0.9 * three[0]["loss"]


def test_due_counts_finished_steps() -> None:
    assert [n for n in range(1, 11) if due(n, 4, 10)] == [4, 8, 10]
    assert [n for n in range(1, 11) if due(n, 0, 10)] == [10]


def test_previews_come_with_both_kinds_of_weights(tmp_path: Path) -> None:
    objective, seen = ToyObjective(), []

    def look(folder: Path, step: int, use_ema: bool) -> None:
        assert folder == tmp_path / "run" / "samples"
        assert folder.is_dir()
        assert not objective.training
        set_seed(step)  # what a preview does to the random state must not matter
        seen.append((step, use_ema, objective.averaged.outer.weight.clone()))

    toy_train(tmp_path / "run", objective=objective, previews=[Preview(look, 10)])
    assert [(s, e) for s, e, _ in seen] == [(n, e) for n in (10, 20, 24) for e in (True, False)]
    last = read_checkpoint(latest(tmp_path / "run" / "checkpoints")).weights
    assert torch.equal(seen[-2][2], last["ema"]["outer.weight"])
    assert torch.equal(seen[-1][2], last["model"]["outer.weight"])
    assert not torch.equal(seen[-1][2], seen[-2][2])
    toy_train(tmp_path / "blind")
    assert outcome(tmp_path / "blind") == outcome(tmp_path / "run")


def test_other_parameters_travel_in_the_state(tmp_path: Path) -> None:
    toy_train(tmp_path)
    saved = read_checkpoint(latest(tmp_path / "checkpoints"))
    assert set(saved.state["others"]) == {"judge"}
    assert (
        set(saved.weights["model"])
        == set(saved.weights["ema"])
        == set(ToyObjective().averaged.state_dict())
    )
    assert saved.weights["model"]["seen"] == saved.weights["ema"]["seen"] != 0


def test_without_an_average(tmp_path: Path) -> None:
    result = toy_train(tmp_path, toy_settings(ema=None))
    assert set(read_checkpoint(result.checkpoint).weights) == {"model"}


def test_the_result_counts(tmp_path: Path) -> None:
    result = toy_train(tmp_path, toy_settings(log_every=1))
    assert (result.step, result.resumed_from, result.images) == (24, 0, 192)
    lines = log_lines(tmp_path)
    assert result.first_loss == pytest.approx(lines[0]["loss"], rel=1e-6)
    assert result.last_loss == pytest.approx(lines[-1]["loss"], rel=1e-6)
    assert result.peak_memory > 50 * 2**20  # torch alone takes more
    assert 0 < result.seconds < 60
    assert result.checkpoint == tmp_path / "checkpoints" / "step-0000024"


@pytest.mark.parametrize("save_every", [1, 100])
def test_a_loss_that_is_not_finite_stops_the_run(tmp_path: Path, save_every: int) -> None:
    class Diverges(ToyBatches):
        def __getitem__(self, step: int) -> list:
            x, y, weight = super().__getitem__(step)[0]
            return [(x, y, weight * (float("inf") if step >= 7 else 1))]

    settings = toy_settings(save_every=save_every, log_every=5)
    with pytest.raises(InputError, match=r"training\.lr") as caught:
        toy_train(tmp_path, settings, batches=Diverges(settings))
    message = str(caught.value)
    assert "\n" not in message
    assert "in step 8, on batch 7 of seed 0" in message
    if save_every == 1:  # the save looks too: no checkpoint of a broken network
        assert str(tmp_path / "checkpoints" / "step-0000007") in message
    else:
        assert "none" in message


def test_changed_values_are_named(tmp_path: Path) -> None:
    config = {"training": {"steps": 24, "lr": 0.02}, "model": {"width": 8, "heads": [1, 2]}}
    toy_train(tmp_path, config=config)
    before = outcome(tmp_path)
    other = {"training": {"steps": 30, "lr": 0.03}, "model": {"width": 8, "heads": [1, 3]}}
    with pytest.raises(InputError, match=r"model\.heads, training\.lr;"):
        toy_train(tmp_path, config=other)
    assert outcome(tmp_path) == before


def test_changed_values_are_named_before_the_first_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        toy_train(tmp_path, batches=StopsAt(toy_settings(), 2), config={"a": 1})
    with pytest.raises(InputError, match="other values of a;"):
        toy_train(tmp_path, config={"a": 2})


def test_a_foreign_folder_is_refused_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("ten years")
    with pytest.raises(InputError, match=r"'thesis\.tex' but no run"):
        toy_train(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="is a file"):
        toy_train(tmp_path / "thesis.tex")


def test_tensorboard_by_default(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    settings = toy_settings(steps=4)
    loop.train(
        ToyObjective(), ToyBatches(settings), settings=settings, out=tmp_path, config={"n": 1}
    )
    assert list((tmp_path / "tracker").glob("events*"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 3/4", "step 4/4"]
    assert all("loss" in line and "images/s" in line and "left" in line for line in lines)


def test_an_impossible_precision_is_one_line(tmp_path: Path) -> None:
    toy_accelerator()  # full precision, for the whole process
    settings = toy_settings(precision="bf16")
    with pytest.raises(InputError, match=r"precision='bf16' .* is not possible") as caught:
        loop.train(ToyObjective(), ToyBatches(settings), settings=settings, out=tmp_path, config={})
    assert "\n" not in str(caught.value)


def test_the_recipe_is_stored(tmp_path: Path) -> None:
    toy_train(tmp_path, config={"training": {"betas": (0.9, 0.96)}})
    stored = json.loads((tmp_path / "checkpoints" / "step-0000024" / "config.json").read_text())
    assert stored == {"training": {"betas": [0.9, 0.96]}}
    assert "betas" in (tmp_path / "recipe.yaml").read_text()
