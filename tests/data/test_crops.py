"""Crops against ADM's golden ones, and against torchvision's rules, written down anew."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from unmask.data.crops import (
    BICUBIC,
    MOST,
    bilinear_center_crop,
    bilinear_random_crop,
    bilinear_whole,
    center_crop,
    covering,
    halved,
    random_crop,
    resize_covering,
    resized_part,
    short_sides,
)
from unmask.data.transform import BOXES, RANDOM, STILL, Crop, Transform

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tokenizers"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return load_file(FIXTURES / "image_ops.io.safetensors")


def close(image: Image.Image | np.ndarray, expected: np.ndarray) -> bool:
    """Within one step of a byte, which another build of Pillow's resampling may differ by."""
    return np.abs(np.asarray(image).astype(int) - expected.astype(int)).max() <= 1


def plain_center_crop(image: Image.Image, size: int) -> Image.Image:
    """As ADM writes it down: everything is resized, then cut."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("i", range(5))
def test_center_crop_equals_adm(golden: dict[str, np.ndarray], i: int) -> None:
    assert close(center_crop(Image.fromarray(golden[f"in{i}"]), 32), golden[f"center{i}"])


@pytest.mark.parametrize("i", range(5))
def test_random_crop_geometry_equals_adm(golden: dict[str, np.ndarray], i: int) -> None:
    stream = random.Random(100 + i)
    sides = short_sides(32)
    larger = stream.randrange(sides.start, sides.stop)
    image = halved(Image.fromarray(golden[f"in{i}"]), larger)
    width, height = covering(image, larger)
    top = stream.randrange(height - 32 + 1)
    left = stream.randrange(width - 32 + 1)
    cut = resized_part(image, (width, height), 32, top=top, left=left)
    assert close(cut, golden[f"random{i}"])


def test_transform_center_is_the_golden_crop(golden: dict[str, np.ndarray]) -> None:
    out = Transform(size=32)(Image.fromarray(golden["in0"]))
    assert out.dtype == torch.uint8
    assert close(out.permute(1, 2, 0).numpy(), golden["center0"])


def test_ordinary_pictures_are_cut_to_the_bit_as_adm_cuts_them() -> None:
    stream = np.random.default_rng(0)
    for _ in range(40):
        short = int(stream.integers(2, 160))
        long = int(short * stream.uniform(1, 15))
        shape = (short, long) if stream.random() < 0.5 else (long, short)
        image = Image.fromarray(stream.integers(0, 256, (*shape, 3), np.uint8))
        size = int(stream.integers(1, 65))
        plain = np.asarray(plain_center_crop(image, size))
        assert (np.asarray(center_crop(image, size)) == plain).all(), (shape, size)


def test_short_sides_span_80_to_100_percent() -> None:
    assert list(short_sides(32)) == list(range(32, 41))
    assert list(short_sides(256))[-1] == 320


def test_random_crop_is_a_function_of_the_generator(golden: dict[str, np.ndarray]) -> None:
    image = Image.fromarray(golden["in0"])
    crops = [
        np.asarray(random_crop(image, 32, torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2, 3)
    ]
    assert crops[0].shape == (32, 32, 3)
    assert (crops[0] == crops[1]).all()
    assert not (crops[0] == crops[2]).all() or not (crops[0] == crops[3]).all()


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
def test_center_is_resize_and_center_crop(shape: tuple[int, int], size: int) -> None:
    image = picture(shape)
    whole = short_resized(image, size)
    top, left = (round((side - size) / 2.0) for side in whole.shape[:2])
    wanted = whole[top : top + size, left : left + size]
    got = np.asarray(bilinear_center_crop(image, size)).astype(int)
    assert np.abs(got - wanted).max() <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_random_is_resize_and_random_crop(shape: tuple[int, int]) -> None:
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
def test_whole_is_resize_to_both_sides(shape: tuple[int, int], size: int | tuple[int, int]) -> None:
    image = picture(shape)
    high, wide = (size, size) if isinstance(size, int) else size
    got = np.asarray(bilinear_whole(image, size)).astype(int)
    assert np.abs(got - resized(image, high, wide)).max() <= 1


def test_on_squares_whole_and_center_agree() -> None:
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
def test_the_longer_side_is_cut_off_to_a_whole_number(
    shape: tuple[int, int], size: int | tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert resize_covering(picture(shape), size) == wanted


def dull_picture(height: int, width: int) -> Image.Image:
    """Neither black nor white, so that nothing is cut off between the two directions."""
    pixels = np.random.default_rng(height + width).integers(90, 160, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("whole", [(40, 30), (80, 60), (13, 7), (300, 20)])
def test_a_part_is_what_the_whole_shows_there(whole: tuple[int, int]) -> None:
    image, (width, height) = dull_picture(30, 40), whole
    for top, left in ((0, 0), (height - 5, width - 6), (1, 2)):
        part = resized_part(image, whole, (5, 6), top=top, left=left)
        shown = image.resize(whole, BICUBIC).crop((left, top, left + 6, top + 5))
        assert np.abs(np.asarray(part).astype(int) - np.asarray(shown)).max() <= 1


@pytest.mark.parametrize("shape", [(2, 200), (200, 2), (1, 500)])
def test_parts_of_a_strip_are_computed_alone_and_agree_with_the_whole(
    shape: tuple[int, int],
) -> None:
    image = dull_picture(*shape)
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
def test_a_very_thin_picture_costs_no_more_than_its_crop(crop: Crop, size: tuple[int, int]) -> None:
    image, seen = Image.new("RGB", size, (10, 200, 30)), list[int]()
    resize = Image.Image.resize

    def watched(self: Image.Image, size: tuple[int, int], *rest: Any, **more: Any) -> Image.Image:
        seen.append(size[0] * size[1])
        return resize(self, size, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", watched)
        made = Transform(size=64, crop=crop)(image, torch.Generator().manual_seed(0))
    assert max(seen) <= max(MOST * 64 * 64, size[0] * size[1])
    assert (made == torch.tensor([10, 200, 30], dtype=torch.uint8).view(3, 1, 1)).all()
