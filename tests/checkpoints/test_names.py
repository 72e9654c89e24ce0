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
    ours,
    rename,
    rename_module,
    split_rows,
    stack_rows,
    to_own,
    to_source,
)
from unmask.errors import InputError

TABLE: Table = (
    Rule(("l.{i}.q", "l.{i}.k", "l.{i}.v"), ("b.{i}.qkv",), stack_rows, split_rows),
    rename("l.{i}.out.{part}", "b.{i}.out.{part}"),
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
    ("pattern", "key", "found"),
    [
        ("a.{i}.b", "a.12.b", {"i": "12"}),
        ("a.{i}.b", "a.x.b", None),
        ("a.{i}.b", "a.1.b.c", None),
        ("a.{j}.{i}.b", "a.1.20.b", {"i": "20", "j": "1"}),
        ("a.{i}.{rest}", "a.1.b.c", {"i": "1", "rest": "b.c"}),
        ("a.{i}.{rest}", "a.1.", None),
        ("a.b", "a.b", {}),
        ("a.b", "axb", None),
        ("a.*", "a.b.3", {}),
    ],
)
def test_patterns_match_whole_keys(pattern: str, key: str, found: dict[str, str] | None) -> None:
    places = match(pattern, key)
    assert (places if places is None else dict(places)) == found


def test_a_module_moves_with_two_numbers_and_the_rest() -> None:
    table = (rename_module("up.{i}.block.{j}", "levels.{i}.{j}"),)
    state = numbered("up.1.block.20.conv.weight", "up.12.block.0.conv.weight")
    own = to_own(state, table, "file")
    assert list(own) == ["levels.1.20.conv.weight", "levels.12.0.conv.weight"]
    assert to_source(own, table).keys() == state.keys()


def test_what_only_we_have_stays_here() -> None:
    table = (rename("a", "b"), ours("ours"))
    assert to_source(numbered("b", "ours"), table).keys() == {"a"}
    assert to_own(numbered("a"), table, "file").keys() == {"b"}


def test_rename_keeps_the_tensor_itself() -> None:
    state = numbered("a")
    assert to_own(state, (rename("a", "b"),), "file")["b"] is state["a"]
