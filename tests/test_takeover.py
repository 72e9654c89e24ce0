"""Trainings of the source projects go on here as they did there."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from tiny_data import write_files
from torch import Tensor
from toy_system import toy_tokenizer

from unmask.checkpoints.names import to_own
from unmask.cli import main
from unmask.errors import InputError
from unmask.files.serial import read_yaml
from unmask.objectives import substitution
from unmask.objectives.masked import LocatedBatch, locate
from unmask.objectives.substitution import SubstitutionBatch
from unmask.projects.foreign import PROJECTS
from unmask.recipes.recipe import Recipe
from unmask.takeover import find_training, take_over
from unmask.tokenizers.conv_stack import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.generator import make_task
from unmask.train.loop import optimise_step
from unmask.train.run import Run, resume
from unmask.train.state import read_checkpoint
from unmask.types import MaskedBatch

FIXTURES = Path(__file__).parent / "fixtures" / "takeover"
CLOSE = {"rtol": 0.0, "atol": 1e-5}
Records = dict[str, Tensor]


def masked_batch(records: Records, at: str, share: float = 1.0, **more: Tensor) -> LocatedBatch:
    masked = records[f"masked.{at}"]
    weight = torch.tensor(share / int(masked.sum()))
    batch = MaskedBatch(records[f"tokens.{at}"], masked, records.get(f"labels.{at}"), weight)
    if (dropped := records.get(f"dropped.{at}")) is not None:
        seen = (~dropped).nonzero()[:, 1].view(len(dropped), -1)  # (B, K)
        batch = batch._replace(kept=seen)
    return locate(batch, **more)


def of_latents(records: Records, step: int) -> tuple[list[LocatedBatch], Tensor]:
    drawn = {name: records[f"{name}.{step}"] for name in ("times", "noise")}
    return [masked_batch(records, str(step), **drawn)], records[f"loss.{step}"]


def of_mage(records: Records, step: int) -> tuple[list[LocatedBatch], Tensor]:
    losses = [records[f"micro_loss.{micro}.{step}"] for micro in (0, 1)]
    batches = [masked_batch(records, f"{micro}.{step}", 0.5) for micro in (0, 1)]
    return batches, torch.stack(losses).mean()


def of_maskgit_pytorch(records: Records, step: int) -> tuple[list[LocatedBatch], Tensor]:
    batches, loss, tokens = [], torch.zeros(()), records[f"tokens.{step + 5}"]
    for micro, part in enumerate(tokens.split(4)):
        at, share = f"{micro}.{step + 5}", len(part) / len(tokens)
        batches.append(masked_batch({**records, f"tokens.{at}": part}, at, share))
        loss = loss + records[f"micro_loss.{at}"] * share
    return batches, loss


def of_unlockmgm(records: Records, step: int) -> tuple[list[SubstitutionBatch], Tensor]:
    batches, loss = [], torch.zeros(())
    for at in (f"0.{step}", f"1.{step}"):
        replaced, codes = records[f"replaced.{at}"], records[f"codes.{at}"]
        weight, share = torch.tensor(0.5 / len(codes)), torch.tensor(0.5 / len(replaced))
        examples = MaskedBatch(
            *(records[f"{n}.{at}"] for n in ("tokens", "masked", "labels")), weight
        )
        where = replaced.flatten().nonzero().squeeze(1)
        batches.append(SubstitutionBatch(examples, where, codes, share))
        loss = loss + (records[f"repair.{at}"] + records[f"variational.{at}"]) / 2
    return batches, loss


SOURCES: dict[str, tuple[str, int, Callable[[Records, int], tuple[Sequence[Any], Tensor]]]] = {
    "maskgit-pytorch": ("maskgit_pytorch", 5, of_maskgit_pytorch),
    "mar": ("mar/checkpoint-last.pth", 6, of_latents),
    "emigm": ("emigm", 6, of_latents),
    "mage": ("mage", 4, of_mage),
    "unlockmgm": ("unlockmgm", 8, of_unlockmgm),
}
TOLD = {"mar": (2, None), "emigm": (2, None), "mage": (2, 2)}


def taken(name: str, out: Path) -> Recipe:
    heads, decoder_heads = TOLD.get(name, (None, None))
    source = FIXTURES / SOURCES[name][0]
    found = find_training(source, heads=heads, decoder_heads=decoder_heads)
    assert found.project.name == name
    network = replace(found.recipe.network, dropout=0.0)  # MAGE's is in its code, not its options
    training = replace(found.recipe.training, precision="no")
    plain = replace(found.recipe, network=network, training=training)
    return take_over(found, plain, out)


def continued(recipe: Recipe, out: Path) -> tuple[Run, int]:
    """The run as ``unmask train`` would go on with it."""
    task = make_task(read_yaml(Recipe, out / "recipe.yaml"), toy_tokenizer())
    accelerator = Accelerator(cpu=True)
    run = Run(task.objective, recipe.training, out=out, config={}, accelerator=accelerator)
    return run, resume(run)


def own(records: Records, kind: str, step: int, name: str) -> dict[str, Tensor]:
    """Recorded weights by our names."""
    start, end = f"{kind}.", f".{step}"
    named = {n[len(start) : -len(end)]: t for n, t in records.items() if n.endswith(end)}
    found = {n: t for n, t in named.items() if f"{start}{n}{end}" in records}
    return to_own(found, PROJECTS[name].rules, "the record")


def check_equal(run: Run, found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    """All trained weights within the tolerance.

    Biases of keys have a gradient of 0, so that Adam moves them by rounding errors.
    """
    prefix = "feedback." if set(wanted) <= {f"feedback.{n}" for n in found} else ""
    trained = {n for n, p in run.averaged.named_parameters() if p.requires_grad}
    assert {prefix + n for n in trained} <= wanted.keys() | {"head.out.weight"}
    for name in trained:
        ours, theirs = found[name], wanted[prefix + name]
        if name.endswith("qkv.bias"):
            ours, theirs = (t.view(3, -1)[::2] for t in (ours, theirs))
        torch.testing.assert_close(ours, theirs, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("name", SOURCES)
def test_three_more_steps_are_those_of_the_source(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(substitution, "invert_cdf", lambda probs, codes: codes)
    out, (folder, done, batches_of) = tmp_path / "run", SOURCES[name]
    recipe = taken(name, out)
    run, start = continued(recipe, out)
    assert start == done
    records = load_file(FIXTURES / Path(folder).parts[0] / "steps.safetensors")
    first = 5 if name == "maskgit-pytorch" else 0
    for step in range(3):
        batches, loss = batches_of(records, step)
        values = optimise_step(
            run.objective,
            batches,
            optimizer=run.optimizer,
            settings=recipe.training,
            step=start + step,
            accelerator=run.accelerator,
            ema=run.ema,
        )
        torch.testing.assert_close(values["loss"], loss, rtol=1e-5, atol=1e-5)
        wanted = own(records, "model", first + step, name)
        check_equal(run, run.averaged.state_dict(), wanted)
    if run.ema is not None:
        check_equal(run, run.ema.state_dict(), own(records, "ema", first + 2, name))
    assert (run.ema is None) == (name == "mage")


def changed(tmp_path: Path, name: str, change: Callable[[dict], object]) -> Path:
    """A copy of a source's checkpoint in which something is otherwise."""
    file = FIXTURES / SOURCES[name][0]
    file = file if file.is_file() else file / "checkpoint-last.pth"
    content = torch.load(file, weights_only=False)
    change(content)
    torch.save(content, tmp_path / "checkpoint-last.pth")
    return tmp_path / "checkpoint-last.pth"


