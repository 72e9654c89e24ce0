"""The state dict inside a checkpoint that is meant: averages first, wrappers taken off.

Projects wrap their weights in entries ("model_ema", "state_dict", "ema" with "module" inside) and
in prefixes of names ("module.", "_orig_mod.", "model."). Neither is looked up in a list: a state
dict is wherever names stand that the reader knows, whatever is before them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple, cast

import torch
from torch import Tensor

AVERAGE = re.compile(r"(^|_)(ema|swa|avg|average|averaged|shadow)\d*(_|$)")
LISTED = "shadow_params"  # averages in the order of the parameters, without their names
USUAL = ("model", "state_dict")  # where weights are whose names tell nothing
DEPTH = 16  # containers inside containers that are looked into


class State(NamedTuple):
    """The state dict of a file that is meant, and what else the file holds.

    Args:
        tensors: Tensors by the names that the reader knows.
        taken: Entries and prefix under which it stood, joined by dots; empty for a bare state dict.
        averaged: True for averaged weights, as the name of their place tells.
        aside: Other places in the file that hold tensors.
        empty: Places called as averages are called that hold no tensors.
    """

    tensors: Mapping[str, Tensor]
    taken: str
    averaged: bool
    aside: tuple[str, ...]
    empty: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Tensors under one prefix inside one mapping or list of a checkpoint."""

    path: tuple[str, ...]
    prefix: str
    tensors: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        """The place for a person: its entries and prefix, joined by dots."""
        return ".".join((*self.path, *([self.prefix.rstrip("./")] if self.prefix else [])))

    @property
    def averaged(self) -> bool:
        """Whether an entry or a part of the prefix is called as averages are."""
        parts = (*self.path, *re.split("[./]", self.prefix))
        return any(AVERAGE.search(part) for part in parts)

    @property
    def usual(self) -> bool:
        """Whether it stands under an entry where weights usually stand."""
        return self.path[:1] in [(name,) for name in USUAL]

    @property
    def inside(self) -> dict[str, Tensor]:
        """The tensors under the prefix, without it."""
        start = self.prefix
        return {n[len(start) :]: t for n, t in self.tensors.items() if n.startswith(start)}


def find_state(loaded: object, marks: Collection[str], *, separator: str = ".") -> State:
    """The state dict inside a checkpoint.

    Args:
        loaded: what the file held.
        marks: names of tensors, one of which is in every state dict that is wanted.
        separator: between the parts of a name.

    Returns:
        An averaged one before a plain one, the outermost of several; where no mark is found, what
        lies at the usual places.
    """
    containers, empty = _look_into(loaded)
    known = [place for c in containers for place in _known_places(c, marks, separator)]
    known = _named_averages(containers, known) + known
    places = known or containers
    if not places:
        return State({}, "", averaged=False, aside=(), empty=empty)
    chosen = min(places, key=lambda p: (not p.averaged, not (known or p.usual), len(p.path)))
    aside = _aside(containers, chosen)
    return State(chosen.inside, chosen.name, chosen.averaged, aside, empty)


def _look_into(loaded: object) -> tuple[list[_Place], tuple[str, ...]]:
    """Every container that holds tensors itself, each object once; and the empty averages."""
    containers: list[_Place] = []
    empty: list[str] = []
    seen: set[int] = set()
    waiting: list[tuple[tuple[str, ...], object]] = [((), loaded)]
    while waiting:
        path, thing = waiting.pop(0)
        if id(thing) in seen or len(path) > DEPTH:
            continue
        seen.add(id(thing))
        items = thing.items() if isinstance(thing, dict) else enumerate(cast(list, thing))
        entries = {str(name): value for name, value in items}
        tensors = {name: t for name, t in entries.items() if isinstance(t, Tensor) and _dense(t)}
        if tensors:
            containers.append(_Place(path, "", tensors))
        waiting += [((*path, n), v) for n, v in entries.items() if isinstance(v, (dict, list))]
        empty += [
            ".".join((*path, name))
            for name, value in entries.items()
            if AVERAGE.search(name) and (value is None or value in ({}, []))
        ]
    return containers, tuple(empty)


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor is plain numbers in memory, neither sparse nor quantised."""
    return tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta)


def _known_places(container: _Place, marks: Collection[str], separator: str) -> list[_Place]:
    """The container by every prefix after which a mark stands, the shortest first."""
    prefixes = set()
    for name in container.tensors:
        parts = name.split(separator)
        for start in range(len(parts)):
            if separator.join(parts[start:]) in marks:
                prefixes.add("".join(part + separator for part in parts[:start]))
    return [
        _Place(container.path, prefix, container.tensors) for prefix in sorted(prefixes, key=len)
    ]


def _named_averages(containers: Sequence[_Place], known: Sequence[_Place]) -> list[_Place]:
    """Averages that are listed in the order of the parameters, under the names of a plain state.

    Only where number and shapes agree, so that no tensor can get another's name.
    """
    lists = [c for c in containers if c.path[-1:] == (LISTED,)]
    return [
        _Place(listed.path, "", dict(zip(plain.inside, listed.tensors.values(), strict=True)))
        for listed in lists
        for plain in known
        if [t.shape for t in plain.inside.values()] == [t.shape for t in listed.tensors.values()]
    ]


def _aside(containers: Sequence[_Place], chosen: _Place) -> tuple[str, ...]:
    """Where else tensors are: first entries, and first parts of names beside the prefix."""
    names: dict[str, None] = {}
    for container in containers:
        if container.tensors is chosen.tensors:
            others = [n for n in container.tensors if not n.startswith(chosen.prefix)]
            names |= dict.fromkeys(re.split("[./]", name)[0] for name in others)
        elif container.path == chosen.path:
            continue
        else:
            pairs = zip(container.path, chosen.path, strict=False)
            shared = len([*takewhile(lambda pair: pair[0] == pair[1], pairs)])
            names[".".join(container.path[: shared + 1])] = None
    return tuple(names)
