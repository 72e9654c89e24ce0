"""Renaming by table: from another project's parameter names to ours, and back.

A table is an ordered tuple of rules. Translation is strict: a key that no rule matches is an error,
as is a part of a merged tensor that is missing; what is left unfilled shows when the result is
checked against the network (:func:`unmask.checkpoints.store.check_state`).
"""

from __future__ import annotations

import functools
import operator
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from unmask.checkpoints.lazy import LazyTensors, derive
from unmask.errors import InputError

Value = TypeVar("Value")
Cast = Callable[[str, Tensor], Tensor]
"""Function from our name for a tensor and the tensor to what is kept of it."""


def stack_rows(parts: Sequence[Tensor]) -> Tensor:
    """Query, key and value, ``(D, ...)`` each, as one ``(3 D, ...)``."""
    return torch.cat(list(parts))


def split_rows(tensor: Tensor) -> list[Tensor]:
    """The reverse of :func:`stack_rows`."""
    return [part.clone() for part in tensor.chunk(3)]


PLACES = {"i": r"\d+", "j": r"\d+", "part": "weight|bias", "rest": r".+"}


@dataclass(frozen=True)
class Rule:
    """What becomes of some keys of a source.

    ``{i}`` and ``{j}`` in a pattern stand for numbers, ``{part}`` for the weight or bias of a
    layer, ``{rest}`` for the end of a key and ``*`` for anything that is not kept; both sides of a
    rule have the same places.

    Args:
        source: Patterns of the source's keys; several are merged by ``join``.
        own: Our names; several get the same tensor (tied weights), none drops the key.
        join: Function from the source's tensors to ours; by default the one tensor as it is.
        split: Function from our tensor to the source's; None where the tensor alone does not tell
            them.
    """

    source: tuple[str, ...]
    own: tuple[str, ...]
    join: Callable[[Sequence[Tensor]], Tensor] = operator.itemgetter(0)
    split: Callable[[Tensor], list[Tensor]] | None = lambda tensor: [tensor]


Table = tuple[Rule, ...]


def rename(source: str, own: str) -> Rule:
    """A tensor that only changes its name."""
    return Rule((source,), (own,))


def renames(names: Mapping[str, str], source: str = "", own: str = "") -> Table:
    """Tensors that only change their names, from the source's to ours, inside two modules."""
    return tuple(rename(source + theirs, own + ours) for theirs, ours in names.items())


def rename_module(source: str, own: str) -> Rule:
    """Everything inside a module whose own parameters keep their names."""
    return rename(f"{source}.{{rest}}", f"{own}.{{rest}}")


def drop(source: str) -> Rule:
    """Keys that are knowingly left aside."""
    return Rule((source,), ())


def ours(own: str) -> Rule:
    """A tensor that only our network has; it is filled in where the source is read."""
    return Rule((), (own,), split=lambda tensor: [])


def check_architecture(
    config: Mapping[str, object], fixed: Mapping[str, object], whose: str, origin: object
) -> None:
    """Refuse a source's configuration that says otherwise than its published networks.

    Raises:
        InputError: naming the key, its value and the one that is supported.
    """
    for key, value in fixed.items():
        if config.get(key, value) != value:
            raise InputError(
                f"{origin}: {key}={config[key]!r} is another architecture than {whose}'s, which "
                f"has {key}={value!r}; only {whose}'s is supported"
            )


Found = tuple[tuple[str, str], ...]  # the places of a pattern and what stands there


def match(pattern: str, key: str) -> Found | None:
    """What stands at the places of ``pattern`` if ``key`` fits it, else None."""
    found = _compiled(pattern).fullmatch(key)
    return None if found is None else tuple(sorted(found.groupdict().items()))


@functools.cache
def _compiled(pattern: str) -> re.Pattern[str]:
    regex = re.escape(pattern).replace(r"\*", ".*")
    for place, hole in PLACES.items():
        regex = regex.replace(rf"\{{{place}\}}", f"(?P<{place}>{hole})")
    return re.compile(regex)


