"""Help is instant, and a mistake is one line on stderr that changes nothing on disk."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from toy_system import TOY, toy_pipeline, toy_tokenizer, write_images

import unmask
from unmask import cli
from unmask.checkpoints import streamed
from unmask.cli import COMMANDS, main
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.source import open_source
from unmask.errors import InputError, did_you_mean
from unmask.files.serial import to_dict, write_yaml
from unmask.tokenizers.folder import save_tokenizer
from unmask.train.state import fault

LISTED = """
import sys
from unmask.cli import main
assert main(["--help"]) == 0
print(sorted({"torch", "numpy", "tyro", "accelerate"} & set(sys.modules)))
"""


def test_help_loads_nothing_heavy_and_is_instant() -> None:
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "unmask.cli", "--help"], capture_output=True, text=True
        )
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
        assert all(f"  {name}" in done.stdout for name in COMMANDS)
    assert min(seconds) < 0.6
    done = subprocess.run([sys.executable, "-c", LISTED], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_version(capsys: pytest.CaptureFixture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == unmask.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main([name, "--help"])
    assert stop.value.code == 0
    assert name in capsys.readouterr().out


def test_the_likely_name_wins() -> None:
    assert did_you_mean("SAMPEL", COMMANDS) == "did you mean 'sample'?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, recipes, images and a cache; the mistakes are made around them."""
    root = tmp_path_factory.mktemp("place")
    toy_pipeline().save_pretrained(root / "model")
    save_tokenizer(toy_tokenizer(), root / "vq")
    save_tokenizer(toy_tokenizer("another"), root / "vq2")
    images = write_images(root / "images", 24)
    layout = CacheLayout(image_size=16)
    build_cache(
        toy_tokenizer(), open_source(images), out=root / "cache", layout=layout, progress=False
    )
    two = replace(TOY, network=replace(TOY.network, classes=2), tokenizer=str(root / "vq"))
    write_yaml(two, root / "toy.yaml")
    write_yaml(replace(two, network=replace(two.network, codes=64)), root / "codes.yaml")
    write_yaml(replace(two, network=replace(two.network, classes=3)), root / "classes.yaml")
    wrong = to_dict(two)
    wrong["training"]["learning_rate"] = wrong["training"].pop("lr")
    wrong["training"]["btach_size"] = wrong["training"].pop("batch_size")
    (root / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    (root / "empty").mkdir()
    (root / "file").write_text("x")
    (root / "foreign").mkdir()
    (root / "foreign" / "config.json").write_text('{"model_type": "vit"}')
    (root / "foreign" / "model.safetensors").write_bytes(b"\x00" * 64)
    (root / "busy").mkdir()
    (root / "busy" / "thesis.tex").write_text("years of work")
    return root


TRAIN = "train toy.yaml --out new --cache cache"
MISTAKES = {
    "smaple": "unknown command 'smaple'; did you mean 'sample'",
    "sample": "Missing from unmask sample: STR",
    "sample absent --out new": "nothing is saved at 'absent'; shipped:",
    "sample empty --out new": "empty holds neither config.json nor model/",
    "sample images --out new": "images holds neither config.json nor model/",
    "sample vq --out new": "vq holds no unmask model, but 'unmask-tokenizer'",
    "sample foreign --out new": "foreign/model.safetensors is damaged",
    "sample model --out file": "file is a file; name a new folder",
    "sample model --out file/inside": "file is no folder; name another place",
    "sample model --out new --classes cow": "unknown class 'cow'; known: 7, Dog, cat",
    "sample model --out new --classes ca": "unknown class 'ca'; did you mean 'cat'",
    "sample model --out new --classes 3": "class 3 is out of range; use 0 to 2",
    "sample model --out new --steps 17": "steps=17 exceeds the 16 tokens of this model; use at",
    "sample model --out new --steps 0": "steps=0 must be at least 1",
    "sample model --out new --per-class 0": "per_class=0 must be at least 1",
    "sample model --out new --batch-size 0": "batch_size=0 must be at least 1",
    "sample model --out new --guidance-scale -1": "guidance_scale=-1.0 must be at least 0",
    "sample model --out new --temperature nan": "temperature=nan must lie in [0, 10**6]",
    "sample model --out new --order random --temperature 1": "has no effect on RandomOrder",
    "sample model --out new --top-k 0": "top_k=0 must be at least 1",
    "sample model --out new --softmax-temperature 0": "softmax_temperature=0.0 must be at least",
    "sample model --out new --device gpu": "device 'gpu' is not available here; use one of: auto",
    "sample model --out new --setps 4": "--steps",
    "sample model --out new --steps four": "four",
    "train": "wants a recipe first",
    "train toy.yml --out new --cache cache": "toy.yml does not exist",
    "train tyo --out new --cache cache": "unknown recipe 'tyo'; known: emigm-base-256",
    "train file --out new --cache cache": "unknown recipe 'file'",
    "train wrong.yaml --out new --cache cache": (
        "wrong.yaml: unknown key 'training.btach_size'; did you mean 'batch_size'"
    ),
    "train vq/config.yaml --out new": "vq/config.yaml does not exist",
    "train toy.yaml --out new": "give --data IMAGES, or --cache FOLDER",
    "train toy.yaml --out new --cache absent": "absent holds no finished latent cache",
    "train toy.yaml --out new --data absent": "absent does not exist; give a folder of images",
    "train toy.yaml --out new --data empty": "empty holds no images of a known kind",
    "train toy.yaml --out new --data cache": "cache is a latent cache, not a set of images",
    "train codes.yaml --out new --cache cache": "give --network.codes 16",
    "train classes.yaml --out new --cache cache": "give --network.classes 2",
    f"{TRAIN} --tokenizer absent": "nothing is saved at 'absent'",
    f"{TRAIN} --tokenizer model": "model holds no tokenizer (its config.json says 'unmask-model')",
    f"{TRAIN} --tokenizer vq2": "use that tokenizer or build another cache",
    f"{TRAIN} --plan.steps 17": "plan.steps=17 exceeds network.length=16",
    f"{TRAIN} --training.steps 0": "training.steps=0 must be at least 1",
    f"{TRAIN} --training.batch-size 500": "batch_size=500 does not fit the",
    f"{TRAIN} --network.width 33": "network.width=33 does not divide by heads=2",
    "train toy.yaml --out busy --cache cache": "busy holds 'thesis.tex' but no run",
    "train toy.yaml --out file --cache cache": "file is a file; name a new folder for the run",
    # these must not have encoded the images first
    "train toy.yaml --out busy --data images": "busy holds 'thesis.tex' but no run",
    "train toy.yaml --out file --data images": "file is a file; name a new folder for the run",
    "train codes.yaml --out new --data images": "give --network.codes 16",
    "train toy.yaml --out new --data images --network.length 25": "give --network.length 16",
    "train toy.yaml --out new --data images --image-size 18": "18 does not divide",
    "train toy.yaml --out new --data images --training.batch-size 500": "batch_size=500 does not",
    "train toy.yaml --out new --data images/left": "give --network.classes 0",
    "tokenizer train fashion --out new --data images": "unknown tokenizer recipe 'fashion'; did",
    "tokenizer train fashion-vq --out new --data absent": "absent does not exist",
    "tokenizer train fashion-vq --out new --data images": "image",
    "tokenizer fashion-vq --out new --data images": "wants train or eval first, not 'fashion-vq'",
    "tokenizer eval --data images": "wants the name of a tokenizer",
    "tokenizer eval absent --data images --out new": "nothing is saved at 'absent'",
    "tokenizer eval vq --data images --image-size 18 --out new": "18 does not divide by this",
    "tokenizer eval vq --data images --image-size 4": "image_size=4 must be at least 7",
    "tokenizer eval vq --data images --image-size 16 --out file": "file is a file; name a",
    "tokenizer eval vq --data images --lpips absent.pth": "LPIPS needs https://download.pytorch",
    "tokenizer eval vq --data images --inception absent.pth": "there is no file absent.pth",
    "cache build --tokenizer vq --data absent --out new --image-size 16": "absent does not exist",
    "cache build --tokenizer vq --data images --out new --image-size 18": "multiple",
    "cache build --tokenizer vq2 --data images --out cache --image-size 16": "tokenizer",
    "cache build --tokenizer vq --data images --out busy --image-size 16": "but no cache",
    "cache verify empty": "empty holds no finished latent cache",
    "eval absent --data images": "nothing is saved at 'absent'",
    "eval empty --data images": "empty holds no image file",
    "eval model --data absent": "absent does not exist",
    "eval model --data images --count 1": "count=1 must be at least 2",
    "eval model --data images --steps 17": "steps=17 exceeds the 16 tokens",
    "eval absent.npz --data images": "absent.npz does not exist",
    "recipes fashion-maskgti": "unknown recipe 'fashion-maskgti'; did you mean 'fashion-maskgit'",
}


def everything(root: Path) -> dict[str, bytes | None]:
    return {str(p): p.read_bytes() if p.is_file() else None for p in sorted(root.rglob("*"))}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, words: str
) -> None:
    monkeypatch.chdir(place)
    before = everything(place)
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("unmask: error: ")
    assert error.count("\n") == 1
    assert MISTAKES[words] in error
    assert everything(place) == before


