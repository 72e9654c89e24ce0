"""What a VQ tokenizer minimises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.tokenizers.discriminator import PatchDiscriminator, fooling_loss, judging_loss
from unmask.tokenizers.perceptual import PerceptualDistance
from unmask.tokenizers.quantizer import perplexity
from unmask.tokenizers.vq_tokenizer import VQTokenizer


@dataclass(frozen=True, kw_only=True)
class VQLoss:
    """Weights of the parts, and the care of dead codes."""

    l1: float = 1.0
    """Mean absolute difference of pixels in [0, 1]."""
    l2: float = 0.0
    """Mean squared difference of pixels in [0, 1]."""
    codebook: float = 1.0
    """Pulls codes to the latents that chose them."""
    commitment: float = 0.25
    """Pulls latents to their codes."""
    perceptual: float = 0.0
    """Distance of EfficientNet-lite0 features; above 0 a step takes several times as long."""
    adversarial: float = 0.0
    """The tokenizer's share in the game with a patch discriminator; 0 builds none. A constant:
    VQGAN's adaptive weight needs a second backward."""
    adversarial_start: int = 0
    """Steps before the game starts."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer."""
    revive_every: int = 20
    """Steps between revivals of dead codes; 0 means never."""
    patience: int = 20
    """Steps without use after which a code is dead."""

    def __post_init__(self) -> None:
        """Reject weights that minimise nothing or push the wrong way."""
        names = ("l1", "l2", "codebook", "commitment", "perceptual", "adversarial")
        for name in (*names, "adversarial_start", "revive_every"):
            if getattr(self, name) < 0:
                raise InputError(f"loss.{name}={getattr(self, name)} must be at least 0")
        if self.l1 == self.l2 == self.perceptual == 0:
            raise InputError("loss.l1, l2 and perceptual are all 0; give one a weight above 0")
        if self.patience < 1:
            raise InputError(f"loss.patience={self.patience} must be at least 1")


class VQObjective(nn.Module):
    """The loss of a tokenizer, and of its discriminator where there is one, in one number.

    One optimiser and one backward serve both players: each one's term holds the other's part
    constant, so their gradients are those of two separate losses (VQGAN, arXiv 2012.09841,
    eq. 4-6). They share learning rate, step count and gradient clipping.

    Args:
        tokenizer: what is trained.
        options: weights of the parts.
        batch_size: images of a whole step over all processes and micro-batches. A micro-batch's
            loss carries its share of them, so that the sum over a step is the mean over its images.
    """

    progress: Tensor

    def __init__(
        self, tokenizer: VQTokenizer, options: VQLoss | None = None, *, batch_size: int
    ) -> None:
        super().__init__()
        self.options = options or VQLoss()
        self.averaged = tokenizer
        self.batch_size = batch_size
        self.perceptual = PerceptualDistance() if self.options.perceptual else None
        self.discriminator = (
            PatchDiscriminator(tokenizer.image_channels, width=self.options.discriminator_width)
            if self.options.adversarial
            else None
        )
        self.register_buffer("progress", torch.zeros((), dtype=torch.int64))
        self._seen: list[tuple[Tensor, Tensor]] = []  # latents and ids since the last step

    def forward(self, batch: tuple[Tensor, Tensor | None]) -> dict[str, Tensor]:
        """The loss of one micro-batch and the parts to log.

        Args:
            batch: images ``(b, C, S, S)`` uint8, and labels, which are not looked at.

        Returns:
            "loss" with gradient; every other entry a detached scalar. All carry the micro-batch's
            share of the step, so that they too add up to means ("perplexity" to the mean of the
            micro-batches' own).
        """
        images = batch[0].float() / 255
        tokenizer: VQTokenizer = self.averaged
        output = tokenizer(images)
        quantized = output.quantized
        if self.training:
            self._seen.append((output.latents.detach(), quantized.ids))
        parts = {
            **self._picture_terms(output.images.float(), images),
            "codebook": self.options.codebook * quantized.codebook_loss,
            "commitment": self.options.commitment * quantized.commitment_loss,
        }
        error = F.mse_loss(output.images.detach().float().clamp(0, 1), images)
        figures = {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: value.detach() for name, value in parts.items()},
            "psnr": -10 * torch.log10(error.clamp_min(1e-10)),
            "perplexity": perplexity(quantized.ids, tokenizer.codes),
        }
        share = len(images) / self.batch_size
        return {name: value * share for name, value in figures.items()}

    def _picture_terms(self, made: Tensor, images: Tensor) -> dict[str, Tensor]:
        options = self.options
        terms: dict[str, Tensor] = {}
        if options.l1:
            terms["l1"] = options.l1 * F.l1_loss(made, images)
        if options.l2:
            terms["l2"] = options.l2 * F.mse_loss(made, images)
        if self.perceptual is not None:
            terms["perceptual"] = options.perceptual * self.perceptual(made, images)
        if self.discriminator is not None:
            playing = (self.progress >= options.adversarial_start).float()
            fool = fooling_loss(self.discriminator, made)
            terms["fool"] = playing * options.adversarial * fool
            terms["judge"] = playing * judging_loss(self.discriminator, images, made)
        return terms

    @torch.no_grad()
    def after_step(self, step: int, generator: torch.Generator) -> None:
        """Count the codes that the step used and, every so often, revive the dead ones.

        Every process calls it after every step, with equal generators. Use is counted over all
        processes and the first one's latents replace dead codes everywhere, so that the copies of
        the codebook stay equal.

        Args:
            step: 0-based index of the step just made.
            generator: stream of this step.
        """
        quantizer = self.averaged.quantizer
        used = torch.zeros_like(quantizer.idle, dtype=torch.uint8)
        for _, ids in self._seen:
            used[ids.flatten()] = 1
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(used, op=dist.ReduceOp.MAX)
        quantizer.track(used.bool())
        if self._seen and self.options.revive_every and step % self.options.revive_every == 0:
            latents = self._seen[-1][0].float().reshape(-1, quantizer.dim).contiguous()
            if dist.is_available() and dist.is_initialized():
                dist.broadcast(latents, src=0)
            quantizer.revive(latents, generator, patience=self.options.patience)
        self._seen.clear()
        self.progress.fill_(step + 1)
