"""From the bytes of an image file to grey or colour of 8 bits, white beneath what is transparent.

Every way of being damaged ends in one error.
Training, caches, evaluation, probe and editing all read pictures through :func:`decode_image`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from unmask.errors import InputError
from unmask.files.damage import DAMAGE, reason

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
PNG = b"\x89PNG\r\n\x1a\n"
PNG_NOTES = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")  # colour profile and texts
RUNS_PROGRAMS = ("EPS",)  # formats that Pillow hands to another program
UPRIGHT = {  # by EXIF's orientation, as its standard (CIPA DC-008, 4.6.5) has it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = 5  # the first of the orientations that change width and height
GREY = ("1", "L", "LA", "La")
DEEP = ("I", "F")  # whole numbers and floats of more than 8 bits
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras, scanners and screens have
BITS_PER_SAMPLE, PHOTOMETRIC = 258, 262  # tags of TIFF
WHITE_IS_ZERO = 0
DARKEST = 64  # of floats beyond 1, whose brightest pixel must be at least this bright in [0, 255]

# Damaged notes are no news, the picture stands as it lies in its file; nor is a large picture.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


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


@contextmanager
def reading(key: str, damage: tuple[type[Exception], ...] = (OSError,)) -> Iterator[None]:
    """Turn what reading one image raises into an error that names it."""
    try:
        yield
    except UnreadableImageError:
        raise
    except damage as error:
        raise UnreadableImageError(key, reason(error)) from error


def is_image_name(name: str) -> bool:
    """Whether a file name has an image extension and is not hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def decode_image(content: bytes, key: str) -> Image.Image:
    """The picture of a file's bytes, upright, as grey ("L") or colour ("RGB") of 8 bits.

    What is transparent shows white; deep pixels are scaled as :func:`flattened` says; of several
    frames it is the first.

    Raises:
        UnreadableImageError: truncated, empty, absurdly large, of unknown depth or not an image.
    """
    try:
        image = _loaded(content)
        turned = UPRIGHT.get(_orientation(image))
        flat = flattened(image)
        return flat if turned is None else flat.transpose(turned)
    except (*DAMAGE, Image.DecompressionBombError) as error:
        # Pillow names the buffer's address, which says nothing and differs from run to run.
        said = "not an image" if "cannot identify" in str(error) else reason(error)
        raise UnreadableImageError(key, said) from error


def picture_shape(file: Path) -> tuple[int, int, int] | None:
    """Channels, height and width of the picture in a file, by its header alone.

    None where not even that can be read; the pixels may still turn out damaged.
    """
    try:
        with Image.open(file) as image:
            # Pillow turns TIFF by itself, while it loads the pixels, and tells the size after it.
            turned = image.format != "TIFF" and _orientation(image) >= LYING
            width, height = image.size[::-1] if turned else image.size
            return (1 if is_grey(image) else 3), height, width
    except (*DAMAGE, Image.DecompressionBombError):
        return None


def _loaded(content: bytes) -> Image.Image:
    try:
        return _opened(content)
    except ValueError:
        # Pillow limits what a PNG may carry beside its pixels; none of it is needed.
        bare = b"".join(_without_notes(content))
        if len(bare) == len(content):
            raise
        return _opened(bare)


def _opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    if image.format in RUNS_PROGRAMS:
        raise ValueError(f"{image.format} files are programs")
    image.load()
    if not (image.width and image.height):
        raise ValueError("it has no pixels")
    return image


def _without_notes(content: bytes) -> Iterator[bytes]:
    """The parts of a PNG file without its profile and texts; of other files, the whole."""
    start = len(PNG) if content.startswith(PNG) else len(content)
    yield content[:start]
    while start < len(content):
        end = start + int.from_bytes(content[start : start + 4], "big") + 12
        if content[start + 4 : start + 8] not in PNG_NOTES:
            yield content[start:end]
        start = end


def _orientation(image: Image.Image) -> int:
    """As EXIF has it; 1, which is upright, where that is missing or damaged."""
    try:
        # Of PNG the method of its own would decode the pixels to look behind them.
        found = int(Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1))
    except DAMAGE:
        return 1
    return found if found in UPRIGHT else 1


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