def test_a_mistake_in_a_process_of_its_own(place: Path) -> None:
    words = [sys.executable, "-m", "unmask.cli", "sample", "model", "--classes", "cow"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=place)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "unmask: error: unknown class 'cow'; known: 7, Dog, cat\n"


def test_a_full_disk_keeps_the_earlier_checkpoint(
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    real = streamed.write_hashed

    def full(path: Path, fill: streamed.Fill) -> dict[str, object]:
        if "0000004" in str(path) and path.name == "state.pt":
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, fill)

    monkeypatch.setattr(streamed, "write_hashed", full)
    words = f"train {place}/toy.yaml --cache {place}/cache --out {tmp_path}/run"
    assert main([*words.split(), "--training.save-every", "2"]) == 2
    error = capsys.readouterr().err
    assert "No space left on device" in error
    assert "step-0000002 is whole" in error
    assert error.count("\n") == 1
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-0000002"]
    assert not fault(tmp_path / "run" / "checkpoints" / "step-0000002")
    monkeypatch.undo()
    assert main([*words.split(), "--training.save-every", "2"]) == 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


class _Failing:
    """A command that ends as it is told."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def main(self, words: list[str]) -> None:
        raise self.error


def ends(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    with monkeypatch.context() as patch:
        patch.setattr(cli.importlib, "import_module", lambda name: _Failing(error))
        return main(["sample"])


def test_how_commands_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    assert ends(monkeypatch, InputError("a value")) == 2
    assert ends(monkeypatch, OSError(errno.ENOSPC, "No space left on device", "x.png")) == 2
    assert ends(monkeypatch, KeyboardInterrupt()) == 130
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [
        "unmask: error: a value",
        "unmask: error: cannot use x.png: No space left on device",
    ]
    assert "interrupted" in told[2]
    with pytest.raises(RuntimeError) as full:
        torch.empty(1 << 50)
    for error in (full.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory.")):
        assert ends(monkeypatch, error) == 2
        assert "memory is too small for what was asked" in capsys.readouterr().err
    for bug in (ValueError("a bug"), OSError(errno.EBADF, "Bad file descriptor")):
        with pytest.raises(type(bug)):
            ends(monkeypatch, bug)
