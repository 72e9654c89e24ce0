"""A conversion reads what it writes, once, and holds no second copy of it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.checkpoints.lazy import LazyTensors
from unmask.checkpoints.names import to_source
from unmask.memory import skeleton
from unmask.projects.foreign import PROJECTS, load_foreign
from unmask.recipes import get

LARGEST = 4 * 4 * 768**2  # bytes of the largest tensor of these networks, an inner layer
CHILD = """
import json, sys
import torch
import unmask.commands.convert
from unmask.cli import main

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))

torch.set_num_threads(1)
before = peak()
assert main(json.loads(sys.argv[1])) == 0
print(peak() - before)
"""


def random_state(network: object) -> dict[str, Tensor]:
    with skeleton():
        state = network.build().state_dict()
    return {name: torch.randn(like.shape) for name, like in state.items()}


def mar_file(path: Path, width: int, depth: int, heads: int) -> Path:
    """A checkpoint of a training of MAR: raw and averaged weights, and the optimiser's."""
    sizes = {"width": width, "depth": depth, "heads": heads}
    decoder = {f"decoder_{name}": value for name, value in sizes.items()}
    network = replace(get("mar-base").network, **sizes, **decoder)
    state = to_source(random_state(network), PROJECTS["mar"].rules)
    averaged = {name: nn.Parameter(tensor + 1) for name, tensor in state.items()}
    moments = {"state": {i: {"exp_avg": t.clone()} for i, t in enumerate(state.values())}}
    torch.save({"model": state, "model_ema": averaged, "optimizer": moments}, path)
    return path


def test_the_averaged_tensors_are_read_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mar_file(tmp_path / "checkpoint-last.pth", 512, 1, 8)
    read: list[int] = []
    checked = LazyTensors._checked

    def recorded(self: LazyTensors, name: str) -> Tensor:
        tensor = checked(self, name)
        read.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr(LazyTensors, "_checked", recorded)
    found = load_foreign(path)
    assert found.details["taken"] == "model_ema"
    assert found.details["aside"] == "model, optimizer"
    wanted = sum(tensor.nbytes for tensor in found.state.values())
    assert 0 <= sum(read) - wanted < 1e-4 * wanted  # one small tensor's shape tells the kind


def converted(words: list[str], out: Path) -> tuple[int, int]:
    """Memory that a conversion takes beyond its imports, and what it writes, in bytes."""
    command = [sys.executable, "-c", CHILD, json.dumps(["convert", *words, str(out)])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return int(done.stdout.splitlines()[-1]), written


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from Linux")
@pytest.mark.slow  # up to half a minute each
@pytest.mark.parametrize("form", ["mar", "zip", "safetensors", "port"])
def test_the_peak_is_what_is_written(tmp_path: Path, form: str) -> None:
    extra: list[str] = []
    if form == "mar":
        path = mar_file(tmp_path / "checkpoint-last.pth", 768, 3, 12)
    elif form == "port":
        network = replace(get("maskgit-unlockmgm-imagenet256").network, depth=8)
        path = tmp_path / "pytorch_model.bin"
        torch.save(to_source(random_state(network), PROJECTS["unlockmgm"].rules), path)
        sizes = {
            "codebook_size": 1024, "hidden_size": 768, "num_hidden_layers": 8,
            "num_attention_heads": 16, "intermediate_size": 3072, "num_vq_tokens": 256,
            "num_classes": 1000,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(sizes))
    else:
        network = replace(get("maskgit-pytorch-imagenet256").network, depth=8)
        state = to_source(random_state(network), PROJECTS["maskgit-pytorch"].rules)
        path, extra = tmp_path / f"model.{form}", ["--heads", "8"]
        if form == "zip":
            torch.save({"model": state}, path)
        else:
            save_file(state, path)
    taken, written = converted([str(path), *extra], tmp_path / "out")
    assert written > 150e6
    assert taken < 1.1 * written
    taken, written = converted([str(path), *extra, "--half"], tmp_path / "half")
    assert taken < 1.1 * written + 4 * LARGEST  # which comes as float32 and is turned on the way
