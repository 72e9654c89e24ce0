"""PSNR and SSIM by their closed forms; equality with scikit-image is golden data's business."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.evaluate.lpips import psnr, ssim


def pictures(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 12, 16, generator=keyed_generator("pictures"))


def test_a_constant_error_has_its_decibels() -> None:
    images = torch.full((2, 3, 8, 8), 0.25)
    target = images + torch.tensor([0.1, 0.5]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(images, target), torch.tensor([20.0, 6.0206]).double())
    assert psnr(images, images).tolist() == [float("inf")] * 2


def test_equal_images_are_alike_and_inverted_ones_are_not() -> None:
    images = pictures()
    torch.testing.assert_close(ssim(images, images), torch.ones(2).double())
    assert (ssim(images, 1 - images) < 0).all()


def test_flat_images_compare_by_their_means_alone() -> None:
    x, y = 0.2, 0.8
    likeness = ssim(torch.full((1, 1, 9, 9), x), torch.full((1, 1, 9, 9), y))
    wanted = (2 * x * y + 1e-4) / (x * x + y * y + 1e-4)
    assert likeness.item() == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("score", [psnr, ssim])
def test_an_image_is_scored_by_itself_and_both_ways_alike(
    score: Callable[[Tensor, Tensor], Tensor],
) -> None:
    first, second = pictures(4).chunk(2)
    both = score(first, second)
    alone = torch.cat([score(a[None], b[None]) for a, b in zip(first, second, strict=True)])
    torch.testing.assert_close(both, alone)
    torch.testing.assert_close(both, score(second, first))
