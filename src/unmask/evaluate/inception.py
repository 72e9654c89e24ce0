"""The Inception-v3 of December 2015, whose features FID, sFID and the inception score are made of.

It is the network of Szegedy et al., arXiv 1512.00567, as its TensorFlow graph computes it
(``inception-2015-12-05``), which differs from later releases in four ways that scores depend on:
average pools leave the padding out of their mean, the last block pools by maximum, there are 1008
outputs, and images are enlarged as TensorFlow 1 did (:func:`resized_as_tensorflow`). Module names
are those of the weight file that pytorch-fid and torch-fidelity publish.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.checkpoints.store import load_state
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError
from unmask.evaluate.features import SPATIAL_CHANNELS, Features, check_pixels, spatial_features

FILE = "weights-inception-2015-12-05-6726825d.pth"
PUBLISHED = "6726825d"
SIZE = 299
WIDTH = 2048
CLASSES = 1008
SPATIAL_WIDTH = 17 * 17 * SPATIAL_CHANNELS


Layers = list[tuple[int, int | tuple[int, ...]]]
"""Channels out and kernel of convolutions one after another; (1, 3, 3, 1) are two side by side."""
FORK = (1, 3, 3, 1)


def _grid35(pooled: int) -> dict[str, Layers]:
    return {
        "branch1x1": [(64, 1)],
        "branch5x5": [(48, 1), (64, 5)],
        "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
        "branch_pool": [(pooled, 1)],
    }


def _grid17(inner: int) -> dict[str, Layers]:
    wide, tall = (inner, (1, 7)), (inner, (7, 1))
    return {
        "branch1x1": [(192, 1)],
        "branch7x7": [(inner, 1), wide, (192, (7, 1))],
        "branch7x7dbl": [(inner, 1), tall, wide, tall, (192, (1, 7))],
        "branch_pool": [(192, 1)],
    }


GRID8: dict[str, Layers] = {
    "branch1x1": [(320, 1)],
    "branch3x3": [(384, 1), (384, FORK)],
    "branch3x3dbl": [(448, 1), (384, 3), (384, FORK)],
    "branch_pool": [(192, 1)],
}
TO_GRID17: dict[str, Layers] = {
    "branch3x3": [(384, 3)],
    "branch3x3dbl": [(64, 1), (96, 3), (96, 3)],
}
TO_GRID8: dict[str, Layers] = {
    "branch3x3": [(192, 1), (320, 3)],
    "branch7x7x3": [(192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)],
}


class ConvNorm(nn.Module):
    """Convolution without bias, norm by stored moments, ReLU."""

    def __init__(
        self, before: int, after: int, kernel: tuple[int, ...], *, stride: int = 1, pad: bool = True
    ) -> None:
        super().__init__()
        height, width = kernel
        padding = (height // 2, width // 2) if pad else 0
        self.conv = nn.Conv2d(before, after, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H', W')``."""
        return F.relu(self.bn(self.conv(x)))


POOLS = {
    "average": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "maximum": nn.MaxPool2d(3, 1, 1),
    "down": nn.MaxPool2d(3, 2),
}


