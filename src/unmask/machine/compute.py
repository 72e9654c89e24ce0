"""The arithmetic of a generator: how precisely its matrix products are computed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from unmask.errors import InputError
from unmask.machine.devices import full_precision

Precision = Literal["float32", "tf32", "bf16", "fp16"]
DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
TF32_SINCE = (8, 0)  # compute capability: Ampere
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """How a network's matrix products are computed; :meth:`of` checks that they can be.

    Lower precisions are torch's autocast: sums along the trunk, norms and softmax stay float32, as
    where the published systems sample (MAR ``engine_mar.py``; maskgit-pytorch ``train.py``).

    Args:
        precision: Type of number that is multiplied; results are added up in float32.
        device: Device of the weights.
        by_weights: Whether the weights themselves are of that type, so that nothing has to be
            converted.
        compiled: Whether a compiler orders the operations, which rounds otherwise.
    """

    precision: Precision
    device: torch.device
    by_weights: bool = False
    compiled: bool = False

    def __str__(self) -> str:
        """Words for reports and settings."""
        return self.precision + ", compiled" * self.compiled

    @classmethod
    def of(cls, network: nn.Module, wanted: Precision | None = None) -> Compute:
        """The arithmetic for a network.

        Args:
            network: with its weights where they are to be used.
            wanted: None takes bf16 on an accelerator that has it natively and else float32; where
                autocast is on already, or the weights are of half precision, that type.

        Raises:
            InputError: the device cannot compute so, or the weights are less precise.
        """
        weight = next(network.parameters())
        device, kind = weight.device, weight.device.type
        compiled = getattr(network, "compiler", None) is not None
        if weight.dtype in (torch.bfloat16, torch.float16):
            found = NAMES[weight.dtype]
            if wanted not in (None, found):
                raise InputError(
                    f"compute={wanted} needs float32 weights, and these are {found}; load the "
                    f"model without dtype, or leave out compute"
                )
            return cls(found, device, by_weights=True, compiled=compiled)
        around = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        if wanted is None and around:
            wanted = NAMES.get(torch.get_autocast_dtype(kind))
        usual: Precision = "bf16" if _native_bf16(device) else "float32"
        made = cls(wanted or usual, device, compiled=compiled)
        made.check()
        return made

    def check(self) -> None:
        """Refuse arithmetic that the device does not have.

        Raises:
            InputError: naming what it has.
        """
        if self.precision == "tf32" and not _has_tf32(self.device):
            raise InputError(
                f"compute=tf32 needs an NVIDIA GPU from Ampere on, and the weights are on "
                f"{self.device}; give float32 or bf16"
            )
        if self.is_half and not _has_autocast(self.device, DTYPES[self.precision]):
            raise InputError(
                f"compute={self.precision} is not possible on {self.device} with torch "
                f"{torch.__version__}; give float32"
            )

    @property
    def is_half(self) -> bool:
        """Whether numbers of 16 bits are multiplied."""
        return self.precision in ("bf16", "fp16")

    def twin(self, network: M) -> M:
        """A network whose linear layers hold their matrices in the type that they multiply.

        Everything else is shared with the original, whose weights are not touched; autocast would
        convert them anew in each call. Where nothing is to be converted, the network itself.
        Matrices of an adapter (``feedback``) stay as they are: they are folded in float32 first.
        """
        if not self.is_half or self.by_weights:
            return network
        compiler: Any = getattr(network, "compiler", None)
        tensors = chain(network.parameters(), network.buffers())
        made = copy.deepcopy(network, {id(kept): kept for kept in (compiler, *tensors)})
        for name, module in made.named_modules():
            if isinstance(module, nn.Linear) and not name.startswith("feedback."):
                for part, weight in list(module.named_parameters()):
                    half = weight.detach().to(DTYPES[self.precision])
                    setattr(module, part, nn.Parameter(half, requires_grad=False))
        if compiler is not None:
            made.compile_by(compiler)  # type: ignore[operator]  # a copy is never compiled
        return made

    @contextmanager
    def region(self) -> Iterator[None]:
        """Inside, matrix products are computed so; nothing of it is left behind.

        Raises:
            InputError: in place of what torch.compile raises, if it is missing something.
        """
        with compiler_failures(), self._arithmetic():
            yield

    def _arithmetic(self) -> AbstractContextManager:
        kind = self.device.type
        if self.is_half and not self.by_weights:
            return torch.autocast(kind, DTYPES[self.precision])
        if _has_tf32(self.device):
            return _float32_products(tf32=self.precision == "tf32")
        return full_precision(kind)


@contextmanager
def compiler_failures() -> Iterator[None]:
    """Say in one line what torch.compile misses.

    Raises:
        InputError: in place of what it raises.
    """
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        reason = " ".join(str(error).split("\n")[0].split())
        raise InputError(
            f"torch.compile failed ({type(error).__name__}: {reason[:200]}); it needs a C++ "
            "compiler, and Triton on a GPU: install them, or leave out compile"
        ) from error


def _has_autocast(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a device computes in a type of 16 bits; where not, torch warns and takes float32."""
    if not torch.amp.is_autocast_available(device.type):
        return False
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.autocast(device.type, dtype)
    return not told


def _native_bf16(device: torch.device) -> bool:
    """Whether it is an accelerator that multiplies bf16 in hardware."""
    module = getattr(torch, device.type, None)
    found = getattr(module, "is_bf16_supported", None)
    if device.type == "cpu" or found is None:
        return False
    return found(including_emulation=False) if device.type == "cuda" else found()


def _has_tf32(device: torch.device) -> bool:
    if device.type != "cuda" or torch.version.cuda is None:
        return False
    return torch.cuda.get_device_capability(device) >= TF32_SINCE


@contextmanager
def _float32_products(*, tf32: bool) -> Iterator[None]:
    """Products of float32 matrices in TF32 or not, by the older of torch's two names for it.

    Once the newer one is used the older can no longer be read, and the compiler reads it; so the
    newer one serves only where the program has used it already. Both are left as they were.
    """
    places = (torch.backends.cuda, torch.backends.mkldnn)
    matmuls = [place.matmul for place in places if hasattr(place, "matmul")]
    newer = [matmul for matmul in matmuls if hasattr(matmul, "fp32_precision")]
    before: list[str] = [matmul.fp32_precision for matmul in newer]
    older = None
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        newer[0].fp32_precision = "tf32" if tf32 else "ieee"
    else:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for matmul, value in zip(newer, before, strict=True):
            matmul.fp32_precision = value
