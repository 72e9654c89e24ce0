"""Pictures of every mode as grey or colour of 8 bits, with white beneath what is transparent."""

from __future__ import annotations

import numpy as np
from PIL import Image

from unmask.errors import InputError

GREY = ("1", "L", "LA", "La")
DEEP = ("I", "F")  # whole numbers and floats of more than 8 bits
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, scanners and screens have
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0
DARKEST = 64  # of floats beyond 1, whose brightest pixel must be at least this bright in [0, 255]


def flattened(image: Image.Image) -> Image.Image:
    """Grey ("L") or colour ("RGB"); what is so already is given back as it is.

    Deep pixels are brought to 8 bits. Where the file does not state their depth, it is the least of
    8, 10, 12, 14 and 16 bits that holds the brightest one, and the high bits are kept; floats are
    in [0, 1] or, if the brightest is 64 or more, in [0, 255].

    Raises:
        InputError: negative pixels, NaN, or a brightest pixel that fits none of these.
    """
    if image.mode.startswith(DEEP):
        return _shallow(image)
    grey = is_grey(image)
    if _transparent(image):
        image = _over_white(image)
    mode = "L" if grey else "RGB"
    return image if image.mode == mode else image.convert(mode)


def is_grey(image: Image.Image) -> bool:
    """Whether a picture has no colours, by its mode."""
    return image.mode in GREY or image.mode.startswith(DEEP)


def _transparent(image: Image.Image) -> bool:
    palette = image.palette
    return (
        image.getbands()[-1] in ("A", "a")
        or "transparency" in image.info
        or (palette is not None and palette.mode.endswith("A"))
    )


def _over_white(image: Image.Image) -> Image.Image:
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    key = image.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # 16 bits, of which Pillow keeps the high byte
        image = image.copy()
        image.info["transparency"] = tuple(part >> 8 for part in key)
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)


def _shallow(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if values.dtype.kind == "f":
        pixels = _of_floats(values)
    else:
        pixels = _of_integers(values.astype(np.int64), tags.get(BITS_PER_SAMPLE))
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        pixels = 255 - pixels
    if (clear := image.info.get("transparency")) is not None:
        pixels = np.where(values == clear, 255, pixels)
    return Image.fromarray(pixels.astype(np.uint8))


def _of_integers(values: np.ndarray, stated: tuple[int, ...] | None) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    depths = [stated[0]] if stated and stated[0] in DEPTHS[:-1] else DEPTHS
    depth = next((bits for bits in depths if high < 2**bits), None)
    if low < 0 or depth is None:
        raise InputError(
            f"whole numbers from {low} to {high} have no known white; convert it to 8 or 16 bits"
        )
    return values >> (depth - 8)


def _of_floats(values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and (high <= 1 or DARKEST <= high <= 255)):
        raise InputError(
            f"floats from {low:g} to {high:g} are neither in [0, 1] nor in [0, 255]; "
            "convert it to 8 or 16 bits"
        )
    return np.floor(values * (255 if high <= 1 else 1) + 0.5)
