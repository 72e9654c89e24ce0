"""Files of weights as they come: wrapped, averaged, cut off, or no weights at all."""

from __future__ import annotations

import argparse
import collections
import io
import itertools
import json
import pickle
import random
import warnings
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unmask.checkpoints.find_state import find_state
from unmask.checkpoints.pickles import BESIDE_WEIGHTS
from unmask.checkpoints.tensor_files import read_tensors, read_weights
from unmask.errors import InputError

MARK = "block.first.weight"
STATE = {
    MARK: torch.arange(6.0).view(2, 3),
    "block.first.bias": torch.ones(2),
    "out": torch.ones(1),
}
WRAPPERS = (
    "module",
    "_orig_mod",
    "model",
    "net",
    "generator",
    "ema_model",
    "some_name_of_ones_own",
)


def same(found: object, wanted: dict[str, Tensor]) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[k], wanted[k]) for k in wanted)


def prefixed(prefix: str, factor: float = 1.0) -> dict[str, Tensor]:
    return {prefix + name: tensor * factor for name, tensor in STATE.items()}


@pytest.mark.parametrize("wrappers", list(itertools.permutations(WRAPPERS, 2)))
def test_prefixes_and_entries_of_wrappers_come_off_in_any_order(wrappers: tuple[str, str]) -> None:
    first, second = wrappers
    for loaded in (
        prefixed(f"{first}.{second}."),
        {first: prefixed(f"{second}.")},
        {first: {second: dict(STATE)}},
        {"step": 3, "state_dict": {**prefixed(f"{first}."), "loss.weight": torch.zeros(9)}},
    ):
        assert same(find_state(loaded, {MARK}).tensors, STATE)


AVERAGES = ("ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema", "averaged_model")


@pytest.mark.parametrize("name", AVERAGES)
def test_an_average_is_preferred_under_its_usual_names(name: str) -> None:
    for loaded in (
        {"model": dict(STATE), name: prefixed("module.", 2.0)},
        {"model": dict(STATE), name: {"module": prefixed("", 2.0), "decay": 0.9}},
        {**prefixed("online_model."), **prefixed(f"{name}.", 2.0), "step": torch.zeros(1)},
    ):
        found = find_state(loaded, {MARK})
        assert same(found.tensors, prefixed("", 2.0))
        assert found.averaged
        assert found.taken.startswith(name)
        assert set(found.aside) & {"model", "online_model"}


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("value", [None, {}, []])
def test_an_empty_average_is_passed_over_and_named(name: str, value: object) -> None:
    found = find_state({"model": dict(STATE), name: value}, {MARK})
    assert same(found.tensors, STATE)
    assert not found.averaged
    assert found.empty == (name,)


def test_listed_averages_get_names_only_where_every_shape_agrees() -> None:
    doubled = [tensor * 2 for tensor in STATE.values()]
    loaded = {"model": prefixed("module."), "ema": {"decay": 0.9, "shadow_params": doubled}}
    found = find_state(loaded, {MARK})
    assert same(found.tensors, prefixed("", 2.0))
    assert found.taken == "ema.shadow_params"
    loaded["ema"]["shadow_params"] = doubled[::-1]
    assert same(find_state(loaded, {MARK}).tensors, STATE)


def test_a_state_dict_inside_itself_ends() -> None:
    loop: dict = {"model": dict(STATE)}
    loop["again"] = loop
    deep: dict = dict(STATE)
    for _ in range(10_000):
        deep = {"more": deep}
    wide = dict(STATE)
    for _ in range(60):
        wide = {"a": wide, "b": wide}
    assert same(find_state(loop, {MARK}).tensors, STATE)
    for loaded in (deep, wide):
        assert not find_state(loaded, {MARK}).tensors


class Options:
    """Stands for options of somebody's program."""

    def __reduce__(self) -> tuple:
        return (Options, ())


def test_what_lies_beside_weights_is_read_over(tmp_path: Path) -> None:
    counts: dict = collections.defaultdict(list)
    counts["losses"].append(np.float64(0.5))
    beside = {
        "args": argparse.Namespace(lr=1e-3, out=Path("runs")),
        "more": SimpleNamespace(a=1),
        "best": np.float32(3.0),
        "history": np.arange(3.0),
        "order": collections.OrderedDict(a=1),
        "seen": {1, 2},
        **counts,
    }
    for name, legacy in (("a.pt", False), ("b.tar", True), ("c", False)):
        saved = {"state_dict": dict(STATE), **beside}
        torch.save(saved, tmp_path / name, _use_new_zipfile_serialization=not legacy)
        assert same(read_tensors(tmp_path / name, {MARK}), STATE)


