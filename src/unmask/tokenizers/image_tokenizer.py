"""What all tokenizers of this library share: an encoder, a decoder, and what is between them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from unmask.checkpoints.store import load_state
from unmask.errors import InputError
from unmask.image_size import ImageSize
from unmask.memory import skeleton
from unmask.networks.sizes import Space
from unmask.ranges import Between, Length, Ranged
from unmask.tokenizers.tokenizer import (
    check_images,
    from_native,
    grid_of,
    to_native,
    weights_identity,
)

Made = TypeVar("Made", bound="ImageTokenizer")
Seen = list[tuple[Tensor, Tensor]]
"""Latents ``(b, h, w, D)`` and codes ``(b, h, w)`` of the micro-batches of a training step."""

MOST_PIXELS = 1 << 20  # of images that are decoded together; each takes about 2.5 kB meanwhile
MOST_LEVELS = 12
Widths = Annotated[tuple[int, ...], Between(1, 2**14), Length(1, MOST_LEVELS)]
BlockCounts = Annotated[tuple[int, ...], Between(0, 100), Length(1, MOST_LEVELS)]
Levels = Annotated[tuple[int, ...], Between(0, MOST_LEVELS - 1), Length(0, MOST_LEVELS)]


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Ranged):
    """Sizes that every family of tokenizers has."""

    image_channels: Annotated[int, Between(1, 3)] = 3
    """Channels of the images: 1 for grey, 3 for colour."""

    def __post_init__(self) -> None:
        """Reject two channels, which no image has."""
        super().__post_init__()
        if self.image_channels == 2:
            raise InputError(f"image_channels={self.image_channels}: wanted is 1 or 3")

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        raise NotImplementedError

    @property
    def native_range(self) -> tuple[float, float]:
        """Values that the network sees in place of 0 and 1."""
        return (-1.0, 1.0)

    def build(self) -> ImageTokenizer:
        """The tokenizer of these sizes, with random weights."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class LevelConfig(ImageConfig):
    """Sizes of networks that halve the picture from level to level."""

    widths: Widths = (128, 128, 256, 256, 512)
    """Channels at each level, finest first; the stride is 2**(levels-1)."""

    @property
    def stride(self) -> int:
        """Pixels along one side of a token's patch."""
        return 1 << (len(self.widths) - 1)

    def check_attention(self, levels: tuple[int, ...]) -> None:
        """Refuse attention at a level that is not there.

        Raises:
            InputError: naming the levels.
        """
        if any(not 0 <= level < len(self.widths) for level in levels):
            raise InputError(f"attention={levels} names a level not in widths")


class Reconstruction(NamedTuple):
    """Images after one pass through a tokenizer in training, with gradients.

    Args:
        images: ``(B, C, H, W)`` on the scale of [0, 1], not clamped.
        penalties: Scalars that the bottleneck adds to the loss, each by the name of its weight.
        figures: Scalars that are only logged, by name.
        latents: Input of the bottleneck: ``(B, h, w, D)`` vectors to quantise, or ``(B, 2C, h, w)``
            moments.
        ids: ``(B, h, w)`` codes that were chosen; None where there is no codebook.
    """

    images: Tensor
    penalties: dict[str, Tensor]
    figures: dict[str, Tensor]
    latents: Tensor
    ids: Tensor | None = None


