"""Renaming by table is strict and reversible."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.checkpoints.names import (
    Rule,
    Table,
    drop,
    match,
    rename,
    rename_layer,
    split_rows,
    stack_rows,
    to_own,
    to_source,
)
from unmask.errors import InputError

TABLE: Table = (
    Rule(("l.{i}.q", "l.{i}.k", "l.{i}.v"), ("b.{i}.qkv",), stack_rows, split_rows),
    *rename_layer("l.{i}.out", "b.{i}.out"),
    Rule(("table",), ("word", "head")),
    drop("adapter.*"),
)


def numbered(*keys: str) -> dict[str, Tensor]:
    return {key: torch.full((2, 3), float(i)) for i, key in enumerate(keys)}


def test_merges_wildcards_copies_and_drops() -> None:
    keys = ["table", "adapter.x.y", "adapter.z"]
    for i in (0, 11):
        keys += [f"l.{i}.{part}" for part in ("k", "v", "q", "out.weight", "out.bias")]
    state = numbered(*keys)
    own = to_own(state, TABLE, "file")
    layers = {f"b.{i}.{part}" for i in (0, 11) for part in ("qkv", "out.weight", "out.bias")}
    assert own.keys() == layers | {"word", "head"}
    assert own["b.11.qkv"].tolist() == torch.cat([state[f"l.11.{p}"] for p in "qkv"]).tolist()
    assert own["word"] is own["head"]


def test_the_way_back_gives_the_source() -> None:
    state = numbered("table", "l.3.q", "l.3.k", "l.3.v", "l.3.out.weight", "l.3.out.bias")
    back = to_source(to_own(state, TABLE, "file"), TABLE)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[key], state[key]) for key in state)


def test_a_key_without_a_rule_is_named() -> None:
    with pytest.raises(InputError, match=r"^file: no rule for the key 'l\.3\.gate'"):
        to_own(numbered("l.3.gate"), TABLE, "file")


def test_a_missing_part_of_a_merge_is_named() -> None:
    with pytest.raises(InputError, match=r"^file lacks 'l\.3\.v'$"):
        to_own(numbered("l.3.q", "l.3.k"), TABLE, "file")


def test_a_parameter_without_a_counterpart_is_named() -> None:
    with pytest.raises(InputError, match="'gate' has no counterpart"):
        to_source(numbered("gate"), TABLE)


@pytest.mark.parametrize(
    ("pattern", "key", "number"),
    [
        ("a.{i}.b", "a.12.b", "12"),
        ("a.{i}.b", "a.x.b", None),
        ("a.{i}.b", "a.1.b.c", None),
        ("a.b", "a.b", ""),
        ("a.b", "axb", None),
        ("a.*", "a.b.3", ""),
    ],
)
def test_patterns_match_whole_keys(pattern: str, key: str, number: str | None) -> None:
    assert match(pattern, key) == number


def test_rename_keeps_the_tensor_itself() -> None:
    state = numbered("a")
    assert to_own(state, (rename("a", "b"),), "file")["b"] is state["a"]
