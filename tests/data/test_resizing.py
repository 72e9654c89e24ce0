import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.resizing import MOST, resized_part
from unmask.data.transform import BOXES, RANDOM, STILL, Transform

BICUBIC = Image.Resampling.BICUBIC


def picture(height: int, width: int) -> Image.Image:
    """Neither black nor white, so that nothing is cut off between the two directions."""
    pixels = np.random.default_rng(height + width).integers(90, 160, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("whole", [(40, 30), (80, 60), (13, 7), (300, 20)])
def test_a_part_is_what_the_whole_shows_there(whole):
    image, (width, height) = picture(30, 40), whole
    for top, left in ((0, 0), (height - 5, width - 6), (1, 2)):
        part = resized_part(image, whole, (5, 6), top=top, left=left)
        shown = image.resize(whole, BICUBIC).crop((left, top, left + 6, top + 5))
        assert np.abs(np.asarray(part).astype(int) - np.asarray(shown)).max() <= 1


@pytest.mark.parametrize("shape", [(2, 200), (200, 2), (1, 500)])
def test_parts_of_a_strip_are_computed_alone_and_agree_with_the_whole(shape):
    image = picture(*shape)
    scale = 24 / min(shape)
    width, height = round(image.width * scale), round(image.height * scale)
    assert width * height > MOST * 24 * 24
    whole = image.resize((width, height), BICUBIC)
    for share in (0, 0.3, 0.77, 1):
        top, left = round((height - 24) * share), round((width - 24) * share)
        part = resized_part(image, (width, height), 24, top=top, left=left)
        shown = whole.crop((left, top, left + 24, top + 24))
        assert np.abs(np.asarray(part).astype(int) - np.asarray(shown)).max() <= 2


@pytest.mark.parametrize("crop", [*STILL, *RANDOM, *BOXES])
@pytest.mark.parametrize("size", [(1, 65_000), (65_000, 1), (3, 30_000)])
def test_a_very_thin_picture_costs_no_more_than_its_crop(crop, size):
    image, seen = Image.new("RGB", size, (10, 200, 30)), []
    resize = Image.Image.resize

    def watched(self, size, *rest, **more):
        seen.append(size[0] * size[1])
        return resize(self, size, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        made = Transform(size=64, crop=crop)(image, torch.Generator().manual_seed(0))
    assert max(seen) <= max(MOST * 64 * 64, size[0] * size[1])
    assert (made == torch.tensor([10, 200, 30], dtype=torch.uint8).view(3, 1, 1)).all()
