"""From the bytes of an image file to pixels; every way of being damaged ends in one error."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image

from unmask.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# What Pillow's decoders raise on damaged files; its UnidentifiedImageError is an OSError.
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


class UnreadableImageError(InputError):
    """One image that cannot be decoded; training and caching replace or skip it.

    Args:
        key: which image, as its source calls it.
        reason: what the decoder said.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key} cannot be read as an image ({reason}); replace or remove it")
        self.key = key
        self.reason = reason

    def __reduce__(self) -> tuple[type[UnreadableImageError], tuple[str, str]]:
        """Rebuild from both arguments when a worker process sends it."""
        return UnreadableImageError, (self.key, self.reason)


def is_image_name(name: str) -> bool:
    """Whether a file name has an image extension and is not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def decode_image(content: bytes, key: str) -> Image.Image:
    """The fully loaded image of a file's bytes, in its own mode and size.

    Raises:
        UnreadableImageError: truncated, empty, absurdly large or not an image.
    """
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (*DAMAGE, Image.DecompressionBombError) as error:
        # Pillow names the buffer's address, which says nothing and differs from run to run.
        reason = "not an image" if "cannot identify" in str(error) else str(error)
        raise UnreadableImageError(key, reason) from error
    return image