def test_options_become_a_recipe_and_the_loss_scale_stays(tmp_path: Path) -> None:
    found = find_training(FIXTURES / "mar" / "checkpoint-last.pth", heads=2)
    training, masking = found.recipe.training, found.recipe.masking
    assert (found.step, found.epoch) == (6, 3)
    assert (training.steps, training.warmup_steps, training.batch_size) == (15, 9, 4)
    assert (training.lr, training.min_lr, training.schedule) == (0.0015625, 1e-4, "cosine")
    assert (training.clip_grad_norm, training.weight_decay, training.noise_repeats) == (0.5, 0.3, 2)
    assert (training.precision, training.label_dropout, training.seed) == ("fp16", 0.4, 7)
    assert training.ema is not None
    assert (training.ema.decay, training.ema.warmup) == (0.7, "none")
    assert (getattr(masking, "least", None), masking.group) == (0.7, 4)
    notes = "\n".join(found.notes)
    assert "step 6, 2 epochs of 3 steps" in notes
    assert "training.lr=0.0015625" in notes
    assert "order of the data" in notes
    longer = replace(training, epochs=7.0)
    written = take_over(found, replace(found.recipe, training=longer), tmp_path / "run")
    assert (written.training.steps, written.training.epochs) == (21, None)
    kept = read_checkpoint(tmp_path / "run" / "checkpoints" / "step-0000006").state["scaler"]
    assert (
        kept == torch.load(FIXTURES / "mar" / "checkpoint-last.pth", weights_only=False)["scaler"]
    )


