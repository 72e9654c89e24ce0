"""LPIPS, the learned perceptual distance (Zhang et al., arXiv 1801.03924, eq. 1), version 0.1.

On AlexNet, the variant that papers on tokenizers report. Nothing is downloaded here: the network
takes the two files that are published, torchvision's AlexNet and the linear weights of the
``lpips`` package.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.checkpoints.names import drop, rename, rename_module, to_own
from unmask.checkpoints.store import load_state
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError

LEAST_SIDE = 31  # pixels; below, the second pooling has nothing left
EPS = 1e-10
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pixels in [-1, 1]
DOWNLOADS = {
    "features.": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "linear.": "https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/"
    "alex.pth",
}
TABLE = (
    rename_module("features", "features"),
    drop("classifier.*"),
    rename("lin{i}.model.1.weight", "linear.{i}"),
)
MARKS = ("features.0.weight", "lin0.model.1.weight")  # of the two files


class LPIPS(nn.Module):
    """The distance as a network; names of AlexNet's layers are torchvision's."""

    identity = "LPIPS v0.1 AlexNet, random weights"

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleDict(
            {
                "0": nn.Conv2d(3, 64, 11, stride=4, padding=2),
                "3": nn.Conv2d(64, 192, 5, padding=2),
                "6": nn.Conv2d(192, 384, 3, padding=1),
                "8": nn.Conv2d(384, 256, 3, padding=1),
                "10": nn.Conv2d(256, 256, 3, padding=1),
            }
        )
        self.linear = nn.ParameterList(
            nn.Parameter(torch.ones(1, width, 1, 1)) for width in (64, 192, 384, 256, 256)
        )

    def directions(self, images: Tensor) -> list[Tensor]:
        """Features at five depths, ``(B, C, h, w)`` each, of length 1 over the channels."""
        shift, scale = (images.new_tensor(v).view(1, 3, 1, 1) for v in (SHIFT, SCALE))
        x = (images.expand(-1, 3, -1, -1) * 2 - 1 - shift) / scale
        found = []
        for name, layer in self.features.items():
            if name in ("3", "6"):
                x = F.max_pool2d(x, 3, stride=2)
            x = layer(x).relu()
            found.append(x / (x.square().sum(1, keepdim=True).sqrt() + EPS))
        return found

    @torch.no_grad()
    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """The distance of each pair, 0 for equal images, alike both ways.

        Args:
            images: ``(B, C, H, W)`` float32 in [0, 1], C 1 (repeated three times) or 3.
            target: the same.

        Returns:
            ``(B,)`` float32.

        Raises:
            InputError: for sides below 31 pixels.
        """
        if min(images.shape[2:]) < LEAST_SIDE:
            raise InputError(
                f"LPIPS needs images of at least {LEAST_SIDE} pixels, these have "
                f"{min(images.shape[2:])}; use a larger image size or leave LPIPS out"
            )
        total = images.new_zeros(len(images))
        pairs = zip(self.directions(images), self.directions(target), self.linear, strict=True)
        for a, b, weight in pairs:
            total += (weight * (a - b).square()).sum(1).mean((1, 2))
        return total


def load_lpips(paths: Sequence[Path]) -> LPIPS:
    """The distance with published weights, in evaluation mode, frozen.

    Args:
        paths: torchvision's ``alexnet-owt-….pth`` and the ``alex.pth`` of ``lpips``, in any order,
            or one file with the tensors of both.

    Raises:
        InputError: for a file that is missing, damaged or of another network; it says what to
            download.
    """
    state: dict[str, Tensor] = {}
    for path in paths:
        if not path.is_file():
            wanted = " and ".join(DOWNLOADS.values())
            raise InputError(f"there is no file {path}; LPIPS needs {wanted}")
        state |= to_own(read_tensors(path, MARKS), TABLE, str(path))
    origin = " and ".join(map(str, paths))
    for part, url in DOWNLOADS.items():
        if not any(name.startswith(part) for name in state):
            raise InputError(f"{origin}: a part is missing; download {url} and name it too")
    network = LPIPS()
    load_state(network, state, origin)
    digests = ", ".join(sha256(path.read_bytes()).hexdigest()[:12] for path in paths)
    network.identity = f"LPIPS v0.1 AlexNet, weights {digests}"
    return network.eval().requires_grad_(False)


WINDOW = 7  # pixels a side
K1, K2 = 0.01, 0.03


def psnr(images: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, higher is nearer.

    Args:
        images: ``(B, C, H, W)`` in [0, 1].
        target: the same.

    Returns:
        ``(B,)`` float64, infinite for equal images.
    """
    error = _exact(images - target).square().mean((1, 2, 3))
    return -10 * torch.log10(error)


def ssim(images: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004), 1 for equal images.

    With a uniform 7x7 window, sample covariances and the mean over channels and over all places
    where the window fits: scikit-image's defaults, which maskgit-pytorch's scores use.

    Args:
        images: ``(B, C, H, W)`` in [0, 1], sides of at least 7.
        target: the same.

    Returns:
        ``(B,)`` float64.
    """
    x, y = _exact(images), _exact(target)
    mean_x, mean_y = _windowed(x), _windowed(y)
    sample = WINDOW**2 / (WINDOW**2 - 1)
    var_x = sample * (_windowed(x * x) - mean_x.square())
    var_y = sample * (_windowed(y * y) - mean_y.square())
    covariance = sample * (_windowed(x * y) - mean_x * mean_y)
    likeness = (2 * mean_x * mean_y + K1**2) * (2 * covariance + K2**2)
    scale = (mean_x.square() + mean_y.square() + K1**2) * (var_x + var_y + K2**2)
    return (likeness / scale).mean((1, 2, 3))


def _exact(values: Tensor) -> Tensor:
    """Values as float64, moved to the CPU if an accelerator has no such type."""
    try:
        return values.double()
    except TypeError:
        return values.cpu().double()


def _windowed(values: Tensor) -> Tensor:
    return F.avg_pool2d(values, WINDOW, stride=1)
