"""The comparison itself can fail, and reads tolerances as documented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from golden import EXACT, Case, Tolerance, find_cases
from safetensors.torch import save_file
from torch import Tensor


def make(folder: Path, tensors: dict[str, Tensor], **spec: object) -> Case:
    (folder / "a.json").write_text(json.dumps({"kind": "k.x", **spec}))
    save_file(tensors, folder / "a.io.safetensors")
    (case,) = find_cases(folder)
    return case


@pytest.mark.parametrize(
    ("golden", "ours"),
    [
        (torch.tensor([1.0]), torch.tensor([1.0002])),
        (torch.tensor([5]), torch.tensor([6])),
        (torch.tensor([20000]), torch.tensor([20001])),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1, 0], dtype=torch.uint8), torch.tensor([True, True])),
    ],
    ids=["float", "id", "large id", "shape", "mask"],
)
def test_a_difference_fails(tmp_path: Path, golden: Tensor, ours: Tensor) -> None:
    case = make(tmp_path, {"y": golden}, tolerance={"atol": 1e-4, "rtol": 1e-4})
    with pytest.raises(AssertionError, match=r"k\.x/a: y"):
        case.check({"y": ours})
    case.check({"y": golden})


def test_returning_nothing_that_is_golden_fails(tmp_path: Path) -> None:
    case = make(tmp_path, {"y": torch.zeros(1)})
    with pytest.raises(AssertionError, match="nothing of"):
        case.check({"z": torch.zeros(1)})


def test_a_tensor_nobody_looked_at_is_reported(tmp_path: Path) -> None:
    case = make(tmp_path, {"y": torch.zeros(1), "z": torch.zeros(1), "seeded_1": torch.zeros(1)})
    with pytest.warns(UserWarning, match="not compared: z$"):
        case.check({"y": torch.zeros(1)})


def test_keys_that_nobody_asked_for_are_named(tmp_path: Path) -> None:
    config = {"width": 4, "sampler": {"steps": 2, "heat": 1.0}, "left": 1, "note": "prose"}
    case = make(tmp_path, {"y": torch.zeros(1)}, config=config, steps=3, tolerance={"ids": 0})
    assert case.unread() == ["config", "steps"]
    assert (case.config["width"], case.spec.get("steps")) == (4, 3)
    assert case.config["sampler"].get("steps") == 2
    case.aside("left", "absent")
    assert case.unread() == ["config.sampler.heat"]
    case.told(width=4, depth=9)
    with pytest.raises(AssertionError, match="width=4 in the configuration, found 5"):
        case.told(width=5)


def test_narrow_inputs_are_widened(tmp_path: Path) -> None:
    given = {"x": torch.ones(2).half(), "ids": torch.ones(2, dtype=torch.int32)}
    given["mask"] = torch.ones(2, dtype=torch.uint8)
    case = make(tmp_path, given)
    found = [case.input(name).dtype for name in given]
    assert found == [torch.float32, torch.int64, torch.uint8]


def test_tolerances_go_from_the_exact_name_to_the_general_rule(tmp_path: Path) -> None:
    case = make(
        tmp_path,
        {"y": torch.zeros(1)},
        tolerance={"atol": 1e-3, "ids": "exact", "psnr": 0.5},
        tolerance_overrides={"grad.*": {"rtol": 2.0}, "grad.bias": 7, "grad.*.w": 9},
    )
    wanted = {
        "y": Tolerance(1e-3, 0.0),
        "ids": EXACT,
        "psnr": Tolerance(0.5, 0.0),
        "grad.a.w": Tolerance(0.0, 2.0),
        "grad.bias": Tolerance(7.0, 0.0),
    }
    assert {name: case.tolerance(name) for name in wanted} == wanted


def test_weights_come_from_a_list_with_prefixes_and_are_widened(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(2).to(torch.float8_e4m3fn)}, tmp_path / "two.safetensors")
    files = ["one.safetensors", {"file": "two.safetensors", "prefix": "t."}]
    weights = make(tmp_path, {"y": torch.zeros(1)}, weights=files).weights()
    assert sorted(weights) == ["a", "t.b"]
    assert {w.dtype for w in weights.values()} == {torch.float32}


def test_weights_may_be_another_cases(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "other.weights.safetensors")
    case = make(tmp_path, {"y": torch.zeros(1)}, weights_case="other")
    assert list(case.weights()) == ["a"]
