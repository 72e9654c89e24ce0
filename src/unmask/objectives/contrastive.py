"""MAGE-C: masked prediction, and features that tell images apart (arXiv 2211.09117, section 3.3).

Two views of an image should have like features, those of other images unlike ones: InfoNCE on the
mean of what the encoder says, behind a small network that is thrown away afterwards. Certain from
the paper: the weight 0.1, mean pooling, two layers, views by crop and mirror alone. Its code was
never published; what else had to be chosen is an option of :class:`Contrastive`.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.nn.model import MaskedModel
from unmask.nn.positions import take
from unmask.objectives.masked import LocatedBatch, MaskedObjective
from unmask.recipes.objectives import Contrastive
from unmask.types import Canvas, Hidden


def info_nce(
    first: Tensor,
    second: Tensor,
    temperature: float,
    *,
    negatives: Literal["other", "both"] = "other",
) -> Tensor:
    """Mean over both views of -log(exp(z z+ / tau) / sum over candidates of exp(z z' / tau)).

    Args:
        first: ``(B, E)`` unit vectors.
        second: ``(B, E)`` of the other views, in the same order.
        temperature: tau.
        negatives: see :class:`Contrastive`.

    Returns:
        A scalar.
    """
    size, every = len(first), torch.cat([first, second])  # (2 B, E)
    partner = torch.arange(2 * size, device=every.device).roll(size)  # (2 B,)
    logits = every @ every.T / temperature  # (2 B, 2 B)
    if negatives == "both":
        return F.cross_entropy(logits.fill_diagonal_(-torch.inf), partner)
    across = torch.cat([logits[:size, size:], logits[size:, :size]])  # (2 B, B)
    return F.cross_entropy(across, partner % size)


def of_all_processes(features: Tensor) -> Tensor:
    """``(n, E)`` of every process, by rank; gradients flow to this process's own alone."""
    if not dist.is_initialized():
        return features
    parts = [torch.empty_like(features) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, features.detach().contiguous())
    parts[dist.get_rank()] = features
    return torch.cat(parts)


class ContrastiveObjective(MaskedObjective):
    """The masked loss of both views, plus ``weight`` times InfoNCE between them.

    Negatives are the images of the whole batch, over all processes, or of one micro-batch of it
    where gradients are accumulated.

    Args:
        model: with an encoder of its own (MAGE).
        options: see :class:`Contrastive`.
        generator: initial weights of the two layers.
        batch_size: images of the whole batch. A micro-batch counts by its share of them.
        label_smoothing: share of the target spread over all codes, in [0, 1).
    """

    def __init__(
        self,
        model: MaskedModel,
        options: Contrastive,
        *,
        generator: torch.Generator,
        batch_size: int,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(model, label_smoothing=label_smoothing)
        assert isinstance(model.trunk, EncoderDecoder), "features are those of an encoder"
        self.options, self.batch_size = options, batch_size
        width = model.trunk.join.in_features
        self.project = nn.Sequential(
            nn.Linear(width, options.hidden), nn.GELU(), nn.Linear(options.hidden, options.outputs)
        )
        for layer in self.project:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)

    def losses(self, model: MaskedModel, located: LocatedBatch) -> dict[str, Tensor]:
        """ "loss", "masked" and "contrast"; rows i and b + i of 2 b are views of one image."""
        examples, trunk = located.batch, model.trunk
        assert isinstance(trunk, EncoderDecoder)
        canvas = Canvas(examples.tokens, examples.masked, examples.kept)
        x, prefix = model.embed(canvas, None)  # (2 b, P + L, D)
        kept = trunk.kept(canvas)
        encoded = trunk.encode(x if kept is None else take(x, kept), canvas.masked)
        read = None if located.read is None else located.read + prefix
        x = trunk.decode(encoded, kept, canvas.masked, read)
        before = prefix if read is None else 0
        masked = self.weigh(model, Hidden(x[:, :before], x[:, before:]), located)
        contrast = self.contrast(encoded[:, prefix if self.options.pool == "image" else 0 :])
        return {"loss": masked + contrast, "masked": masked, "contrast": contrast}

    def contrast(self, encoded: Tensor) -> Tensor:
        """``(2 b, N, D)`` to this process's share of the weighted InfoNCE.

        Every process computes the loss of all, of which only its own features carry gradients: the
        gradients of all processes add up to that of the whole, and so do the shares.
        """
        features = F.normalize(self.project(encoded.mean(1)).float(), dim=-1)  # (2 b, E)
        first, second = map(of_all_processes, features.chunk(2))  # (B, E) of all processes
        options = self.options
        loss = info_nce(first, second, options.temperature, negatives=options.negatives)
        loss = loss * options.weight * len(first) / self.batch_size
        others = 1 - len(features) / (len(first) + len(second))  # share of the other processes
        return loss - others * loss.detach()  # its value is this process's share, its gradient all
