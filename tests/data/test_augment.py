"""Random crops, RandAugment's operations one by one, and holes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image

from unmask.data.augment import FILL, OPERATIONS, Augment, erase_box
from unmask.data.crops import Box, clipped_box, inner_crop, resized_box, tried_box
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError

Draw = Callable[[int, int, torch.Generator], Box]
SHAPES = [(64, 48), (300, 20), (20, 300), (7, 7), (1, 1)]


def photo(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    noise = torch.randint(256, (height, width, 3), generator=keyed_generator("photo"))
    return Image.fromarray(noise.numpy().astype(np.uint8)).convert(mode)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize("draw", [clipped_box, tried_box])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_box_lies_in_its_image(draw: Draw, shape: tuple[int, int]) -> None:
    width, height = shape
    stream = keyed_generator("boxes", *shape)
    for _ in range(200):
        box = draw(width, height, stream)
        assert box.top >= 0
        assert box.left >= 0
        assert 1 <= box.height <= height - box.top
        assert 1 <= box.width <= width - box.left


@pytest.mark.parametrize("draw", [clipped_box, tried_box])
def test_areas_and_shapes_span_their_ranges(draw: Draw) -> None:
    stream = keyed_generator("areas")
    boxes = [draw(400, 400, stream) for _ in range(500)]
    areas = [box.height * box.width / 400**2 for box in boxes]
    ratios = [box.width / box.height for box in boxes]
    assert 0.19 < min(areas) < 0.25
    assert max(areas) > 0.85
    assert 0.74 < min(ratios) < 0.78
    assert 1.28 < max(ratios) < 1.35
    assert abs(np.mean([box.left + box.width / 2 for box in boxes]) - 200) < 12


def test_what_never_fits_becomes_the_central_box_of_the_nearest_shape() -> None:
    stream = keyed_generator("long")
    assert tried_box(3000, 30, stream) == Box(0, 1480, 30, 40)
    assert tried_box(30, 3000, stream) == Box(1480, 0, 40, 30)


def test_a_box_is_tried_ten_times() -> None:
    stream, other = (torch.Generator().manual_seed(0) for _ in range(2))
    tried_box(3000, 3, stream)
    for _ in range(10):  # area and shape, whatever their limits
        torch.empty(()).uniform_(generator=other)
        torch.empty(()).uniform_(generator=other)
    assert torch.equal(stream.get_state(), other.get_state())


def test_a_box_is_cut_out_before_it_is_resized() -> None:
    image = Image.new("L", (8, 8), 0)
    image.paste(200, (2, 2, 6, 6))
    cut = resized_box(image, Box(2, 2, 4, 4), 16, Image.Resampling.BICUBIC)
    assert set(np.asarray(cut).flat) == {200}, "nothing of the surroundings leaks in"


def test_the_inner_crop_leaves_an_eighth_out() -> None:
    assert inner_crop(photo(290, 290), 256).size == (256, 256)
    steps = np.tile(np.arange(0, 256, dtype=np.uint8), (256, 1))
    cut = pixels(inner_crop(Image.fromarray(steps), 224))
    assert abs(cut[0, 0] - 16) <= 1
    assert abs(cut[0, -1] - 239) <= 1


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_operation_keeps_size_and_mode(name: str, mode: str) -> None:
    image = photo(mode=mode)
    for strength in (-10, -9.3, 0, 4.2, 10):
        changed = OPERATIONS[name](image, strength)
        assert (changed.size, changed.mode) == (image.size, mode)


@pytest.mark.parametrize(
    "name", ["rotate", "color", "contrast", "brightness", "shear x", "shear y", "translate x"]
)
def test_strength_zero_changes_nothing(name: str) -> None:
    assert np.array_equal(pixels(OPERATIONS[name](photo(), 0)), pixels(photo()))


def test_operations_do_what_they_are_called() -> None:
    image = photo()
    before = pixels(image)
    assert np.array_equal(pixels(OPERATIONS["invert"](image, 9)), 255 - before)
    kept = before >> 7 << 7  # 4 - int(0.4 * 9) = 1 bit
    assert np.array_equal(pixels(OPERATIONS["posterize"](image, 9)), kept)
    solarized = np.where(before < 256 - 230, before, 255 - before)
    assert np.array_equal(pixels(OPERATIONS["solarize"](image, -9)), solarized)
    added = np.where(before < 128, np.minimum(before + 99, 255), before)
    assert np.array_equal(pixels(OPERATIONS["solarize add"](image, 9)), added)
    moved = pixels(OPERATIONS["translate x"](image, 5))  # 0.045 * 5 * 40 = 9 pixels
    assert np.array_equal(moved[:, :31], before[:, 9:])
    assert (moved[:, 32:] == FILL).all()
    up = pixels(OPERATIONS["translate y"](image.resize((30, 40)), 5))
    assert np.array_equal(up[:31], pixels(image.resize((30, 40)))[9:])
    darker = pixels(OPERATIONS["brightness"](image, -5))
    assert abs(darker.mean() / before.mean() - 0.55) < 0.01
    turned = pixels(OPERATIONS["rotate"](Image.new("RGB", (40, 40), (9, 9, 9)), 10))
    assert (turned[0, 0] == FILL).all()
    assert (turned[20, 20] == 9).all()


def test_images_depend_on_their_generator_alone() -> None:
    augment = Augment(size=16, crop="resized", flip=True, erase=0.5)
    made = [augment(photo(), keyed_generator("a", i % 20)) for i in range(40)]
    assert all(torch.equal(made[i], made[i + 20]) for i in range(20))
    assert len({tuple(image.flatten().tolist()) for image in made}) == 20
    assert {(image.shape, image.dtype) for image in made} == {((3, 16, 16), torch.uint8)}


def test_no_operations_are_the_plain_transform() -> None:
    for crop in ("resized", "clipped", "random", "center", "inner"):
        plain = Transform(size=16, crop=crop)
        varied = Augment(size=16, crop=crop, operations=0)
        one, other = (make(photo(), keyed_generator("same")) for make in (plain, varied))
        assert torch.equal(one, other)


def test_a_hole_leaves_a_row_and_a_column() -> None:
    for index in range(400):
        image = torch.zeros(3, 6, 6, dtype=torch.uint8)
        erase_box(image, keyed_generator("hole", index))
        assert min(int((image.amax((0, dim)) == 0).sum()) for dim in (1, 2)) > 0


@pytest.mark.parametrize("channels", [1, 3])
def test_a_hole_has_its_area_and_noise(channels: int) -> None:
    areas = []
    for index in range(100):
        image = torch.zeros(channels, 60, 60, dtype=torch.uint8)
        erase_box(image, keyed_generator("hole", index))
        rows, columns = (image.amax((0, dim)).nonzero() for dim in (2, 1))
        high, wide = (int(v.max() - v.min()) + 1 if len(v) else 0 for v in (rows, columns))
        areas.append(high * wide / 3600)
    assert 0.01 < min(areas) < 0.1
    assert 0.25 < max(areas) < 0.36
    assert 0.4 * 255 < float(image[image > 0].float().mean()) < 0.55 * 255


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="magnitude=11 must be at most 10"):
        Augment(size=8, magnitude=11)
    with pytest.raises(InputError, match="crop='middle' must be one of center, center-bilinear"):
        Transform(size=8, crop="middle")  # type: ignore[arg-type]
