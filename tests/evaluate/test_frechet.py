"""The Fréchet distance against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.frechet import frechet_distance


def normal(key: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=keyed_generator(0, key), dtype=torch.float64)


def gaussian(key: str, width: int = 12, count: int = 200) -> tuple[Tensor, Tensor]:
    x = normal(key, count, width) @ normal(f"{key} mixing", width, width) + normal(key, width)
    return x.mean(0), torch.cov(x.T)


def test_one_dimension_has_a_closed_form() -> None:
    one = (torch.tensor([1.0]), torch.tensor([[4.0]]))
    other = (torch.tensor([4.0]), torch.tensor([[25.0]]))
    assert frechet_distance(*one, *other) == pytest.approx(3**2 + (5 - 2) ** 2, rel=1e-12)


def test_commuting_covariances_have_a_closed_form() -> None:
    basis = torch.linalg.qr(normal("basis", 8, 8)).Q
    a, b = torch.arange(1.0, 9).double(), torch.arange(8.0, 0, -1).double() ** 2
    mean = torch.zeros(8).double()
    found = frechet_distance(mean, basis * a @ basis.T, mean, basis * b @ basis.T)
    assert found == pytest.approx((a.sqrt() - b.sqrt()).square().sum().item(), rel=1e-10)


def test_agrees_with_the_matrix_root_of_the_product() -> None:
    (m1, c1), (m2, c2) = gaussian("a"), gaussian("b")
    root = scipy.linalg.sqrtm(c1.numpy() @ c2.numpy())
    expected = (m1 - m2).square().sum().item() + np.trace(c1.numpy() + c2.numpy() - 2 * root.real)
    assert frechet_distance(m1, c1, m2, c2) == pytest.approx(expected, rel=1e-6)


def test_zero_to_itself_and_symmetric() -> None:
    a, b = gaussian("a"), gaussian("b")
    assert frechet_distance(*a, *a) == pytest.approx(0, abs=1e-9 * a[1].trace().item())
    assert frechet_distance(*a, *b) == pytest.approx(frechet_distance(*b, *a), rel=1e-10)


def test_singular_covariances_need_no_help() -> None:
    few = normal("few", 5, 40)  # rank 4 in 40 dimensions
    mean, cov = few.mean(0), torch.cov(few.T)
    assert frechet_distance(mean, cov, mean, cov) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(mean, cov, mean + 2, cov) == pytest.approx(4 * 40, rel=1e-10)
    nothing = torch.zeros(40, 40).double()
    assert frechet_distance(mean, cov, mean, nothing) == pytest.approx(cov.trace().item())


def test_scaling_images_apart_from_the_mean() -> None:
    mean, cov = gaussian("a")
    # C against s²C about one mean: (1 - s)² tr C.
    assert frechet_distance(mean, cov, mean, 9 * cov) == pytest.approx(4 * cov.trace().item())


def test_bad_input_is_named() -> None:
    mean, cov = gaussian("a")
    with pytest.raises(InputError, match="cov2 has shape"):
        frechet_distance(mean, cov, mean, cov[:3, :3])
    with pytest.raises(InputError, match="mean2 holds NaN"):
        frechet_distance(mean, cov, mean * float("nan"), cov)
