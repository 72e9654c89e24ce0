"""Pixels become bytes by rounding; sheets, veils and films put them where they belong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_system import TOY, toy_pipeline

from unmask.film import unmasking
from unmask.pictures import GREY, sheet, to_float, to_pil, to_uint8, veil, write_gif
from unmask.tokenizers.conv_stack import ConvVQTokenizer


def test_bytes_are_rounded_and_clamped() -> None:
    values = torch.tensor([-0.2, 0.0, 0.4 / 255, 0.6 / 255, 0.5, 1.0, 1.7])
    assert to_uint8(values).tolist() == [0, 0, 0, 1, 128, 255, 255]
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(every)), every)
    assert (to_float(every).min(), to_float(every).max()) == (0.0, 1.0)
    assert to_float(every).dtype == torch.float32


def test_a_picture_has_the_pixels() -> None:
    colour = torch.randint(256, (3, 4, 5), dtype=torch.uint8, generator=torch.Generator())
    assert np.array_equal(np.asarray(to_pil(colour)), colour.permute(1, 2, 0).numpy())
    assert to_pil(colour).size == (5, 4)
    grey = to_pil(torch.full((1, 2, 2), 0.5))
    assert grey.mode == "L"
    assert grey.getpixel((0, 0)) == 128


def test_a_sheet_is_filled_row_by_row() -> None:
    pixels = torch.arange(5).view(5, 1, 1, 1).expand(5, 1, 4, 6).to(torch.uint8) * 10
    array = np.asarray(sheet(pixels, 3, gap=2))
    assert array.shape == (2 * 6 + 2, 3 * 8 + 2)
    for index in range(5):
        top, left = 2 + (index // 3) * 6, 2 + (index % 3) * 8
        assert (array[top : top + 4, left : left + 6] == 10 * index).all()
    assert (array[:2] == 255).all()
    assert (array[8:, 18:] == 255).all()  # the sixth place is empty
    assert sheet(pixels, 3, zoom=2).size == (52, 28)


def test_a_veil_covers_masked_patches_only() -> None:
    pixels = torch.rand(2, 3, 8, 8, generator=torch.Generator())
    masked = torch.zeros(2, 4, dtype=torch.bool)
    masked[0, 1] = True
    covered = veil(pixels, masked, (2, 2))
    assert (covered[0, :, :4, 4:] == GREY).all()
    covered[0, :, :4, 4:] = pixels[0, :, :4, 4:]
    assert torch.equal(covered, pixels)


def test_a_film_ends_with_the_image() -> None:
    pipeline = toy_pipeline()
    frames = unmasking(pipeline, [0, 2], seeds=[7, 8])
    assert frames.shape == (TOY.plan.steps, 2, 3, 16, 16)
    assert torch.equal(frames[-1], pipeline([0, 2], seeds=7).pixels)
    veiled = (frames == GREY).flatten(1).float().mean(1)
    assert veiled[0] > 0.5
    assert (veiled.diff() <= 0).all()


def test_a_film_of_more_images_than_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline, labels = toy_pipeline(), [0, 1, 2, 0, 1]
    wanted = unmasking(pipeline, labels, seeds=4)
    decode, tried = ConvVQTokenizer.decode, list[int]()

    def small(self: ConvVQTokenizer, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        tried.append(len(tokens))
        if len(tried) == 6:  # in the second step, once pairs of the first have been seen
            raise torch.OutOfMemoryError("no more")
        return decode(self, tokens, grid)

    monkeypatch.setattr(ConvVQTokenizer, "decode", small)
    assert torch.equal(unmasking(pipeline, labels, seeds=4), wanted)


def test_an_animation_has_every_frame(tmp_path: Path) -> None:
    frames = [Image.new("L", (4, 4), value) for value in (0, 90, 250)]
    write_gif(frames, tmp_path / "film.gif", milliseconds=50)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        durations = []
        for index in range(3):
            film.seek(index)
            durations.append(film.info["duration"])
    assert durations == [50, 50, 200]
