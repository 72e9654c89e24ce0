from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import pixels

from unmask.data.crops import tried_box
from unmask.data.transform import BOXES, RANDOM, STILL, Crop, Transform
from unmask.errors import InputError


def test_flip_mirrors_about_half_of_the_images() -> None:
    image = Image.fromarray(pixels(200))
    straight = Transform(size=8, crop="none")(image)
    flip = Transform(size=8, crop="none", flip=True)
    generator = torch.Generator().manual_seed(0)
    outcomes = [flip(image, generator) for _ in range(200)]
    mirrored = [torch.equal(out, straight.flip(-1)) for out in outcomes]
    assert all(torch.equal(out, straight) != m for out, m in zip(outcomes, mirrored, strict=True))
    assert 70 < sum(mirrored) < 130


def test_grey_and_colour() -> None:
    image = Image.fromarray(np.full((4, 4), 77, np.uint8))
    assert Transform(size=4, channels=1)(image).shape == (1, 4, 4)
    colour = Transform(size=4, channels=3)(image)
    assert colour.shape == (3, 4, 4)
    assert (colour == 77).all()


def test_transparent_pixels_show_white() -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    assert (Transform(size=4)(image) == 255).all()


def test_sixteen_bit_grey_keeps_the_high_byte() -> None:
    image = Image.fromarray(np.full((4, 4), 0x7F33, np.uint16))
    assert (Transform(size=4, channels=1)(image) == 0x7F).all()


def test_crop_none_needs_the_size() -> None:
    with pytest.raises(InputError, match="8 x 8, crop='none' needs 16 x 16; use crop='center'"):
        Transform(size=16, crop="none")(Image.fromarray(pixels(1)))


@pytest.mark.parametrize("crop", [*STILL, *RANDOM, *BOXES])
@pytest.mark.parametrize("size", [(6, 10), (10, 6), (1, 9), (7, 1)])
@pytest.mark.parametrize("shape", [(40, 30), (30, 40), (9, 9), (3, 50), (60, 14), (1, 3000)])
def test_every_crop_has_the_height_and_width_asked_for(
    shape: tuple[int, int], size: tuple[int, int], crop: Crop
) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    made = Transform(size=size, crop=crop)(image, torch.Generator().manual_seed(3))
    assert made.shape == (3, *size)


def test_every_named_crop_is_cut_in_one_way() -> None:
    assert sorted([*STILL, *RANDOM, *BOXES, "none"]) == sorted(get_args(Crop))


@pytest.mark.parametrize("crop", ["center", "center-bilinear", "inner", "whole"])
def test_a_turned_image_gives_the_turned_crop(crop: Crop) -> None:
    soft = np.random.default_rng(1).integers(0, 256, (5, 7, 3), np.uint8)
    image = Image.fromarray(soft).resize((70, 51), Image.Resampling.BICUBIC)
    turned = Transform(size=(10, 6), crop=crop)(image.transpose(Image.Transpose.TRANSPOSE))
    straight = Transform(size=(6, 10), crop=crop)(image)
    assert (turned.int() - straight.mT.int()).abs().max() <= 2  # rounded between the two passes


@pytest.mark.parametrize("size", [(8, 8), (10, 30), (30, 10)])
def test_boxes_are_stretched_no_more_than_for_squares(size: tuple[int, int]) -> None:
    stretch = []
    for seed in range(50):
        box = tried_box(900, 900, torch.Generator().manual_seed(seed), shape=size[1] / size[0])
        stretch.append(box.width / box.height * size[0] / size[1])
    assert 0.74 < min(stretch) < 0.85
    assert 1.2 < max(stretch) < 1.35


def test_a_box_that_never_fits_is_the_nearest_shape() -> None:
    box = tried_box(4000, 3, torch.Generator().manual_seed(0), shape=1 / 4)
    assert (box.height, box.width) == (3, 1)
    box = tried_box(3, 4000, torch.Generator().manual_seed(0), shape=4)
    assert (box.height, box.width) == (1, 3)


def test_a_rectangle_of_the_images_own_shape_keeps_all_of_it() -> None:
    gradient = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (48, 1))
    made = Transform(size=(24, 40), channels=1)(Image.fromarray(gradient))[0]
    assert made[:, 0].max() < 6
    assert made[:, -1].min() > 249
    wide = Transform(size=24, channels=1)(Image.fromarray(gradient))[0]
    assert wide[:, 0].min() > 40, "a square loses both ends"


def test_a_square_may_be_given_as_height_and_width() -> None:
    image = Image.fromarray(pixels(3, 40))
    assert Transform(size=(8, 8)) == Transform(size=8)
    assert torch.equal(Transform(size=(8, 8))(image), Transform(size=8)(image))


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0},
        {"size": (4, 0)},
        {"size": (4, 4, 4)},
        {"size": 2.5},
        {"size": 8, "channels": 2},
        {"size": 8, "crop": "x"},
    ],
)
def test_impossible_transforms_are_rejected(wrong: Any) -> None:
    with pytest.raises(InputError, match=r" must (be|each be|have) "):
        Transform(**wrong)


def test_random_transform_needs_a_generator() -> None:
    with pytest.raises(AssertionError, match="generator"):
        Transform(size=8, flip=True)(Image.fromarray(pixels(1)))


def test_half_of_the_images_are_mirrored() -> None:
    image = Image.fromarray(np.arange(4, dtype=np.uint8).reshape(2, 2))
    mirror = Transform(size=2, crop="none", channels=1, flip=True)
    for seed in range(60):
        stream, same = (torch.Generator().manual_seed(seed) for _ in range(2))
        mirrored = bool(torch.rand((), generator=same) < 0.5)
        assert mirror(image, stream).tolist() == [
            [[1, 0], [3, 2]] if mirrored else [[0, 1], [2, 3]]
        ]
