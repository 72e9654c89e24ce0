"""A device that is none: its tensors lie on the CPU, and what would cost a real one is noted.

It is the accelerator of a process of its own, since it changes PyTorch for good::

    import pretend_device as device

    device.install()  # before anything of unmask is imported
    pipeline = unmask.load("fashion-maskgit", device=device.NAME)
    with device.noted() as notes:
        ...
    assert not notes[device.WAIT]

Results are those of the CPU up to rounding. A device without float64 is pretended, as Apple's is.
Every note names a file and line of the package.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils import backend_registration as backends
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

NAME = "pretend"
MIXED, WAIT, PAGEABLE, PINNED = "mixed devices", "wait", "pageable copy", "pinned copy"
UNSAFE = "pageable copy that goes on after the call"
AVAILABLE = hasattr(backends, "_setup_privateuseone_for_python_backend")  # from torch 2.10 on
WIDE = (torch.float64, torch.complex128)

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.unique_consecutive.default,
    aten.unique_dim.default,
}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
    aten._unsafe_index.Tensor,
}
PLAIN = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}

Notes = dict[str, Counter[str]]
_notes: Notes = defaultdict(Counter)
_pinned: set[int] = set()  # where pinned memory begins


@contextmanager
def noted() -> Iterator[Notes]:
    """What happens inside, by kind and place; an inner one keeps its notes from the outer."""
    global _notes
    outer, _notes = _notes, defaultdict(Counter)
    try:
        yield _notes
    finally:
        _notes = outer


def _note(kind: str, what: object = "") -> None:
    _notes[kind][f"{_place()} {what}".rstrip()] += 1


def _place() -> str:
    """The innermost line of the package that is at work."""
    frame = sys._getframe()
    while frame.f_back is not None:
        name = frame.f_code.co_filename
        if "/unmask/" in name and "site-packages" not in name:
            return f"{name.rpartition('/unmask/')[2]}:{frame.f_lineno}"
        frame = frame.f_back
    return Path(sys.argv[0]).name


class Far(Tensor):
    """A tensor of the device.

    Args:
        near: where its numbers really are.
    """

    near: Tensor

    @staticmethod
    def __new__(cls: type[Far], near: Tensor) -> Far:
        """A shell that says that it is on the device."""
        if near.dtype in WIDE:
            raise TypeError(f"{NAME} has no {near.dtype}, asked for at {_place()}")
        made = Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            layout=near.layout,
            device=torch.device(NAME, 0),
        )
        made.near = near
        return made

    def __repr__(self, **named: Any) -> str:
        """The numbers, and that they are far away."""
        return f"Far({self.near})"

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Carry out on the CPU, and note."""
        return _carry_out(func, args, kwargs or {})

    def numpy(self, **named: Any) -> Any:
        """Refused, as of every device."""
        raise TypeError(f"a tensor of {NAME} is no array; move it to the CPU first")

    def tolist(self) -> Any:
        """Its numbers as Python's, which wait."""
        _note(WAIT, "tolist")
        return self.near.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Its numbers, which wait."""
        _note(WAIT, "pickle")
        return self.near.__reduce_ex__(protocol)


class _Everywhere(TorchDispatchMode):
    """Sees also what makes tensors on the device out of none."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        return _carry_out(func, args, kwargs or {})


def _near(value: Any) -> Any:
    return value.near if isinstance(value, Far) else value


def _far(value: Any) -> Any:
    return Far(value) if isinstance(value, Tensor) and not isinstance(value, Far) else value


def _is_here(device: object) -> bool:
    return device is not None and torch.device(device).type == NAME  # type: ignore[call-overload]


def _carry_out(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    """One operation."""
    tensors = [t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
    if not any(isinstance(t, Far) for t in tensors) and not _is_here(kwargs.get("device")):
        return func(*args, **kwargs)
    if func is aten._to_copy.default:
        return _copied(args[0], kwargs)
    if func is aten._fused_sdp_choice.default:
        return 0  # products and a softmax
    if func is aten.copy_.default:
        goes_on = bool(args[2:] and args[2]) or kwargs.get("non_blocking", False)
        _note_copy(args[1], to_device=isinstance(args[0], Far), goes_on=goes_on)
    else:
        _note_operation(func, args, tensors)
    if kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": "cpu", "pin_memory": False}
    near = pytree.tree_map(_near, (args, kwargs))
    result = func(*near[0], **near[1])
    if func in PLAIN:
        return result
    result = pytree.tree_map(_far, result)
    return return_and_correct_aliasing(func, args, kwargs, result)


def _copied(source: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """A tensor in another place or type."""
    target = kwargs.get("device") or source.device
    made = aten._to_copy.default(_near(source), **{**kwargs, "device": "cpu", "pin_memory": False})
    _note_copy(source, to_device=_is_here(target), goes_on=kwargs.get("non_blocking", False))
    return Far(made) if _is_here(target) else made


def _note_copy(source: Tensor, *, to_device: bool, goes_on: bool) -> None:
    """A copy between the CPU and the device; a single number travels with the call."""
    if isinstance(source, Far) and not to_device:
        _note(WAIT, "copied to the CPU")
    if to_device and not isinstance(source, Far):
        _note(PINNED if _is_pinned(source) else UNSAFE if goes_on else PAGEABLE)


def _note_operation(func: Any, args: tuple, tensors: list[Tensor]) -> None:
    """What an operation of the device costs, and whether a device could do it at all."""
    indices: list[Tensor] = []
    if func in INDEXED:
        indices = [t for t in args[1] if t is not None]
        if any(t.dtype in (torch.bool, torch.uint8) for t in indices):
            _note(WAIT, "boolean index")
        for _ in (t for t in indices if not isinstance(t, Far)):
            _note(PAGEABLE, "index")
    if func in WAITING:
        _note(WAIT, func)
    strangers = [t for t in tensors if not isinstance(t, Far) and t.ndim]
    if any(all(t is not index for index in indices) for t in strangers):
        _note(MIXED, func)


def _is_pinned(values: Tensor, *_: Any) -> bool:
    return values.untyped_storage().data_ptr() in _pinned


def _pin(values: Tensor, *_: Any) -> Tensor:
    made = values.clone()
    _pinned.add(made.untyped_storage().data_ptr())
    _kept.append(made)
    return made


_kept: list[Tensor] = []  # pinned memory is never given to anybody else


class _Backend(backends._DummyBackendModule if AVAILABLE else object):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def manual_seed(self, seed: int) -> None:
        pass


def install() -> None:
    """Make it the accelerator of this process, for good."""
    backends._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
    PartialState.default_device = property(lambda self: torch.device(NAME, 0))
    torch.inference_mode = torch.no_grad  # type: ignore[assignment,misc]  # no shells in there
    Tensor.pin_memory, Tensor.is_pinned = _pin, _is_pinned  # type: ignore[assignment]
    for name in ("empty", "tensor"):
        _patch(name)
    _Everywhere().__enter__()


def _patch(name: str) -> None:
    """Let a function that makes tensors know of pinned memory, and of the device."""
    original = getattr(torch, name)

    def made(*args: Any, pin_memory: bool = False, device: Any = None, **named: Any) -> Tensor:
        if name == "tensor" and _is_here(device):
            return original(*args, **named).to(device)
        if device is not None:
            named["device"] = device
        values = original(*args, **named)
        return _pin(values) if pin_memory else values

    setattr(torch, name, made)