def test_options_of_other_packages_are_read_over(tmp_path: Path) -> None:
    """A pickle that names classes of packages that are not installed, as omegaconf's."""
    names = [(module, name) for module, names in BESIDE_WEIGHTS.items() for name in names.split()]
    for module, name in names:
        if module == "_codecs":  # a function, which torch allows itself
            continue
        path, made = tmp_path / "w.pt", f"c{module}\n{name}\n)\x81".encode("latin1")
        whole = io.BytesIO()
        torch.save({"options": 0, "state_dict": dict(STATE)}, whole)
        with zipfile.ZipFile(whole) as source, zipfile.ZipFile(path, "w") as out:
            for member in source.namelist():
                data = source.read(member)
                zero = b"K\x00"  # the first is that of "options"
                out.writestr(member, data.replace(zero, made, 1) if "data.pkl" in member else data)
        assert same(read_tensors(path, {MARK}), STATE), (module, name)


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("never"),))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_refused_class_is_named_and_no_advice_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool, protocol: int
) -> None:
    monkeypatch.chdir(tmp_path)
    for thing, name in (
        (Harmful(), "getattr"),
        (Options(), "Options"),
        (nn.Linear(1, 1), "Linear"),
    ):
        path = tmp_path / "w.pt"
        saved = {"model": dict(STATE), "thing": thing}
        torch.save(saved, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(InputError) as error:
                read_tensors(path, {MARK})
        said = str(error.value)
        assert name in said or protocol == 4  # whose names PyTorch does not tell
        assert said.isprintable()
        assert "weights_only" not in said
    assert not Path("never").exists()


def a_zip(**members: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        for name, data in members.items():
            archive.writestr(name.replace("_dot_", "."), data)
    return whole.getvalue()


def torch_bytes(thing: object) -> bytes:
    whole = io.BytesIO()
    torch.save(thing, whole)
    return whole.getvalue()


STRANGERS = {
    "half a download": (torch_bytes(STATE)[:700], "cut off or damaged"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
    "empty": (b"", "is empty"),
    "other zip": (a_zip(readme_dot_txt=b"words"), "zip archive of 'readme.txt'"),
    "npz": (a_zip(arr_0_dot_npy=b"\x93NUMPY"), "zip archive of 'arr_0.npy'"),
    "json": (json.dumps({"a": 1}).encode(), "is a JSON file"),
    "gzip": (b"\x1f\x8b\x08" + bytes(40), "compressed by gzip"),
    "pickle": (pickle.dumps({"a": [1, 2]}, protocol=2), "is damaged, cut off or no checkpoint"),
    "number": (torch_bytes(3), "holds a int, not a state dict"),
    "noise": (random.Random(1).randbytes(500), "neither a PyTorch"),
}


@pytest.mark.parametrize("kind", STRANGERS)
@pytest.mark.parametrize("ending", ["pt", "safetensors", "tar"])
def test_whatever_is_no_weights_is_named_in_one_line(
    tmp_path: Path, kind: str, ending: str
) -> None:
    content, message = STRANGERS[kind]
    path = tmp_path / f"w.{ending}"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_tensors(path, {MARK})
    if ending != "safetensors":  # which torch and we take at its word
        assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_and_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder; name the file"):
        read_tensors(tmp_path)
    with pytest.raises(InputError, match="there is no file"):
        read_tensors(tmp_path / "w.pt")


def test_a_tensor_that_claims_more_than_its_storage_is_refused(tmp_path: Path) -> None:
    torch.save({MARK: torch.zeros(1).expand(10**9, 1000)}, tmp_path / "w.pt")
    found = read_tensors(tmp_path / "w.pt", {MARK})
    with pytest.raises(InputError, match=r"of shape \(1000000000, 1000\) has 4 bytes"):
        found[MARK]


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_what_is_read_outlives_the_file(tmp_path: Path, form: str) -> None:
    path = tmp_path / "w"
    if form == "safetensors":
        save_file(STATE, path)
    else:
        torch.save(STATE, path, _use_new_zipfile_serialization=form == "zip")
    state = read_weights(path, {MARK})
    tensors = state.tensors
    assert state.taken == ""
    read = dict(tensors)
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    assert same(read, STATE)