def test_steps_that_the_loss_scaler_left_out_count_for_the_schedule(tmp_path: Path) -> None:
    """ImageNet at 2,048 images is 625 steps an epoch; the optimiser has done 10 fewer in ten."""

    def change(content: dict) -> None:
        content["epoch"], content["args"].batch_size = 9, 2048
        for kept in content["optimizer"]["state"].values():
            kept["step"] = torch.tensor(6240.0)

    file = changed(tmp_path, "mar", change)
    found = find_training(file, heads=2)
    assert (found.step, found.epoch, found.moments.step) == (6250, 625, 6240)
    assert find_training(file, heads=2, images=2048 * 700 + 5).step == 7000
    with pytest.raises(InputError, match="1,000,000 images are 488 steps an epoch"):
        find_training(file, heads=2, images=10**6)


def no_optimizer(content: dict) -> None:
    del content["optimizer"]


def another_group(content: dict) -> None:
    content["optimizer"]["param_groups"][0]["params"].append(99)


def sgd(content: dict) -> None:
    for kept in content["optimizer"]["state"].values():
        kept["momentum_buffer"] = kept.pop("exp_avg")


def no_moments(content: dict) -> None:
    del content["optimizer"]["state"][40]


def other_moments(content: dict) -> None:
    content["optimizer"]["state"][40]["exp_avg"] = torch.zeros(3)


def two_rates(content: dict) -> None:
    content["args"].attn_dropout = 0.1


def no_numbers(content: dict) -> None:
    content["args"].warmup_epochs = "many"


def adam(content: dict) -> None:
    content["optimizer"]["param_groups"][0]["decoupled_weight_decay"] = False


def no_scale(content: dict) -> None:
    del content["scaler"]["growth_factor"]


def no_batch(content: dict) -> None:
    content["args"].world_size = 0


def no_tensor(content: dict) -> None:
    content["model"]["z_proj.bias"] = 3


def less_average(content: dict) -> None:
    del content["model_ema"]["fake_latent"]


def more_weights(content: dict) -> None:
    content["model"]["adapter.weight"] = torch.zeros(2, 2)


