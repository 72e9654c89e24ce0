"""What all tokenizers share, of codes and of latents: two networks with images at their ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Annotated, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from unmask.checkpoints.store import load_state
from unmask.errors import InputError
from unmask.image_size import ImageSize
from unmask.memory import skeleton
from unmask.ranges import Between, Length, Ranged
from unmask.tokenizers.tokenizer import from_native, grid_of, to_native, weights_identity

Made = TypeVar("Made", bound="ImageTokenizer")

MOST_LEVELS = 12
Widths = Annotated[tuple[int, ...], Between(1, 2**14), Length(1, MOST_LEVELS)]
BlockCounts = Annotated[tuple[int, ...], Between(0, 100), Length(1, MOST_LEVELS)]
Levels = Annotated[tuple[int, ...], Between(0, MOST_LEVELS - 1), Length(0, MOST_LEVELS)]


@dataclass(frozen=True, kw_only=True)
class ImageConfig(Ranged):
    """What the sizes of every family tell."""

    image_channels: Annotated[int, Between(1, 3)] = 3
    """1 for grey, 3 for colour."""

    def __post_init__(self) -> None:
        """Reject channels that no image has."""
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


class ImageTokenizer(nn.Module):
    """An encoder and a decoder, and what is between them.

    A family's ``__init__`` sets ``encoder`` and ``decoder``, the parts in the order of the weights
    in :attr:`identity`. Maps are kept with their channels last in memory, in which convolutions on
    CPUs and on tensor cores are faster: one such input, or one such weight, hands the order on to
    every later map.
    """

    family: ClassVar[str]
    """Names the class in ``config.json``."""
    makes: ClassVar[str]
    """What its tokens are, for messages."""
    config: ImageConfig
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.stride = config.stride
        self.image_channels = config.image_channels
        self.native_range = config.native_range

    @property
    def identity(self) -> str:
        """Sixteen hexadecimal digits of configuration and weights, computed on each access."""
        told = {"family": self.family, **asdict(self.config)}
        if told.get("patch_size") == 1:  # as it was before there were others
            del told["patch_size"]
        config = json.dumps(told, sort_keys=True)
        return weights_identity(config, self.deciding())

    def deciding(self) -> Iterable[tuple[str, Tensor]]:
        """Names and tensors on which the outcome depends."""
        return self.named_parameters()

    def grid(self, image_size: ImageSize) -> tuple[int, int]:
        """Rows and columns of tokens of an image; InputError off the stride."""
        return grid_of(image_size, self.stride)

    def look(self, images: Tensor) -> Tensor:
        """The encoder's map ``(B, D, h, w)`` of ``(B, C, H, W)`` images in [0, 1]; unchecked."""
        native = to_native(images, self.native_range)
        return self.encoder(native.contiguous(memory_format=torch.channels_last))

    def paint(self, values: Tensor) -> Tensor:
        """The decoder's images of a map ``(B, D, h, w)``, on the scale of [0, 1], unclamped."""
        made = self.decoder(values.contiguous(memory_format=torch.channels_last))
        return from_native(made, self.native_range)


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


def channels_last(network: nn.Module) -> None:
    """Turn the weights of convolutions to the order in memory in which they are fastest."""
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in its stub
