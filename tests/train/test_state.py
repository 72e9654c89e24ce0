"""Checkpoints under faults: at every touch of the file system, with full disks and flipped bits."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_run import latest, outcome, toy_settings, toy_train

from unmask.checkpoints import streamed
from unmask.errors import InputError
from unmask.files import durable
from unmask.networks import maskgit
from unmask.train import log, run_folder
from unmask.train.state import (
    Checkpoint,
    fault,
    read_checkpoint,
    stale_steps,
    step_folders,
    write_checkpoint,
)

BOUNDARIES = {
    streamed: ("write_hashed",),
    durable: ("sync_folder", "move", "replace_file", "remove_folder"),
}
TORN = ("write_hashed", "remove_folder")


class KilledError(BaseException):
    """Stands for a kill: nothing may tidy up after it."""


def small(step: int) -> Checkpoint:
    """A checkpoint with a little of everything."""
    weights = {"model": {"w": torch.full((2, 3), float(step))}, "ema": {"w": torch.zeros(2, 3)}}
    return Checkpoint(
        step, weights, {"optimizer": {"m": torch.ones(2), "betas": (0.9, 0.96)}}, {"a": [1]}
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, small(7), keep=2)
    assert folder == tmp_path / "step-0000007"
    back = read_checkpoint(folder)
    assert back.step == 7
    assert back.config == {"a": [1]}
    assert torch.equal(back.weights["model"]["w"], small(7).weights["model"]["w"])
    assert back.state["optimizer"]["betas"] == (0.9, 0.96)


def test_tied_and_strided_weights_can_be_saved(tmp_path: Path) -> None:
    w = torch.arange(6.0).view(2, 3)
    checkpoint = small(1)._replace(weights={"model": {"a": w, "b": w, "c": w.T}})
    back = read_checkpoint(write_checkpoint(tmp_path, checkpoint, keep=1)).weights["model"]
    assert torch.equal(back["a"], w)
    assert torch.equal(back["b"], w)
    assert torch.equal(back["c"], w.T)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_checkpoint(tmp_path, small(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000003", "step-0000010"]
    assert latest(tmp_path) == tmp_path / "step-0000010"


def test_pruning_counts_no_broken_folder_of_a_later_step(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, small(30), keep=1)
    (tmp_path / "step-0000030" / "state.pt").write_bytes(b"")
    write_checkpoint(tmp_path, small(20), keep=1)
    assert latest(tmp_path) == tmp_path / "step-0000020"
    write_checkpoint(tmp_path, small(30), keep=1)  # replaces the broken one
    assert latest(tmp_path) == tmp_path / "step-0000030"
    assert list(step_folders(tmp_path)) == [30]


@pytest.mark.parametrize(
    "name", ["model.safetensors", "ema.safetensors", "state.pt", "config.json", "manifest.json"]
)
def test_any_damage_is_seen(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path, small(1), keep=3)
    folder = write_checkpoint(tmp_path, small(2), keep=3)
    whole = (folder / name).read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    for damaged in (bytes(flipped), whole[:-3], whole[: len(whole) // 2], b""):
        (folder / name).write_bytes(damaged)
        assert fault(folder)
        assert latest(tmp_path) == tmp_path / "step-0000001"
    (folder / name).unlink()
    assert latest(tmp_path) == tmp_path / "step-0000001"
    (folder / name).write_bytes(whole)
    assert latest(tmp_path) == folder
    assert (tmp_path / "step-0000001").is_dir()


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "note.txt", ".nfs00000001", "sub/x"])
def test_files_that_no_manifest_lists_harm_nothing(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, small(2), keep=1)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("not ours")
    assert fault(folder) == ""
    assert latest(tmp_path) == folder
    assert read_checkpoint(folder).step == 2


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("state.pt", b"half", "state.pt has 4 bytes in place of"),
        ("config.json", None, "config.json is missing"),
        ("manifest.json", None, "manifest.json is missing"),
        ("manifest.json", b"{", "manifest.json is not valid JSON"),
        ("manifest.json", b"[" * 10**5, "nested too deeply"),
        ("manifest.json", b" " * (1 << 21), "manifest.json is too long"),
        ("manifest.json", b"[]", "manifest.json is not what a run writes"),
        ("manifest.json", b'{"step": 2, "files": {}}', "manifest.json is not what a run writes"),
        ("manifest.json", b'{"step": 2, "files": {"a": 1}}', "is not what a run writes"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, name: str, content: bytes | None, why: str) -> None:
    folder = write_checkpoint(tmp_path, small(2), keep=1)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert why in fault(folder)
    assert "\n" not in fault(folder)


@pytest.mark.parametrize("name", ["../../secret", "sub/file", "/etc/passwd", "step-0000001"])
def test_a_manifest_lists_files_of_its_own_folder(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path, small(2), keep=1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"bytes": "1", "blake2b": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert fault(folder) == "manifest.json is not what a run writes"


class Opens:
    """A pickle that would run code."""

    def __reduce__(self) -> tuple:
        return (os.system, ("touch /tmp/it_ran",))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.pt", pickle.dumps(Opens())),
        ("state.pt", b"\x80\x04nonsense"),
        ("state.pt", b"PK\x05\x06" + bytes(18)),
        ("model.safetensors", b"\xff" * 100),
        ("model.safetensors", b""),
        ("config.json", b"[1]"),
    ],
)
def test_what_hashes_but_cannot_be_read_is_one_line(
    tmp_path: Path, name: str, content: bytes, recwarn: pytest.WarningsRecorder
) -> None:
    """Whoever changes a file can change the manifest too."""
    folder = write_checkpoint(tmp_path, small(2), keep=1)
    forge(folder, name, content)
    assert fault(folder) == ""
    with pytest.raises(InputError, match=name) as caught:
        read_checkpoint(folder)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert not recwarn.list


def test_a_state_that_unpacks_to_more_than_the_file_is_refused(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, small(2), keep=1)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(10**7))
    forge(folder, "state.pt", content.getvalue())
    with pytest.raises(InputError, match="holds more than it is long"):
        read_checkpoint(folder)


def forge(folder: Path, name: str, content: bytes) -> None:
    """Change a file, and what the manifest says about it."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    digest = hashlib.blake2b(content).hexdigest()
    manifest["files"][name] = {"bytes": len(content), "blake2b": digest}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("steps", "keep", "regular", "lasting", "left"),
    [
        ([10, 20, 30, 40], 2, 10, 0, [30, 40]),
        ([10, 20, 30, 40], 0, 10, 0, [10, 20, 30, 40]),
        ([10, 20, 25], 2, 10, 0, [20, 25]),  # 25 by the clock
        ([20, 25, 27], 2, 10, 0, [20, 27]),
        ([20, 27, 30], 2, 10, 0, [20, 30]),
        ([10, 20, 27, 28], 3, 10, 0, [10, 20, 28]),
        ([3, 5, 9], 2, 0, 0, [5, 9]),  # all by the clock
        ([7, 20, 23], 2, 20, 0, [20, 23]),
        ([10, 20, 30, 40, 50], 1, 10, 20, [20, 40, 50]),
        ([10, 20, 30, 33], 1, 10, 20, [20, 33]),
        ([5], 3, 1, 0, [5]),
        ([], 2, 1, 0, []),
    ],
)
def test_which_checkpoints_stay(
    steps: list[int], keep: int, regular: int, lasting: int, left: list[int]
) -> None:
    stale = stale_steps(steps, keep=keep, regular=regular, lasting=lasting)
    assert sorted(set(steps) - set(stale)) == left