class Mixed(nn.Module):
    """A block of parallel branches, joined along the channels in the order of its table.

    Args:
        width: channels in.
        table: the layers of each branch by its name; "branch_pool" reads the pooled input.
        pool: "average" (padding not counted), "maximum", or "down": the last layers halve the
            height and width without padding, and the pooled input joins the result.
    """

    def __init__(self, width: int, table: dict[str, Layers], *, pool: str = "average") -> None:
        super().__init__()
        self.pool, self.branches = POOLS[pool], dict[str, list[list[str]]]()
        self.joins_pool = pool == "down"
        for branch, layers in table.items():
            before, names = width, self.branches.setdefault(branch, [])
            for number, (after, kernel) in enumerate(layers, 1):
                strides = self.joins_pool and number == len(layers)
                name = branch if len(layers) == 1 else f"{branch}_{number}"
                names.append([f"{name}a", f"{name}b"] if kernel == FORK else [name])
                sides = (kernel, kernel) if isinstance(kernel, int) else kernel
                for at, part in enumerate(names[-1]):
                    layer = ConvNorm(
                        before, after, sides[2 * at :][:2], stride=1 + strides, pad=not strides
                    )
                    self.add_module(part, layer)
                before = after

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` to ``(B, C', H', W')``."""
        pooled, ends = self.pool(x), []
        for branch, steps in self.branches.items():
            found = [pooled if branch == "branch_pool" else x]
            for names in steps:
                found = [self.get_submodule(name)(found[0]) for name in names]
            ends += found
        return torch.cat([*ends, pooled] if self.joins_pool else ends, 1)


def _neighbours(size: int, wanted: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each wanted position: the pixel before it, the one after, and how far between."""
    scale = torch.tensor(size / wanted, dtype=torch.float32)
    at = torch.arange(wanted, dtype=torch.float32) * scale
    before = at.long()
    return before, (before + 1).clamp(max=size - 1), at - before


def resized_as_tensorflow(images: Tensor, size: int = SIZE) -> Tensor:
    """Square images as TensorFlow 1's ``ResizeBilinear`` makes them, corners not aligned.

    Output pixel i lies at input coordinate ``i * in / out``: pixel centres are not half a pixel
    in, as PyTorch and TensorFlow 2 count them, so the picture shifts by a fraction of a pixel, and
    nothing is averaged when it shrinks. FID differs measurably with any other resize
    (Parmar et al., arXiv 2104.11222).

    Args:
        images: ``(B, C, H, W)`` float32.
        size: wanted height and width in pixels.

    Returns:
        ``(B, C, size, size)``; the same numbers where the size is right already.
    """
    for dim in (3, 2):
        before, after, part = (v.to(images.device) for v in _neighbours(images.shape[dim], size))
        low = images.index_select(dim, before)
        part = part if dim == 3 else part.unsqueeze(1)
        images = low + (images.index_select(dim, after) - low) * part
    return images


class Taps(NamedTuple):
    """Features at every depth that scores are taken at; float32.

    Args:
        first: ``(B, 64)``, averaged over the picture after the first pool.
        second: ``(B, 192)``, after the second pool.
        third: ``(B, 768)``, after the 17 x 17 blocks.
        pooled: ``(B, 2048)``, what FID, precision and recall compare (``pool_3``).
        spatial: ``(B, 2023)``, what sFID compares: 7 channels of ``mixed_6/conv``, rows, columns,
            channels in this order.
        logits_unbiased: ``(B, 1008)``, the last layer without its bias, as published inception
            scores take it.
    """

    first: Tensor
    second: Tensor
    third: Tensor
    pooled: Tensor
    spatial: Tensor
    logits_unbiased: Tensor


class InceptionV3(nn.Module):
    """The network alone; module names are those of the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvNorm(3, 32, (3, 3), stride=2, pad=False)
        self.Conv2d_2a_3x3 = ConvNorm(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = ConvNorm(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = ConvNorm(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = ConvNorm(80, 192, (3, 3), pad=False)
        self.Mixed_5b = Mixed(192, _grid35(32))
        self.Mixed_5c = Mixed(256, _grid35(64))
        self.Mixed_5d = Mixed(288, _grid35(64))
        self.Mixed_6a = Mixed(288, TO_GRID17, pool="down")
        self.Mixed_6b = Mixed(768, _grid17(128))
        self.Mixed_6c = Mixed(768, _grid17(160))
        self.Mixed_6d = Mixed(768, _grid17(160))
        self.Mixed_6e = Mixed(768, _grid17(192))
        self.Mixed_7a = Mixed(768, TO_GRID8, pool="down")
        self.Mixed_7b = Mixed(1280, GRID8)
        self.Mixed_7c = Mixed(2048, GRID8, pool="maximum")
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, images: Tensor) -> Taps:
        """Features of ``(B, 3, H, W)`` uint8 images of any size."""
        x = (resized_as_tensorflow(images.float()) - 128) / 128  # (B, 3, 299, 299)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = one = F.max_pool2d(x, 3, 2)  # (B, 64, 73, 73)
        x = two = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, 2)  # (B, 192, 35, 35)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))  # (B, 768, 17, 17)
        # TensorFlow's mixed_6/conv is the first branch of this block, so its channels come first.
        x = sixth = self.Mixed_6d(self.Mixed_6c(self.Mixed_6b(x)))
        x = three = self.Mixed_6e(x)
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(x)))  # (B, 2048, 8, 8)
        pooled = x.mean((2, 3))
        return Taps(
            first=one.mean((2, 3)),
            second=two.mean((2, 3)),
            third=three.mean((2, 3)),
            pooled=pooled,
            spatial=spatial_features(sixth),
            logits_unbiased=pooled @ self.fc.weight.T,
        )


class Inception:
    """The 2015 network as a :class:`~unmask.evaluate.features.FeatureExtractor`.

    Probabilities come from the last layer without its bias, as ADM's evaluator and torch-fidelity
    take them. Grey images are repeated three times.

    Args:
        network: with its weights.
        digest: SHA-256 of the weight file, in hex.
        device: where the network computes; where convolutions may round to TF32, features do.
    """

    name = "Inception-v3 2015"
    width = WIDTH

    def __init__(
        self, network: InceptionV3, digest: str, *, device: torch.device | str = "cpu"
    ) -> None:
        self.device = torch.device(device)
        self.digest = digest
        self._network = network.eval().requires_grad_(False).to(self.device)

    @property
    def published(self) -> bool:
        """Whether the weight file is the published one: only its distances are FID."""
        return self.digest.startswith(PUBLISHED)

    @property
    def identity(self) -> str:
        """Name, first 12 digits of the weight file's SHA-256, and the resize."""
        return f"{self.name}, weights {self.digest[:12]}, {SIZE} px bilinear as TensorFlow 1"

    def taps(self, images: Tensor) -> Taps:
        """Features of a batch at every depth.

        Args:
            images: ``(B, C, H, W)`` uint8, C 1 or 3.

        Returns:
            On the extractor's device.

        Raises:
            InputError: for another type or number of channels.
        """
        check_pixels(images, self.name)
        with torch.inference_mode():
            found: Taps = self._network(images.to(self.device).expand(-1, 3, -1, -1))
        return found

    def __call__(self, images: Tensor) -> Features:
        """``(B, 2048)`` and ``(B, 2023)`` features, ``(B, 1008)`` probabilities."""
        taps = self.taps(images)
        return Features(taps.pooled, taps.logits_unbiased.softmax(1), taps.spatial)


MARKS = ("Conv2d_1a_3x3.conv.weight",)  # a tensor that the published file has


def load_inception(path: Path | str, *, device: torch.device | str = "cpu") -> Inception:
    """The network with the weights of a file.

    Args:
        path: the published file, or one with the same names (also safetensors).
        device: where the network computes.

    Raises:
        InputError: when the file is missing, damaged or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"there is no file {path}: download {FILE} from the releases of "
            "github.com/toshas/torch-fidelity and give its path (--inception)"
        )
    network = InceptionV3()
    # The counters of training steps are in some copies of the file and play no part.
    counters = {k: v for k, v in network.state_dict().items() if k.endswith("num_batches_tracked")}
    load_state(network, {**counters, **read_tensors(path, MARKS)}, str(path))
    return Inception(network, sha256(path.read_bytes()).hexdigest(), device=device)
