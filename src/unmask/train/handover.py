"""What the main process holds, handed to the others, one tensor in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.machine.processes import by_main, gathered, launched, refusal
from unmask.train.run_folder import MEANING, flat_config


class _Form(NamedTuple):
    """Stands for a tensor where a nest travels without its tensors."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def handed_over(nest: object) -> Any:
    """The main process's nest, the same in every process.

    Tensors arrive as new ones on the process's device, whatever file they were mapped from, and in
    the order in memory that they had: an optimiser rounds otherwise in another. Those without
    dimensions, such as an optimiser's counts, stay where they were.

    Args:
        nest: tensors and plain values in mappings, lists and tuples; only the main process's
            counts.
    """
    state, sent = launched(), list[Tensor]()

    def form(tensor: Tensor) -> object:
        """What travels in a tensor's place, which is noted to be sent."""
        if not tensor.ndim:
            return tensor.clone()  # of no file
        sent.append(tensor)
        stride = torch.empty_like(tensor, device="meta").stride()  # of a tensor without gaps
        return _Form(tensor.dtype, tuple(tensor.shape), stride)

    forms = by_main(lambda: mapped(nest, Tensor, form))
    coming = iter(sent)

    def receive(form: _Form) -> Tensor:
        """The next tensor, sent or received."""
        tensor = next(coming, None)
        if tensor is None:
            tensor = torch.empty_strided(
                form.shape, form.stride, dtype=form.dtype, device=state.device
            )
        else:
            tensor = torch.clone(tensor.to(state.device))
        if state.num_processes > 1 and (count := math.prod(form.shape)):
            flat = tensor.as_strided((count,), (1,))
            dist.broadcast(flat.view(torch.uint8), src=0)  # of any type on any backend
        return tensor

    return mapped(forms, _Form, receive)


def mapped(nest: object, kind: type, change: Callable[[Any], object]) -> Any:
    """A nest with every leaf of a kind changed, in order."""
    if isinstance(nest, kind):
        return change(nest)
    if isinstance(nest, Mapping):
        return {key: mapped(value, kind, change) for key, value in nest.items()}
    if isinstance(nest, (list, tuple)) and not isinstance(nest, _Form):
        return type(nest)(mapped(value, kind, change) for value in nest)
    return nest


def check_same(config: Mapping[str, object]) -> None:
    """Refuse processes that would train different runs together.

    Args:
        config: of this process, as :func:`unmask.train.run_folder.plain_config` gives it.

    Raises:
        InputError: in all of them, naming what differs and the two values.
    """
    first, *others = gathered(dict(flat_config(config)))
    for rank, other in enumerate(others, 1):
        names = [n for n in sorted(first.keys() | other.keys()) if first.get(n) != other.get(n)]
        for name in names[:1]:
            what = f"{name} ({MEANING[name]})" if name in MEANING else name
            raise refusal(
                f"process {rank} has {what}={other.get(name)!r} where process 0 has "
                f"{first.get(name)!r}; start all with the same words, and where folders are not "
                "shared give every machine an equal cache and tokenizer"
            )
