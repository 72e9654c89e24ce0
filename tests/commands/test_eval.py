"""``unmask eval``: killed, shared by processes, and exported for other judges."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_system import toy_pipeline, write_images

from unmask.cli import main
from unmask.pictures import to_uint8
from unmask.pipeline import load

FEATURES = """
import time

def rows(images):
    time.sleep({pause})
    x = images.mean((1, 3))
    return (x @ x.T).tanh() @ x + x  # rounding and value depend on the whole batch
rows.identity = "rows"
"""


def run(*words: object) -> int:
    return main(list(map(str, words)))


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The arguments of an evaluation of 48 images in 3 chunks a set."""
    toy_pipeline().save_pretrained(tmp_path / "model")
    write_images(tmp_path / "data" / "train", 50)
    write_images(tmp_path / "data" / "val", 50)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own", raising=False)
    (tmp_path / "own.py").write_text(FEATURES.format(pause=0))
    words = ["eval", "model", "--data", "data", "--count", "48", "--batch-size", "4"]
    return [*words, "--device", "cpu", "--features", "own:rows", "--repeats", "2"]


def start(words: list[str], *launcher: str) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "unmask.cli", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_killed_evaluation_goes_on_with_equal_numbers(words: list[str]) -> None:
    assert run(*words, "--out", "whole.json") == 0
    Path("own.py").write_text(FEATURES.format(pause=0.05))
    child = start([*words, "--work", "work", "--out", "killed.json"])
    while child.poll() is None and len(list(Path("work").glob("*.safetensors"))) < 4:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    assert not Path("killed.json").exists()
    before = {file: file.stat().st_mtime_ns for file in Path("work").glob("*.safetensors")}
    assert 4 <= len(before) < 15
    assert run(*words, "--work", "work", "--out", "killed.json") == 0
    assert Path("killed.json").read_text() == Path("whole.json").read_text()
    assert before.items() <= {f: f.stat().st_mtime_ns for f in Path("work").iterdir()}.items()


def test_another_evaluation_is_refused_the_folder(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--work", "work") == 0
    files = sorted(Path("work").iterdir())
    capsys.readouterr()
    assert run(*words, "--work", "work", "--seed", 1) == 2
    assert "seeds was '0 to 95' and is '1 to 96' now" in capsys.readouterr().err
    assert run(*words, "--work", "work", "--steps", 2) == 2
    assert "holds another evaluation: images was" in capsys.readouterr().err
    assert sorted(Path("work").iterdir()) == files


@pytest.mark.slow
def test_two_launched_processes_give_the_numbers_of_one(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(*words, "--work", "one", "--out", "one.json") == 0
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    child = start([*words, "--work", "two", "--out", "two.json"], *launcher)
    told = child.communicate(timeout=120)[0]
    assert child.returncode == 0, told
    assert told.count("reconstruction floor  ") == 1, "only the main process speaks"
    assert Path("two.json").read_text() == Path("one.json").read_text()
    Path("passing").mkdir()
    monkeypatch.setenv("TMPDIR", "passing")
    child = start([*words, "--out", "without.json"], *launcher)
    assert child.wait(timeout=120) == 0, "and without a folder, in a passing one"
    assert Path("without.json").read_text() == Path("one.json").read_text()
    assert not list(Path("passing").glob("unmask-eval-*"))


def test_every_choice_stands_in_the_report(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, "--out", "report.json") == 0
    told, facts = capsys.readouterr().out, json.loads(Path("report.json").read_text())
    for part in ("rows", "seeds 0 to 95", "255 v + 0.5", "not FID: the network", "official split"):
        assert part in told
    assert [row["images"] for row in facts["repeats"]] == [48, 48]
    assert facts["rows"][0]["spread"].keys() == {"fd", "precision", "recall"}
    assert any("weights" in note for note in facts["notes"])


def test_exports_hold_the_pixels_bit_for_bit(words: list[str]) -> None:
    sample = ["sample", "model", "--per-class", 3, "--batch-size", 4, "--device", "cpu"]
    assert run(*sample, "--format", "npz", "--out", "made") == 0
    assert run(*sample, "--format", "folder", "--out", "made") == 0
    made = load("model")([k for k in range(3) for _ in range(3)], seeds=0)
    wanted = to_uint8(made.pixels).permute(0, 2, 3, 1).numpy()
    exact = (made.pixels.double() * 255 + 0.5).floor().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(wanted, exact)
    wanted = wanted[[3 * k + i for i in range(3) for k in range(3)]]  # the classes in turn
    with np.load("made/samples.npz") as held:
        assert np.array_equal(held["arr_0"], wanted)
        assert held["arr_1"].tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2]
    files = sorted(Path("made/images").glob("[!.]*"))
    assert [file.name for file in files] == [f"{k:06d}.png" for k in range(9)]
    for file, expected in zip(files, wanted, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), expected)
    assert run(*sample, "--format", "folder", "--out", "made", "--seed", 5) == 2
    data = ["--data", "data", "--count", 9, "--device", "cpu", "--features", "own:rows"]
    for kind in ("samples.npz", "images"):
        assert run("eval", f"made/{kind}", *data, "--out", f"{kind}.json") == 0
    one, other = (json.loads(Path(f"{k}.json").read_text()) for k in ("samples.npz", "images"))
    assert one["rows"] == other["rows"]
