"""Parts of resized images, in memory that the image and the part bound."""

from __future__ import annotations

from PIL import Image

from unmask.image_size import ImageSize, height_width

MOST = 16  # parts that a resized image may be as large as, if it is larger than the image was


def resized_part(
    image: Image.Image,
    whole: tuple[int, int],
    size: ImageSize,
    *,
    top: int,
    left: int,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """What ``image.resize(whole)`` shows from ``(top, left)`` on, ``size`` large.

    A strip of 1 x 65,000 pixels, enlarged to a short side of 256, would have four billion. Of such
    images only the part is computed, which may differ by what is rounded or cut off to a byte
    between the two directions.

    Args:
        image: any size.
        whole: width and height of the whole, resized.
        size: of the part.
        top: first row of the part in the whole.
        left: first column.
        resample: the filter.
    """
    high, wide = height_width(size)
    width, height = whole
    if width * height <= max(image.width * image.height, MOST * high * wide):
        return image.resize(whole, resample).crop((left, top, left + wide, top + high))
    across, down = image.width / width, image.height / height
    right, bottom = min(left + wide, width) * across, min(top + high, height) * down
    box = (left * across, top * down, min(right, image.width), min(bottom, image.height))
    return image.resize((wide, high), resample, box=box)
