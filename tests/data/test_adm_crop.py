import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from unmask.data.adm_crop import center_crop, covering, halved, random_crop, short_sides
from unmask.data.resizing import resized_part
from unmask.data.transform import Transform

FIXTURES = Path(__file__).parents[1] / "fixtures" / "tokenizers"


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURES / "image_ops.io.safetensors")


def close(image, expected):
    """Within one step of a byte, which another build of Pillow's resampling may differ by."""
    return np.abs(np.asarray(image).astype(int) - expected.astype(int)).max() <= 1


def plain_center_crop(image: Image.Image, size: int) -> Image.Image:
    """As ADM writes it down: everything is resized, then cut."""
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("i", range(5))
def test_center_crop_equals_adm(golden, i):
    assert close(center_crop(Image.fromarray(golden[f"in{i}"]), 32), golden[f"center{i}"])


@pytest.mark.parametrize("i", range(5))
def test_random_crop_geometry_equals_adm(golden, i):
    stream = random.Random(100 + i)
    sides = short_sides(32)
    larger = stream.randrange(sides.start, sides.stop)
    image = halved(Image.fromarray(golden[f"in{i}"]), larger)
    width, height = covering(image, larger)
    top = stream.randrange(height - 32 + 1)
    left = stream.randrange(width - 32 + 1)
    cut = resized_part(image, (width, height), 32, top=top, left=left)
    assert close(cut, golden[f"random{i}"])


def test_transform_center_is_the_golden_crop(golden):
    out = Transform(size=32)(Image.fromarray(golden["in0"]))
    assert out.dtype == torch.uint8
    assert close(out.permute(1, 2, 0).numpy(), golden["center0"])


def test_ordinary_pictures_are_cut_to_the_bit_as_adm_cuts_them():
    stream = np.random.default_rng(0)
    for _ in range(40):
        short = int(stream.integers(2, 160))
        long = int(short * stream.uniform(1, 15))
        shape = (short, long) if stream.random() < 0.5 else (long, short)
        image = Image.fromarray(stream.integers(0, 256, (*shape, 3), np.uint8))
        size = int(stream.integers(1, 65))
        plain = np.asarray(plain_center_crop(image, size))
        assert (np.asarray(center_crop(image, size)) == plain).all(), (shape, size)


def test_short_sides_span_80_to_100_percent():
    assert list(short_sides(32)) == list(range(32, 41))
    assert list(short_sides(256))[-1] == 320


def test_random_crop_is_a_function_of_the_generator(golden):
    image = Image.fromarray(golden["in0"])
    crops = [
        np.asarray(random_crop(image, 32, torch.Generator().manual_seed(seed)))
        for seed in (1, 1, 2, 3)
    ]
    assert crops[0].shape == (32, 32, 3)
    assert (crops[0] == crops[1]).all()
    assert not (crops[0] == crops[2]).all() or not (crops[0] == crops[3]).all()