class ImageTokenizer(nn.Module):
    """A ``Tokenizer`` of two networks and a bottleneck, which a family's class builds.

    A family's ``__init__`` sets ``encoder`` and ``decoder``, the parts in the order of the weights
    in :attr:`identity`. Maps are kept with their channels last in memory, in which convolutions on
    CPUs and on tensor cores are faster: one such input, or one such weight, hands the order on to
    every later map.

    Encode in float32, without autocast, to get the tokens that published models were trained on.
    """

    family: ClassVar[str]
    """Names the family in ``config.json``; see :data:`unmask.tokenizers.folder.FAMILIES`."""
    moment_channels: int = 0
    """M, numbers stored for a token of latents; 0 for codes."""
    scale: float = 1.0
    """Factor from the decoder's latents to tokens."""
    config: Any
    """Sizes, an :class:`ImageConfig`."""
    space: Space
    """What a token is: ("codes", V) or ("channels", C)."""
    encoder: nn.Module
    """Images in the native range to ``(B, D, h, w)``."""
    decoder: nn.Module
    """``(B, D, h, w)`` to images in the native range."""

    def __init__(self, config: ImageConfig, space: Space) -> None:
        super().__init__()
        self.config, self.space = config, space
        self.stride = config.stride
        self.image_channels = config.image_channels
        self.native_range = config.native_range

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of configuration and weights, computed on each access."""
        config = {"family": self.family, **asdict(self.config)}
        if config.get("patch_size") == 1:  # as it was before there were others
            del config["patch_size"]
        return weights_identity(json.dumps(config, sort_keys=True), self.decisive())

    def decisive(self) -> Iterable[tuple[str, Tensor]]:
        """Names and tensors on which codes, latents and images depend."""
        return self.named_parameters()

    def grid(self, image_size: ImageSize) -> tuple[int, int]:
        """Rows and columns of tokens of an image; InputError off the stride."""
        return grid_of(image_size, self.stride)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """What is stored of ``(B, C, H, W)`` images of any float in [0, 1].

        Raises:
            InputError: wrong channels, a side off the stride, or values outside [0, 1].
        """
        check_images(images, channels=self.image_channels, stride=self.stride)
        stored = self.infer(images.float())
        return stored.float() if stored.is_floating_point() else stored

    def infer(self, images: Tensor) -> Tensor:
        """What :meth:`encode` gives, with gradients where there are any and without checks."""
        raise NotImplementedError

    def tokens(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        """What a generator learns; see :meth:`unmask.tokenizers.tokenizer.Tokenizer.tokens`."""
        return stored

    @torch.no_grad()
    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """``(B, L)`` codes or ``(B, L, C)`` latents to ``(B, C, H, W)`` float32 in [0, 1].

        Raises:
            InputError: tokens that are none of this tokenizer, or do not fill the grid.
        """
        pixels = tokens.shape[1:2].numel() * self.stride**2
        parts = tokens.split(max(2, MOST_PIXELS // pixels))
        made = [self.render(self.vectors(part, grid)).float().clamp(0, 1) for part in parts]
        return torch.cat(made)

    def vectors(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """Tokens as the decoder takes them: what :meth:`render` makes images of."""
        raise NotImplementedError

    def render(self, values: Tensor) -> Tensor:
        """Images on the scale of [0, 1], not clamped, of what the bottleneck hands on."""
        raise NotImplementedError

    def reconstruct(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` images in [0, 1] as they come back, latents by their mean.

        Raises:
            InputError: see :meth:`encode`.
        """
        tokens = self.tokens(self.encode(images))  # (B, L[, C])
        return self.decode(tokens, self.grid((images.shape[-2], images.shape[-1])))

    def encode_map(self, images: Tensor) -> Tensor:
        """The encoder's map ``(B, D, h, w)`` of ``(B, C, H, W)`` images in [0, 1]; unchecked."""
        return self.encoder(_for(self.encoder, to_native(images, self.native_range)))

    def decode_map(self, values: Tensor) -> Tensor:
        """The decoder's images of a map ``(B, D, h, w)``, on the scale of [0, 1], unclamped."""
        return from_native(self.decoder(_for(self.decoder, values)), self.native_range)

    def resized_for(self, space: Space) -> ImageTokenizer:
        """The tokenizer whose tokens are what a network reads, where it only has to group latents.

        Any other difference is left to whoever puts both together and says what does not fit.
        """
        return self

    def after_step(self, seen: Seen, generator: torch.Generator | None, patience: int) -> None:
        """Look after the bottleneck once a training step is made.

        Args:
            seen: latents and ids of this process's micro-batches, where there are codes.
            generator: revives dead codes; None lets them be.
            patience: steps without use after which a code is dead.
        """


def filled(
    build: Callable[[], Made], state: dict[str, Tensor], origin: str = "the weights"
) -> Made:
    """A tokenizer with these weights, in evaluation mode, frozen.

    Args:
        build: makes it; called where tensors are on the meta device.
        state: by our names; it is emptied, so that no weight is held twice while its order in
            memory changes.
        origin: file, named in errors.

    Raises:
        InputError: when the weights do not fill it exactly.
    """
    with skeleton():
        made = build()
    load_state(made, state, origin)
    state.clear()
    channels_last(made)
    return made.eval().requires_grad_(False)


def _for(network: nn.Module, values: Tensor) -> Tensor:
    """A map ``(B, D, h, w)`` in the type and the order in memory that a network takes."""
    dtype = next(network.parameters(), values).dtype  # patches of pixels have no weights
    return values.to(dtype).contiguous(memory_format=torch.channels_last)


def channels_last(network: nn.Module) -> None:
    """Turn the weights of convolutions to the order in memory in which they are fastest."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
