"""Processes whose folders differ train one run: the main one's, or none at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gloo import joined
from test_resume import checkpoint
from toy_run import latest, log_lines, outcome, toy_settings, toy_train

from unmask.errors import InputError
from unmask.train.handover import check_same, handed_over
from unmask.train.state import read_checkpoint

SETTINGS = toy_settings(steps=12, schedule="constant", save_every=4, log_every=1, keep=0)


def go_on(out: Path, steps: int, **more: object) -> int:
    return toy_train(out, replace(SETTINGS, steps=steps), dropout=0.0, **more).resumed_from


def test_what_is_handed_over_equals_what_was_there() -> None:
    plain = {"a": [1, (2.5, None)], "name": "x"}
    back = handed_over({**plain, "w": torch.arange(6.0).view(2, 3).T, "n": torch.tensor(3)})
    assert {key: back[key] for key in plain} == plain
    assert torch.equal(back["w"], torch.arange(6.0).view(2, 3).T)
    assert back["w"].stride() == (1, 3)  # as it lay in memory: sums round otherwise in another
    assert back["n"] == 3


def test_processes_without_a_shared_folder_go_on_as_one(tmp_path: Path) -> None:
    """The other one has no folder, then an older run of another length in it."""
    mine, one = [tmp_path / "node0", tmp_path / "node1"], tmp_path / "one"
    kinds = {"half": torch.ones(3).bfloat16(), "flag": torch.tensor([True]), "none": torch.empty(0)}
    kinds["turned"] = torch.arange(6.0).view(2, 3).T

    def body(rank: int) -> None:
        assert go_on(mine[rank], 8) == 0
        assert go_on(mine[rank], 12) == 8
        if rank:
            assert not (mine[1] / "checkpoints").exists()
            shutil.copytree(mine[0] / "checkpoints" / "step-0000004", checkpoint(mine[1], 4))
        else:
            (checkpoint(mine[0], 12) / "state.pt").write_bytes(b"half")
        assert go_on(mine[rank], 16) == 8
        got = handed_over(kinds if rank == 0 else None)
        assert all(torch.equal(got[name], value) for name, value in kinds.items())
        assert got["half"].dtype == torch.bfloat16
        assert got["turned"].stride() == (1, 3)

    assert joined(2, body) == [0, 0]
    go_on(one, 16)
    for ours, theirs in zip(log_lines(mine[0]), log_lines(one), strict=True):
        assert ours["step"] == theirs["step"]
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
    two, alone = (read_checkpoint(latest(out / "checkpoints")) for out in (mine[0], one))
    for part, state in alone.weights.items():
        for name, value in state.items():
            torch.testing.assert_close(two.weights[part][name], value, atol=1e-5, rtol=1e-4)


def test_a_checkpoint_of_another_kind_is_passed_over_by_all(tmp_path: Path) -> None:
    out = tmp_path / "run"
    go_on(out, 8)
    whole = shutil.copytree(out, tmp_path / "whole")
    folder = checkpoint(out, 8)
    saved = torch.load(folder / "state.pt", weights_only=True)
    saved["others"]["judge"] = torch.zeros(99)
    torch.save(saved, folder / "state.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    content = (folder / "state.pt").read_bytes()
    digest = hashlib.blake2b(content).hexdigest()
    manifest["files"]["state.pt"] = {"bytes": len(content), "blake2b": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))

    def body(rank: int) -> None:
        assert go_on(out, 12) == 4

    assert joined(2, body) == [0, 0]
    go_on(whole, 12)
    assert log_lines(out)[-1]["loss"] == pytest.approx(log_lines(whole)[-1]["loss"], abs=1e-5)


def test_processes_that_were_told_different_things_all_say_which(tmp_path: Path) -> None:
    def body(rank: int) -> None:
        told = {"training": {"steps": 4, "lr": 0.1 * (1 + rank)}, "made_from": {"content": "ab"}}
        with pytest.raises(InputError, match=r"process 1 has training.lr=0.2 where process 0 has"):
            go_on(tmp_path / str(rank), 4, config=told)
        told = {"made_from": {"content": "abcd"[rank:]}}
        with pytest.raises(InputError, match=r"content \(the bytes of the images\)='bcd' where"):
            check_same(told)
        check_same({"made_from": {}})

    assert joined(2, body) == [0, 0]
    assert not list(tmp_path.iterdir())


def test_one_process_hands_over_to_itself(tmp_path: Path) -> None:
    go_on(tmp_path / "run", 8)
    go_on(tmp_path / "run", 12)
    go_on(tmp_path / "whole", 12)
    assert outcome(tmp_path / "run")[:2] == outcome(tmp_path / "whole")[:2]