def test_a_checkpoint_that_was_passed_over_counts_for_nothing(tmp_path: Path) -> None:
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, small(step), keep=3)
    (tmp_path / "step-0000020" / "state.pt").unlink()
    write_checkpoint(tmp_path, small(40), keep=3, broken=[20])
    assert sorted(step_folders(tmp_path)) == [10, 30, 40]


def test_there_is_nothing_to_find(tmp_path: Path) -> None:
    assert latest(tmp_path / "none") is None
    (tmp_path / "step-12").mkdir()
    (tmp_path / "step-0000012").mkdir()
    assert latest(tmp_path) is None


class Faults:
    """Counts touches of the file system and kills at one of them, before it or half-way."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, half: bool) -> None:
        self.count, self.at, self.half = 0, at, half
        self.names: list[str] = []
        for module, names in BOUNDARIES.items():
            for name in names:
                patch.setattr(module, name, self.wrap(name, getattr(module, name)))

    def wrap(self, name: str, real: Callable) -> Callable:
        def touch(*args: object) -> object:
            self.count += 1
            self.names.append(name)
            if self.count - 1 == self.at:
                if self.half:
                    self.do_half(name, real, args)
                raise KilledError
            return real(*args)

        return touch

    def do_half(self, name: str, real: Callable, args: tuple) -> None:
        """A torn file or a half-removed folder."""
        if name == "write_hashed":
            real(*args)
            os.truncate(args[0], args[0].stat().st_size // 2)
        else:
            next(iter(sorted(args[0].iterdir()))).unlink()


def short() -> object:
    """Four saves, so that pruning happens too."""
    return toy_settings(steps=8, save_every=2, log_every=1, keep=2)


def test_a_kill_at_every_touch_of_the_disk(tmp_path: Path) -> None:
    """Every touch of a run with four saves, each before it happens and half-way through."""
    toy_train(tmp_path / "whole", short())
    expected = outcome(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        touches = Faults(patch, None, False)
        toy_train(tmp_path / "counted", short())
    assert touches.count >= 4 * 8
    # start, first save and last save with pruning; the middle saves repeat the last one
    early, late = range(16), range(touches.count - 11, touches.count)
    for at in (*early, *late):
        # half of anything else is the whole of it, or what the next touch finds
        for half in (False, True) if touches.names[at] in TORN else (False,):
            out = tmp_path / f"{at}-{half}"
            with pytest.MonkeyPatch.context() as patch:
                Faults(patch, at, half)
                with pytest.raises(KilledError):
                    toy_train(out, short())
            toy_train(out, short())
            assert outcome(out) == expected, (at, half)
            hidden = [p for p in (out / "checkpoints").iterdir() if p.name.startswith(".")]
            assert not hidden or at == touches.count - 1
            shutil.rmtree(out)


@pytest.mark.parametrize("touch", ["write_hashed", "sync_folder", "move"])
def test_a_full_disk_is_one_line_and_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, touch: str
) -> None:
    write_checkpoint(tmp_path, small(1), keep=1)

    def full(*args: object) -> None:
        if touch == "write_hashed":
            args[0].write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(streamed if touch == "write_hashed" else durable, touch, full)
    with pytest.raises(InputError, match="No space left on device") as caught:
        write_checkpoint(tmp_path, small(2), keep=1)
    message = str(caught.value)
    assert "\n" not in message
    assert str(tmp_path / "step-0000002") in message
    assert "MiB free" in message
    assert f"{tmp_path / 'step-0000001'} is whole" in message
    assert [p.name for p in tmp_path.iterdir()] == ["step-0000001"]
    assert not fault(tmp_path / "step-0000001")


def test_a_run_on_a_full_disk_continues_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = streamed.write_hashed

    def full(path: Path, fill: streamed.Fill) -> dict[str, object]:
        if path.name == "state.pt" and "0000004" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, fill)

    toy_train(tmp_path / "whole", short())
    with monkeypatch.context() as patch:
        patch.setattr(streamed, "write_hashed", full)
        with pytest.raises(InputError, match="step-0000002 is whole"):
            toy_train(tmp_path / "run", short())
    toy_train(tmp_path / "run", short())
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_log_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: log.RunLog, line: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log.RunLog, "_append", full)
    with pytest.raises(InputError, match=r"log\.jsonl: No space left"):
        toy_train(tmp_path, short())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        toy_train(tmp_path / "file" / "run", short())
    assert (tmp_path / "file").read_text() == ""


def test_a_torn_log_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2}\n{"step": 3}\n[4]\n{"st\xff')
    log.drop_lines_after(path, 2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_flat_names() -> None:
    old = {"training": {"steps": 1, "lr": 1.0}, "model": {"width": 1}, "steps": 3, "gone": None}
    new = {"training": {"steps": 2, "lr": 1.0}, "model": {"width": 2}, "plan": {"steps": 8}}
    assert run_folder.differing_keys(old, new) == ["gone", "model.width", "plan.steps"]


def test_a_renamed_class_is_no_difference() -> None:
    assert maskgit.MaskGITVitNetwork  # only classes that are known have former names
    old, new = ({"network": {"kind": kind}} for kind in ("PreNormNetwork", "MaskGITVitNetwork"))
    assert run_folder.differing_keys(old, new) == []
    assert run_folder.differing_keys(new, old) == ["network.kind"]
    other = {"network": {"kind": "MaskGITBertNetwork"}}
    assert run_folder.differing_keys(old, other) == ["network.kind"]


def test_an_option_that_came_later_and_is_none_is_no_difference() -> None:
    old = {"training": {"lr": 1.0}}
    for value, found in ((None, []), (0, ["training.later"]), (64, ["training.later"])):
        new = {"training": {"lr": 1.0, "later": value}}
        assert run_folder.differing_keys(old, new) == found
