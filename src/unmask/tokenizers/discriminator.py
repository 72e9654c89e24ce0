"""A patch discriminator, and the two losses of its game."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call


class PatchDiscriminator(nn.Module):
    """Scores overlapping patches of an image as real or not.

    PatchGAN (arXiv 1611.07004, sec. 3.2.2) with GroupNorm in place of BatchNorm, so that a score
    depends on its own image alone and real and reconstructed images need not share a batch.

    Args:
        channels: image channels.
        width: channels after the first convolution; doubles with every layer, at most 8 times.
        layers: stride-2 convolutions; a score sees about ``2**(layers + 2)`` pixels a side.
    """

    def __init__(self, channels: int, *, width: int = 32, layers: int = 2) -> None:
        super().__init__()
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, stride=2, padding=1)]
        now = width
        for layer in range(1, layers):
            wide = width * min(2**layer, 8)
            stack += [nn.LeakyReLU(0.2), nn.Conv2d(now, wide, 4, stride=2, padding=1)]
            stack += [nn.GroupNorm(max(1, wide // 8), wide)]
            now = wide
        self.stack = nn.Sequential(*stack, nn.LeakyReLU(0.2), nn.Conv2d(now, 1, 3, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to scores ``(B, 1, h, w)``, high for real."""
        return self.stack(images * 2 - 1)


def fooling_loss(discriminator: nn.Module, images: Tensor) -> Tensor:
    """What the tokenizer minimises: minus the mean score of its reconstructions.

    The discriminator's weights take part as constants, so that one backward serves both players.

    Args:
        discriminator: scores images.
        images: ``(B, C, H, W)`` reconstructions, with gradient.

    Returns:
        Scalar.
    """
    constants = {name: value.detach() for name, value in discriminator.named_parameters()}
    return -functional_call(discriminator, constants, (images,)).mean()


def judging_loss(discriminator: nn.Module, real: Tensor, images: Tensor) -> Tensor:
    """What the discriminator minimises: the hinge loss (VQGAN's published code).

    Args:
        discriminator: scores images.
        real: ``(B, C, H, W)``.
        images: ``(B, C, H, W)`` reconstructions; no gradient reaches them.

    Returns:
        Scalar.
    """
    good = F.relu(1 - discriminator(real)).mean()
    bad = F.relu(1 + discriminator(images.detach())).mean()
    return 0.5 * (good + bad)