def as_it_is(file: Path, out: Path) -> None:
    found = find_training(file, heads=2)
    take_over(found, found.recipe, out)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (no_optimizer, "holds no optimizer, so there is no training to take over"),
        (another_group, "its optimiser has groups of"),
        (sgd, "momentum_buffer of .*: no AdamW"),
        (no_moments, "keeps no exp_avg of"),
        (other_moments, "have another shape than its weight"),
        (two_rates, "attn_dropout=0.1 and proj_dropout=0.0 differ"),
        (no_numbers, "warmup_steps='manymanymany' is no int"),
        (adam, "its optimiser is Adam, and"),
        (no_scale, "is not what its project writes .KeyError: 'growth_factor'"),
        (no_batch, "batch_size=0 must"),
        (no_tensor, "is not what its project writes .TypeError: 'z_proj.bias' is no tensor"),
        (less_average, "do not fill 'embed.null'"),
        (more_weights, "no rule for the key 'adapter.weight'"),
    ],
)
def test_what_does_not_fit_is_one_line(
    change: Callable[[dict], object], words: str, tmp_path: Path
) -> None:
    file, out = changed(tmp_path, "mar", change), tmp_path / "run"
    with pytest.raises(InputError, match=words) as error:
        as_it_is(file, out)
    assert "\n" not in str(error.value)
    assert not out.exists()


def test_damaged_files_and_taken_folders_are_one_line(tmp_path: Path) -> None:
    whole = (FIXTURES / "mar" / "checkpoint-last.pth").read_bytes()
    cut = tmp_path / "cut.pth"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cut off or damaged"):
        find_training(cut)
    with pytest.raises(InputError, match=r"holds neither training_states\.pt"):
        find_training(tmp_path)
    with pytest.raises(InputError, match="there is no"):
        find_training(tmp_path / "nothing")
    run = shutil.copytree(FIXTURES / "maskgit_pytorch", tmp_path / "theirs")
    states = run / "ckpt" / "step0000004" / "training_states.pt"
    content = torch.load(states)
    content["ema"]["shadow_params"].pop()
    torch.save(content, states)
    with pytest.raises(InputError, match="its average is of other weights"):
        find_training(run)
    taken("unlockmgm", tmp_path / "run")
    with pytest.raises(InputError, match="holds a run already"):
        taken("unlockmgm", tmp_path / "run")


def test_steps_counted_by_apex_and_settings_that_are_lost(tmp_path: Path) -> None:
    run = shutil.copytree(FIXTURES / "unlockmgm", tmp_path / "theirs")
    file = run / "checkpoint-8" / "optimizer.bin"
    content = torch.load(file)
    for kept in content["state"].values():
        del kept["step"]
    content["param_groups"][0]["step"] = 8  # as FusedAdam counts
    torch.save(content, file)
    assert find_training(run).moments.step == 8
    (run / "config.yaml").unlink()
    found = find_training(run)
    assert (found.recipe.training.weight_decay, found.recipe.training.lr) == (0.1, 0.01)
    assert any("its settings are lost" in line for line in found.notes)
    take_over(found, found.recipe, tmp_path / "run")


def test_the_commands_go_on_with_it(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A run of maskgit-pytorch learns two more steps from images of ours."""
    sizes = ConvVQ(widths=(8, 8, 8), blocks=(0, 0, 0), codes=8, code_dim=4)
    save_tokenizer(ConvVQTokenizer(sizes), tmp_path / "vq")
    images = write_files(tmp_path / "images", [f"{i % 3}/{i:02}.png" for i in range(30)])
    out = tmp_path / "run"
    words = ["--tokenizer", tmp_path / "vq", "--image-size", 16, "--training.tracker", "none"]
    assert main([*map(str, ["takeover", FIXTURES / "maskgit_pytorch", out, *words])]) == 0
    said = capsys.readouterr().out
    assert "step 5" in said
    assert f"unmask train {out / 'recipe.yaml'} --cache CACHE --out {out}" in said
    words = ["--data", images, "--out", out, "--training.preview-images", 0]
    go_on = [*map(str, ["train", out / "recipe.yaml", *words, "--training.steps", 7])]
    assert main(go_on) == 0
    said = capsys.readouterr().out
    assert "was taken over and does not know its data" in said
    assert "after 7 steps" in said
    assert main(go_on) == 0
    assert "taken over" not in capsys.readouterr().out
    assert main([*go_on[:-1], "8", "--training.lr", "0.5"]) == 2
    assert "other values of training.lr" in capsys.readouterr().err