def shape_of(own: Mapping[str, Tensor], name: str, origin: str = "") -> tuple[int, ...]:
    """The shape of a translated tensor.

    Raises:
        InputError: when it is missing.
    """
    if name not in own:
        raise InputError(f"{origin} holds no {name!r}; is it of another network?")
    return tuple(own[name].shape)


def count_of(names: Iterable[str], pattern: str) -> int:
    """How many names fit a pattern."""
    return sum(match(pattern, name) is not None for name in names)


def fill(pattern: str, found: Found) -> str:
    """The key that has ``found`` at the places of ``pattern``."""
    for place, value in found:
        pattern = pattern.replace(f"{{{place}}}", value)
    return pattern


def to_own(
    state: Mapping[str, Tensor],
    table: Table,
    origin: str,
    *,
    cast: Cast = lambda name, tensor: tensor,
) -> dict[str, Tensor]:
    """Translate a source's state dict to our names.

    Args:
        state: by the source's keys; where they are lazy, only what a rule keeps is read.
        table: the source's rules.
        origin: file, named in errors.
        cast: what becomes of each tensor, given our name for it.

    Raises:
        InputError: for a key without a rule, or a merge that lacks a part.
    """
    groups: dict[tuple[Rule, Found], dict[str, str]] = {}
    for key in state:
        if (fitting := _find(key, table, "source")) is None:
            raise InputError(f"{origin}: no rule for the key {key!r}; is it of another model?")
        rule, pattern, found = fitting
        groups.setdefault((rule, found), {})[pattern] = key
    own: dict[str, Tensor] = {}
    for (rule, found), parts in groups.items():
        if not rule.own:
            continue
        for pattern in rule.source:
            if pattern not in parts:
                raise InputError(f"{origin} lacks {fill(pattern, found)!r}")
        names = [fill(name, found) for name in rule.own]
        keys = [parts[pattern] for pattern in rule.source]
        made = functools.partial(_made, rule, names[0], cast)
        own |= dict.fromkeys(names, derive(state, keys, made))
    return own


def _made(rule: Rule, name: str, cast: Cast, parts: Sequence[Tensor]) -> Tensor:
    return rule.join([cast(name, part) for part in parts])  # first: the narrow copies are smaller


def pick(state: Mapping[str, Value], names: Mapping[str, str]) -> Mapping[str, Value]:
    """Some entries under other names, still unread where they are lazy.

    Args:
        state: by its own names.
        names: from the new name to the one in ``state``.
    """
    if isinstance(state, LazyTensors):
        return typing.cast("Mapping[str, Value]", state.picked(names))
    return {new: state[name] for new, name in names.items()}


def _find(name: str, table: Table, side: str) -> tuple[Rule, str, Found] | None:
    """The first rule with a pattern that fits a name, the pattern, and what stands in it."""
    for rule in table:
        for pattern in getattr(rule, side):
            if (found := match(pattern, name)) is not None:
                return rule, pattern, found
    return None


def to_source(state: Mapping[str, Tensor], table: Table) -> dict[str, Tensor]:
    """Translate our state dict to a source's keys, the reverse of :func:`to_own`.

    Raises:
        InputError: for a name that the source has no key for, or two names that it has one key for
            and that differ.
    """
    source: dict[str, Tensor] = {}
    given: dict[str, tuple[str, Tensor]] = {}
    for name, tensor in state.items():
        if (fitting := _find(name, table, "own")) is None:
            raise InputError(f"the parameter {name!r} has no counterpart in the other project")
        rule, _, found = fitting
        assert rule.split is not None, f"{name}: this table only reads"
        keys = [fill(pattern, found) for pattern in rule.source]
        first, other = given.setdefault(keys[0], (name, tensor)) if keys else (name, tensor)
        if other is not tensor and not (tensor.is_meta or torch.equal(other, tensor)):
            raise InputError(
                f"{name!r} differs from {first!r}, and the other project has one tensor for both"
            )
        source |= dict(zip(keys, rule.split(tensor), strict=True))
    return source
