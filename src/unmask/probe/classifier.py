"""An encoder with a head that names classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.probe.encoder import Encoder

PROBE_DEVIATION, FINETUNE_DEVIATION = 0.01, 2e-5  # of the published heads' first weights


class TokenClassifier(nn.Module):
    """Codes to class scores.

    Args:
        encoder: codes to features.
        head: features to scores; without one there are none yet.
    """

    def __init__(self, encoder: Encoder, head: nn.Module | None = None) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, codes: Tensor) -> Tensor:
        """``(B, L)`` int64 codes to ``(B, K)`` scores."""
        assert self.head is not None, "an encoder without a head names no classes"
        return self.head(self.encoder(codes))

    @property
    def classes(self) -> int:
        """K; 0 without a head."""
        return 0 if self.head is None else last_layer(self.head).out_features


def build_head(width: int, classes: int, *, normed: bool) -> nn.Module:
    """A linear head, or the probe's, which first normalises features over the batch.

    MAGE, ``models_vit_mage.py`` and ``main_linprobe.py``. The statistics are of each process's own
    micro-batch, as published.
    """
    linear = nn.Linear(width, classes)
    return (
        nn.Sequential(nn.BatchNorm1d(width, eps=1e-6, affine=False), linear) if normed else linear
    )


def last_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that ends every head."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear), "every head ends in a linear layer"
    return last


def initialize_head(head: nn.Module, generator: torch.Generator) -> None:
    """Weights normal with the published deviation and cut at +-2 (an absolute bound), biases 0."""
    deviation = PROBE_DEVIATION if isinstance(head, nn.Sequential) else FINETUNE_DEVIATION
    nn.init.trunc_normal_(last_layer(head).weight, std=deviation, generator=generator)
    nn.init.zeros_(last_layer(head).bias)
