"""Against torchvision's rules, written down from its documentation and sources' settings."""

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.bilinear_crop import (
    bilinear_center_crop,
    bilinear_random_crop,
    bilinear_whole,
    covering,
)

SHAPES = [(30, 40), (40, 30), (33, 47), (64, 64), (375, 500), (17, 90), (512, 333), (9, 9)]


def picture(shape: tuple[int, int]) -> Image.Image:
    pixels = np.random.default_rng(shape).integers(0, 256, (*shape, 3), np.uint8)
    return Image.fromarray(pixels)


def triangle(length: int, new: int) -> np.ndarray:
    """Weights ``(new, length)`` of the antialiased linear filter."""
    scale = length / new
    reach = max(scale, 1.0)
    centres = (np.arange(new)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(length) + 0.5 - centres) / reach, 0, None)
    return weights / weights.sum(1, keepdims=True)


def resized(image: Image.Image, height: int, width: int) -> np.ndarray:
    """By the formula: along the rows, rounded to bytes, then along the columns."""
    pixels = np.asarray(image).astype(float)
    rows = np.floor(np.einsum("xw,hwc->hxc", triangle(image.width, width), pixels) + 0.5)
    whole = np.floor(np.einsum("yh,hxc->yxc", triangle(image.height, height), rows) + 0.5)
    return whole.clip(0, 255)


def short_resized(image: Image.Image, size: int) -> np.ndarray:
    """``Resize(size)``: the longer side is cut off to a whole number."""
    if image.width <= image.height:
        return resized(image, int(size * image.height / image.width), size)
    return resized(image, size, int(size * image.width / image.height))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [16, 37])
def test_center_is_resize_and_center_crop(shape, size):
    image = picture(shape)
    whole = short_resized(image, size)
    top, left = (round((side - size) / 2.0) for side in whole.shape[:2])
    wanted = whole[top : top + size, left : left + size]
    got = np.asarray(bilinear_center_crop(image, size)).astype(int)
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_random_is_resize_and_random_crop(shape):
    """All of the short side is seen; the place along the other one is uniform."""
    image, size = picture(shape), 16
    whole = short_resized(image, size)
    places = set()
    for seed in range(40):
        stream = torch.Generator().manual_seed(seed)
        top = int(torch.randint(whole.shape[0] - size + 1, (), generator=stream))
        left = int(torch.randint(whole.shape[1] - size + 1, (), generator=stream))
        wanted = whole[top : top + size, left : left + size]
        cut = bilinear_random_crop(image, size, torch.Generator().manual_seed(seed))
        assert np.abs(np.asarray(cut).astype(int) - wanted).max() <= 1
        places.add((top, left))
    assert {max(place) for place in places} <= set(range(max(whole.shape[:2]) - size + 1))
    assert len(places) >= min(5, max(whole.shape[:2]) - size + 1) // 2 + 1


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [24, (10, 31)])
def test_whole_is_resize_to_both_sides(shape, size):
    image = picture(shape)
    high, wide = (size, size) if isinstance(size, int) else size
    got = np.asarray(bilinear_whole(image, size)).astype(int)
    assert np.abs(got - resized(image, high, wide)).max() <= 1


def test_on_squares_whole_and_center_agree():
    image = picture((90, 90))
    assert bilinear_whole(image, 32).tobytes() == bilinear_center_crop(image, 32).tobytes()


@pytest.mark.parametrize(
    ("shape", "size", "wanted"),
    [
        ((375, 500), 256, (341, 256)),
        ((500, 375), 256, (256, 341)),
        ((520, 600), 256, (295, 256)),
        ((100, 100), 256, (256, 256)),
        ((100, 200), (10, 50), (50, 25)),
        ((100, 200), (40, 50), (80, 40)),
    ],
)
def test_the_longer_side_is_cut_off_to_a_whole_number(shape, size, wanted):
    assert covering(picture(shape), size) == wanted
