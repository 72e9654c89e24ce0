"""Where a run goes on, what it says about it, and what it never does: begin anew in silence."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_run import ToyBatches, ToyObjective, outcome, toy_settings, toy_train

from unmask.errors import InputError
from unmask.files.lock import locked
from unmask.train import loop, state
from unmask.train.loop import TrainResult

SAVED = toy_settings(steps=12, save_every=4, keep=0, schedule="constant")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve steps with three checkpoints."""
    out = tmp_path_factory.mktemp("runs") / "run"
    toy_train(out, SAVED)
    return out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run")


def go_on(out: Path, steps: int = 16, **more: object) -> TrainResult:
    return toy_train(out, replace(SAVED, steps=steps), **more)


def checkpoint(out: Path, step: int) -> Path:
    return out / "checkpoints" / f"step-{step:07d}"


def test_a_checkpoint_passed_over_is_named_with_its_reason(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (checkpoint(copy, 12) / "state.pt").write_bytes(b"half")
    flipped = bytearray((checkpoint(copy, 8) / "model.safetensors").read_bytes())
    flipped[-1] ^= 1
    (checkpoint(copy, 8) / "model.safetensors").write_bytes(flipped)
    assert go_on(copy).resumed_from == 4
    said = [line for line in capsys.readouterr().out.splitlines() if "passing over" in line]
    assert len(said) == 2
    assert said[0].startswith(f"passing over {checkpoint(copy, 12)}: state.pt has 4 bytes in place")
    assert said[1] == f"passing over {checkpoint(copy, 8)}: model.safetensors is damaged"
    assert not any(state.fault(checkpoint(copy, step)) for step in (4, 8, 12, 16))


def test_stray_files_change_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (4, 8, 12):
        (checkpoint(copy, step) / ".DS_Store").write_text("")
    assert go_on(copy).resumed_from == 12
    assert "passing over" not in capsys.readouterr().out


def test_starting_from_nothing_is_refused_where_checkpoints_are(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (4, 8, 12):
        (checkpoint(copy, step) / "state.pt").unlink()
    before = sorted(p for p in copy.rglob("*") if p.name != ".lock")
    with pytest.raises(InputError, match=r"none of the 3 checkpoints .* state\.pt is missing") as e:
        go_on(copy)
    assert "--from-scratch" in str(e.value)
    assert "\n" not in str(e.value)
    assert sorted(p for p in copy.rglob("*") if p.name != ".lock") == before
    capsys.readouterr()
    assert go_on(copy, from_scratch=True).resumed_from == 0
    assert f"they are in {copy / 'checkpoints-damaged-1'} now" in capsys.readouterr().out
    assert len(list((copy / "checkpoints-damaged-1").glob("step-*"))) == 3
    toy_train(copy.parent / "anew", replace(SAVED, steps=16))
    assert outcome(copy)[:2] == outcome(copy.parent / "anew")[:2]


def test_from_scratch_goes_on_from_what_is_whole(copy: Path) -> None:
    """The same words again, as a requeued job has them, throw nothing away."""
    assert go_on(copy, from_scratch=True).resumed_from == 12


@pytest.mark.parametrize("what", ["pickle", "shapes", "keys"])
def test_a_forged_checkpoint_is_passed_over(
    copy: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    """Its hashes are right, and it is not the state of this run."""
    folder = checkpoint(copy, 12)
    saved = torch.load(folder / "state.pt", weights_only=True)
    if what == "pickle":
        (folder / "state.pt").write_bytes(b"\x80\x02cposix\nsystem\n.")
    elif what == "shapes":
        saved["optimizer"]["state"][0]["exp_avg"] = torch.zeros(7)
        saved["others"]["judge"] = torch.zeros(99)
        torch.save(saved, folder / "state.pt")
    else:
        torch.save({"step": 12}, folder / "state.pt")
    content = (folder / "state.pt").read_bytes()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.pt"] = {
        "bytes": len(content),
        "blake2b": hashlib.blake2b(content).hexdigest(),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert go_on(copy).resumed_from == 8
    said = capsys.readouterr().out
    assert f"passing over {folder}: it cannot be continued from" in said
    toy_train(copy.parent / "whole", replace(SAVED, steps=16))
    assert outcome(copy)[:2] == outcome(copy.parent / "whole")[:2]


def test_each_checkpoint_is_hashed_once_a_start(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkpoint(copy, 12) / "state.pt").write_bytes(b"half")
    hashed: list[Path] = []
    real = state._differs
    monkeypatch.setattr(state, "_differs", lambda p, e: hashed.append(p) or real(p, e))
    go_on(copy, steps=8)
    weights = [path for path in hashed if path.name != "config.json"]
    assert len(weights) == len(set(weights)) == 3  # model, ema and state of step 8


def test_an_ended_run_says_so(copy: Path, run: Path) -> None:
    done = go_on(copy, steps=12)
    assert done.line == ("the run is complete: 12 of 12 steps; raise --training.steps to go on")
    beyond = go_on(copy, steps=7)
    assert "has done 12 steps already, more than --training.steps 7" in beyond.line
    assert "steps: 12" in (copy / "recipe.yaml").read_text()
    assert outcome(copy) == outcome(run)
    assert "loss" in go_on(copy).line


def test_another_number_of_threads_is_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(before + 1)
        go_on(copy)
    finally:
        torch.set_num_threads(before)
    said = f"continues with {before + 1}: the same up to rounding, not to the bit"
    assert said in capsys.readouterr().out
    saved = state.read_checkpoint(checkpoint(copy, 16)).state
    assert saved["threads"] == before + 1
    go_on(copy, steps=20)
    assert f"continues with {before}:" in capsys.readouterr().out


def test_a_folder_in_use_is_refused(copy: Path, run: Path) -> None:
    with locked(copy, "run"), pytest.raises(InputError, match="is in use for another run"):
        go_on(copy)
    assert outcome(copy) == outcome(run)
    assert go_on(copy).step == 16
    assert not (copy / ".lock").exists()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("checkpoints", False),
        ("checkpoints/step-0000016", False),
        ("samples", False),
        ("tracker", False),
        ("model", False),
        ("log.jsonl", True),
        ("recipe.yaml", True),
    ],
)
def test_what_is_in_the_way_is_named_first(copy: Path, name: str, folder: bool) -> None:
    path = copy / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.mkdir() if folder else path.write_text("")
    with pytest.raises(InputError, match=f"{path} is a .* move it elsewhere"):
        go_on(copy)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a: [", b"[" * 10**4])
def test_a_recipe_file_that_is_no_yaml_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "recipe.yaml").write_bytes(content)
    with pytest.raises(InputError, match="is not YAML") as caught:
        toy_train(tmp_path, SAVED)
    assert "\n" not in str(caught.value)


def test_a_run_without_the_newer_options_goes_on(copy: Path) -> None:
    """A configuration of an older revision lacks what came later."""
    old = {"training": {"steps": 12, "lr": SAVED.lr}}
    new = {"training": {**old["training"], "save_minutes": 10.0, "keep_every": 0}}
    new["training"] |= {"preview_images": 40, "preview_share": 0.01}
    assert go_on(copy, config=new).resumed_from == 12


def test_a_tracker_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, *args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(loop.Accelerator, "init_trackers", refuse)
    settings = toy_settings(tracker="tensorboard")
    with pytest.raises(InputError, match=r"cannot write .*tracker: Permission denied"):
        loop.train(ToyObjective(), ToyBatches(settings), settings=settings, out=tmp_path, config={})
