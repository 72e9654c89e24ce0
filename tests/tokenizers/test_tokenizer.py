"""What the door lets in, and what an identity stands for."""

import re

import pytest
import torch

from unmask.errors import InputError
from unmask.tokenizers.tokenizer import (
    check_images,
    from_native,
    grid_of,
    resolve_grid,
    to_native,
    weights_identity,
)


def grey(*shape: int, value: float = 0.5) -> torch.Tensor:
    return torch.full(shape, value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (grey(3, 8, 8), "(3, 8, 8) are not (B, C, H, W)"),
        (grey(2, 3, 8, 8), "images have 3 channels, this tokenizer takes 1; convert to grey"),
        (grey(2, 1, 10, 8), "image height 10 does not divide by 4; crop or resize"),
        (grey(2, 1, 8, 2), "image width 2 does not divide by 4; crop or resize"),
        (torch.zeros(2, 1, 8, 8, dtype=torch.uint8), "images are uint8, wanted is float32 in"),
        (grey(2, 1, 8, 8, value=-1.0), "span [-1, -1], wanted is [0, 1]"),
        (grey(2, 1, 8, 8, value=255.0), "span [255, 255], wanted is [0, 1]"),
        (grey(2, 1, 8, 8, value=float("nan")), "span [nan, nan], wanted is [0, 1]"),
    ],
)
def test_unfit_images_are_named(images: torch.Tensor, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check_images(images, channels=1, stride=4)
    assert "\n" not in str(caught.value)


def test_fit_images_pass() -> None:
    check_images(torch.rand(2, 3, 8, 12, generator=torch.Generator()), channels=3, stride=4)
    check_images(grey(1, 1, 4, 4, value=1.0004), channels=1, stride=4)  # overshoot of a resize
    check_images(torch.empty(0, 1, 4, 4), channels=1, stride=4)


def test_values_are_read_only_where_that_is_free() -> None:
    # the meta device stands for an accelerator: reading a value there raises
    check_images(torch.empty(2, 1, 8, 8, device="meta"), channels=1, stride=4)
    check_images(grey(2, 1, 8, 8, value=7.0), channels=1, stride=4, check_range=False)
    assert resolve_grid(torch.empty(2, 9, dtype=torch.int64, device="meta"), 5, None) == (3, 3)


@pytest.mark.parametrize(("size", "near"), [(30, 32), (27, 28), (3, 4), (0, 4)])
def test_sizes_off_the_stride_come_with_one_that_fits(size: int, near: int) -> None:
    with pytest.raises(InputError, match=rf"image size {size} .* stride 4; .* example {near}$"):
        grid_of(size, 4)
    assert grid_of(near, 4) == (near // 4, near // 4)


@pytest.mark.parametrize(
    ("ids", "grid", "message"),
    [
        (torch.zeros(6, dtype=torch.int64), None, "(6,) are not (B, L)"),
        (torch.zeros(1, 6, dtype=torch.int64), None, "6 tokens form no square"),
        (torch.zeros(1, 6, dtype=torch.int64), (2, 2), "grid 2x2 holds 4 tokens, ids have 6"),
        (torch.tensor([[0, 1, 2, 8]]), None, "id 8 lies outside [0, 8)"),
        (torch.tensor([[0, 1, -1, 7]]), None, "id -1 lies outside [0, 8)"),
    ],
)
def test_unfit_ids_are_named(ids: torch.Tensor, grid: tuple[int, int] | None, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        resolve_grid(ids, 8, grid)


def test_an_oblong_grid_can_be_given() -> None:
    assert resolve_grid(torch.zeros(1, 6, dtype=torch.int64), 8, (2, 3)) == (2, 3)


@pytest.mark.parametrize("native", [(-1.0, 1.0), (0.0, 1.0), (-0.5, 3.5)])
def test_native_range_holds_both_ends_and_comes_back(native: tuple[float, float]) -> None:
    images = torch.tensor([0.0, 0.25, 1.0])
    there = to_native(images, native)
    assert (there[0].item(), there[-1].item()) == native
    torch.testing.assert_close(from_native(there, native), images)


def test_identity_depends_on_every_byte_and_on_nothing_else() -> None:
    weight = torch.arange(6.0).view(2, 3)
    first = weights_identity("a", [("w", weight)])
    assert re.fullmatch(r"[0-9a-f]{16}", first)
    assert weights_identity("a", [("w", weight.clone().t().contiguous().t())]) == first
    nudged = weight.clone()
    nudged[1, 2] = torch.nextafter(nudged[1, 2], torch.tensor(9.0))
    others = [
        weights_identity("b", [("w", weight)]),
        weights_identity("a", [("v", weight)]),
        weights_identity("a", [("w", weight.view(3, 2))]),
        weights_identity("a", [("w", weight.double())]),
        weights_identity("a", [("w", nudged)]),
        weights_identity("a", [("w", weight), ("scale", torch.tensor(1.0))]),
    ]
    assert len({first, *others}) == 7
