"""What is asked for in numbers and names: integers are labels and seeds, strings are names."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy import int8, int64, ndarray
from toy_system import TOY, toy_pipeline

from unmask.edit import inpaint
from unmask.errors import InputError, did_you_mean
from unmask.film import unmasking
from unmask.labels import class_index
from unmask.pipeline import Pipeline

NUMBERED = ("0", "1", "10", "11", "2", "20", "3")  # folders as they sort


def numbered() -> Pipeline:
    toy = toy_pipeline()
    return Pipeline(TOY, toy.model, toy.tokenizer, ["2", "0", "1"])


@pytest.mark.parametrize("label", range(3))
def test_a_returned_label_handed_back_gives_the_same_class(label: int) -> None:
    pipeline = numbered()
    first = pipeline([label], seeds=0)
    assert first.class_labels.tolist() == [label]
    again = pipeline(first.class_labels, seeds=0)
    assert again.class_labels.tolist() == [label]
    assert torch.equal(first.tokens, again.tokens)
    named = pipeline([pipeline.class_names[label]], seeds=0)
    assert torch.equal(first.tokens, named.tokens)


@pytest.mark.parametrize("name", NUMBERED)
def test_a_string_is_a_name_before_it_is_a_label(name: str) -> None:
    assert class_index(NUMBERED, name) == NUMBERED.index(name)
    assert class_index(NUMBERED, NUMBERED.index(name)) == NUMBERED.index(name)


JOINED, APART = "d\u00f6g", "do\u0308g"  # one letter, or a letter and its accent


@pytest.mark.parametrize(
    ("typed", "stored"), [(APART, JOINED), (JOINED, APART), ("D\u00d6G", JOINED), (JOINED, JOINED)]
)
def test_names_in_another_unicode_form(typed: str, stored: str) -> None:
    assert class_index(["cat", stored], typed) == 1


@pytest.mark.parametrize("asked", [1.0, np.float32(1), torch.tensor(1.0), None, object(), b"1"])
def test_a_class_of_another_type_is_refused(asked: Any) -> None:
    with pytest.raises(InputError, match=r"give an integer|give labels or names"):
        toy_pipeline().labels([asked])


@pytest.mark.parametrize(
    "classes", [torch.tensor([2, 0]), np.array([2, 0]), (2, 0), [np.int8(2), torch.tensor(0)]]
)
def test_labels_of_any_integer_type(
    classes: torch.Tensor | list[int8 | torch.Tensor] | ndarray | tuple[int, int],
) -> None:
    assert toy_pipeline().labels(classes) == [2, 0]


@pytest.mark.parametrize("one", [2, np.int64(2), torch.tensor(2), np.array(2)])
def test_one_class_alone(one: torch.Tensor | int64 | int | ndarray) -> None:
    assert toy_pipeline().labels(one) == [2]


def test_a_long_list_of_names_is_cut_and_counted_in_order() -> None:
    told = did_you_mean("golden retriever", map(str, range(1000)))
    assert told.startswith("known: 0, 1, 2, 3, ")
    assert told.endswith(" and 976 more")
    assert len(told) < 200


SEEDS = {
    "tensor": torch.tensor([7, 8]),
    "int8 tensor": torch.tensor([7, 8], dtype=torch.int8),
    "array": np.array([7, 8]),
    "uint64 array": np.array([7, 8], np.uint64),
    "numpy integers": [np.int64(7), np.int32(8)],
    "tuple": (7, 8),
    "range": range(7, 9),
    "generator": (seed for seed in (7, 8)),
    "first": 7,
    "first of numpy": np.int64(7),
    "first of torch": torch.tensor(7),
}


@pytest.mark.parametrize("seeds", SEEDS.values(), ids=SEEDS)
def test_seeds_of_any_integer_type_make_the_same_images(seeds: Any) -> None:
    pipeline = toy_pipeline()
    wanted = pipeline([0, 1], seeds=[7, 8])
    made = pipeline([0, 1], seeds=seeds)
    assert torch.equal(made.tokens, wanted.tokens)
    assert made.seeds == [7, 8]
    assert all(type(seed) is int for seed in made.seeds)


OTHERS = [[7.0, 8.0], np.array([7.0, 8.0]), torch.tensor([7.0, 8.0]), "78", 7.0, None, ["7", "8"]]


@pytest.mark.parametrize("seeds", OTHERS, ids=repr)
def test_other_seeds_are_refused(seeds: Any) -> None:
    pipeline = toy_pipeline()
    images, hole = pipeline([0, 1], seeds=0).pixels, torch.ones(16, 16, dtype=torch.bool)
    for ask in (
        lambda: pipeline([0, 1], seeds=seeds),
        lambda: pipeline.tokens([0, 1], seeds=seeds),
        lambda: inpaint(pipeline, images, hole, [0, 1], seeds=seeds),
        lambda: unmasking(pipeline, [0, 1], seeds=seeds),
    ):
        with pytest.raises(InputError, match=r"give (an integer|integers)"):
            ask()


def test_inpainting_takes_what_the_pipeline_takes() -> None:
    pipeline = toy_pipeline()
    images = pipeline([0, 1], seeds=3).pixels
    hole = torch.zeros(16, 16, dtype=torch.bool)
    hole[:8] = True
    wanted = inpaint(pipeline, images, hole, [2, 1], seeds=[5, 6])
    names = pipeline.class_names or ("0", "1", "2")
    for given, where, classes, seeds in (
        (images.double(), hole, [names[2], names[1]], 5),
        (images.numpy(), hole.numpy(), np.array([2, 1]), np.array([5, 6])),
        (images, hole, torch.tensor([2, 1]), torch.tensor([5, 6])),
    ):
        made = inpaint(pipeline, given, where, classes, seeds=seeds)
        assert torch.equal(made.tokens, wanted.tokens)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ring": -1}, "ring=-1 must be at least 0"),
        ({"blend_radius": math.nan}, "blend_radius=nan must be finite"),
        ({"blend_radius": -1.0}, "blend_radius=-1.0 must be finite"),
        ({"blend_radius": math.inf}, "blend_radius=inf must be finite"),
    ],
)
def test_options_of_inpainting_have_ranges(options: dict[str, int | float], message: str) -> None:
    pipeline = toy_pipeline()
    hole = torch.ones(16, 16, dtype=torch.bool)
    with pytest.raises(InputError, match=message):
        inpaint(pipeline, torch.zeros(1, 1, 16, 16), hole, [0], seeds=0, **options)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_named(value: float) -> None:
    pipeline = toy_pipeline()
    name, weight = next(iter(pipeline.model.named_parameters()))
    with torch.no_grad():
        weight[:] = value
    with pytest.raises(InputError, match=f"its weight '{name}' holds NaN or infinity") as error:
        pipeline([0], seeds=0)
    assert "\n" not in str(error.value)


def test_numbers_of_a_plan_that_overflow_are_named() -> None:
    pipeline = toy_pipeline()
    head = pipeline.model.head.out.bias
    with torch.no_grad():
        head[:] = torch.tensor([3e38, -3e38]).repeat(len(head))[: len(head)] * 4
    assert not head.isfinite().all()  # the weight itself is named then
    with pytest.raises(InputError, match="NaN or infinity"):
        pipeline([0], seeds=0)
    with torch.no_grad():
        head[:] = 3e38  # finite, but not after a product with the guidance scale
        pipeline.model.head.out.weight.mul_(1e38)
    with pytest.raises(InputError, match="though its weights are: the plan's numbers are too"):
        pipeline([0], seeds=0)


def test_the_null_class_has_a_name_and_a_label() -> None:
    pipeline = toy_pipeline()
    null = pipeline.model.null_class
    made = pipeline(["none", 0], seeds=4)
    assert made.class_labels.tolist() == [null, 0]
    with pytest.raises(InputError, match="class 3 is out of range; use 0 to 2, or 'none' for the"):
        pipeline(made.class_labels, seeds=4)
    assert class_index(["None", "0"], "none", null=2) == 0  # a class of that name comes first
    with pytest.raises(InputError, match="unknown class 'none'"):
        class_index(["cat", "dog"], "none")
    with pytest.raises(InputError, match="class 4 is out of range; use 0 to 2"):
        pipeline([4], seeds=0)
