"""Reference statistics: files of the published forms, and distances to them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate import reference
from unmask.evaluate.features import Features
from unmask.evaluate.frechet import frechet_distance
from unmask.evaluate.image_batch import gather
from unmask.evaluate.image_sets import write_npz
from unmask.evaluate.measure import measure_statistics
from unmask.evaluate.reference import (
    Moments,
    ReferenceStatistics,
    open_reference,
    read_statistics,
    write_statistics,
)

F = 4


class Averages:
    """Stands for the Inception network: features are means of image rows."""

    name, identity, width = "averages", "averages of rows", F

    def __call__(self, images: Tensor) -> Features:
        x = images.float().mean((1, 3))  # (B, F)
        return Features(x, spatial=x[:, torch.arange(6) % F])


def images(count: int, key: str = "images") -> Tensor:
    generator = keyed_generator(0, key)
    return torch.randint(0, 256, (count, 3, F, 5), generator=generator, dtype=torch.uint8)


def statistics(width: int = F, spatial: int | None = None, key: str = "a") -> ReferenceStatistics:
    def moments(size: int) -> Moments:
        x = torch.randn(40, size, generator=keyed_generator(1, key, size), dtype=torch.float64)
        return Moments(mean=x.mean(0), covariance=x.T.cov())

    return ReferenceStatistics(
        source=key, pooled=moments(width), spatial=None if spatial is None else moments(spatial)
    )


def read(path: Path, width: int = F, spatial_width: int | None = 3) -> ReferenceStatistics:
    return read_statistics(path, width=width, spatial_width=spatial_width)


@pytest.mark.parametrize("ending", ["npz", "pt"])
@pytest.mark.parametrize("spatial", [None, 3])
def test_what_is_written_is_read_back(tmp_path: Path, spatial: int | None, ending: str) -> None:
    given = statistics(spatial=spatial)
    write_statistics(tmp_path / f"s.{ending}", given)
    found = read(tmp_path / f"s.{ending}")
    assert torch.equal(found.pooled.mean, given.pooled.mean)
    assert torch.equal(found.pooled.covariance, given.pooled.covariance)
    assert (found.spatial is None) == (spatial is None)
    if spatial:
        assert found.spatial is not None
        assert given.spatial is not None
        assert torch.equal(found.spatial.covariance, given.spatial.covariance)
    assert [p.name for p in tmp_path.iterdir()] == [f"s.{ending}"]


def test_pickles_of_torch_fidelity_are_arrays_by_name(tmp_path: Path) -> None:
    """Its cache holds a dict of NumPy arrays, float64, and computes with them as they are."""
    given = statistics()
    write_statistics(tmp_path / "s.pt", given)
    held = torch.load(tmp_path / "s.pt", weights_only=False)
    assert {k: (type(v), v.dtype) for k, v in held.items()} == dict.fromkeys(
        ("mu", "sigma"), (np.ndarray, np.dtype("float64"))
    )
    old = {"mu": held["mu"].astype("f4"), "sigma": torch.from_numpy(held["sigma"])}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert torch.equal(read(tmp_path / "old.pt").pooled.covariance, given.pooled.covariance)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (print, ("run",))

    torch.save({"mu": Trap(), "sigma": 0}, tmp_path / "s.pt")
    with pytest.raises(InputError, match=r"cannot be read as plain weights: it wants .*print"):
        read(tmp_path / "s.pt")


def test_the_written_names_are_those_of_the_published_evaluators(tmp_path: Path) -> None:
    write_statistics(tmp_path / "s.npz", statistics(spatial=3))
    with np.load(tmp_path / "s.npz") as found:
        assert {k: (v.shape, v.dtype) for k, v in found.items()} == {
            "mu": ((F,), np.float64),
            "sigma": ((F, F), np.float64),
            "mu_s": ((3,), np.float64),
            "sigma_s": ((3, 3), np.float64),
        }


def test_compressed_float32_files_are_read(tmp_path: Path) -> None:
    given = statistics().pooled
    mean, covariance = given.mean.float().numpy(), given.covariance.float().numpy()
    np.savez_compressed(tmp_path / "s.npz", mu=mean, sigma=covariance)
    found = read(tmp_path / "s.npz")
    assert found.pooled.mean.dtype == torch.float64
    assert found.pooled.mean.tolist() == mean.astype(np.float64).tolist()


def test_adm_files_with_images_beside_give_their_statistics(tmp_path: Path) -> None:
    given = statistics().pooled
    pixels = images(3).permute(0, 2, 3, 1).numpy()
    arrays: dict[str, Any] = {"mu": given.mean.numpy(), "sigma": given.covariance.numpy()}
    arrays["arr_0"] = pixels
    np.savez(tmp_path / "s.npz", **arrays)
    found, beside, *_ = open_reference(tmp_path / "s.npz", width=F)
    assert found is not None
    assert beside is not None
    assert torch.equal(found.pooled.mean, given.mean)
    assert found.images is None
    assert torch.equal(gather(beside).images, images(3))


def test_files_of_images_alone_are_measured(tmp_path: Path) -> None:
    x = images(70)
    write_npz(tmp_path / "x.npz", [x])
    found, held, *_ = open_reference(tmp_path / "x.npz", width=F)
    assert found is None
    assert held is not None
    found = measure_statistics(held, Averages(), source="x")
    rows = x.float().mean((1, 3)).double().numpy()
    assert found.images == 70
    np.testing.assert_allclose(found.pooled.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.pooled.covariance, np.cov(rows, rowvar=False), rtol=1e-9)
    assert found.spatial is not None
    assert found.spatial.mean.shape == (6,)


def test_distances(tmp_path: Path) -> None:
    one, other = statistics(spatial=3, key="a"), statistics(spatial=3, key="b")
    a, b = one.pooled, other.pooled
    assert one.fid(other) == frechet_distance(a.mean, a.covariance, b.mean, b.covariance)
    assert one.fid(other) > 1e-3
    assert one.fid(one) == pytest.approx(0, abs=1e-9)
    assert one.spatial is not None
    moved = Moments(mean=one.spatial.mean + 2, covariance=one.spatial.covariance)
    shifted = ReferenceStatistics(source="moved", pooled=one.pooled, spatial=moved)
    assert one.sfid(shifted) == pytest.approx(3 * 2**2)
    assert one.sfid(statistics(spatial=None)) is None


def test_statistics_of_one_image_are_refused() -> None:
    with pytest.raises(InputError, match="1 images have no covariance"):
        measure_statistics([images(1)], Averages(), source="one")


def test_other_widths_name_both(tmp_path: Path) -> None:
    write_statistics(tmp_path / "s.npz", statistics(spatial=3))
    with pytest.raises(InputError, match=r"mu is of width 4, the extractor gives 2048"):
        read(tmp_path / "s.npz", width=2048)
    with pytest.raises(InputError, match=r"mu_s is of width 3, the extractor gives 2023"):
        read(tmp_path / "s.npz", spatial_width=2023)
    with pytest.raises(InputError, match=r"width 4 and 5"):
        statistics().fid(statistics(width=5))


def test_files_that_are_no_statistics_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no file .*absent"):
        read(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    with pytest.raises(InputError, match=r"cannot read .*text\.npz"):
        read(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", features=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz holds no mu and sigma"):
        read(tmp_path / "other.npz")
    np.savez(tmp_path / "half.npz", mu=np.zeros(F))
    with pytest.raises(InputError, match=r"half\.npz holds no mu and sigma"):
        open_reference(tmp_path / "half.npz", width=F)
    np.savez(tmp_path / "odd.npz", mu=np.zeros(F), sigma=np.zeros((F, F + 1)))
    with pytest.raises(InputError, match=r"odd\.npz, mu and sigma: .*must be \(F,\)"):
        read(tmp_path / "odd.npz")
    np.savez(tmp_path / "nan.npz", mu=np.full(F, np.nan), sigma=np.zeros((F, F)))
    with pytest.raises(InputError, match=r"nan\.npz.*NaN"):
        read(tmp_path / "nan.npz")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    write_statistics(tmp_path / "s.npz", statistics())
    whole = (tmp_path / "s.npz").read_bytes()
    (tmp_path / "s.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="cannot read the statistics"):
        read(tmp_path / "s.npz")


def test_writing_elsewhere_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"must end in \.npz or \.pt"):
        write_statistics(tmp_path / "s.txt", statistics())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        write_statistics(tmp_path / "file" / "s.npz", statistics())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


WRONG = {
    "negative": -np.eye(3),
    "asymmetric": np.array([[1.0, 0.5, 0], [0, 1, 0], [0, 0, 1]]),
    "beyond its variances": np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]),
    "complex": np.eye(3) * (1 + 1j),
    "of texts": np.full((3, 3), "1"),
    "of NaN": np.full((3, 3), np.nan),
    "too wide": np.eye(4),
}


@pytest.mark.parametrize("ending", ["npz", "pt"])
@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_covariance_is_refused(tmp_path: Path, kind: str, ending: str) -> None:
    arrays: dict[str, Any] = {"mu": np.zeros(3), "sigma": WRONG[kind]}
    path = tmp_path / f"s.{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.savez(path, **arrays) if ending == "npz" else torch.save(arrays, path)
        with pytest.raises(InputError) as error:
            read_statistics(path, width=3)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_rounded_covariances_are_taken(tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(40, 3)) @ np.diag([1e-4, 1, 1e3])
    sigma = np.cov(data, rowvar=False).astype(np.float32)
    np.savez(tmp_path / "s.npz", mu=data.mean(0), sigma=sigma)
    found = read_statistics(tmp_path / "s.npz", width=3)
    assert torch.equal(found.pooled.covariance, torch.from_numpy(sigma).double())


def test_an_archive_that_unpacks_to_more_than_statistics_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "LARGEST", 1 << 16)
    path = tmp_path / "s.npz"
    np.savez_compressed(path, mu=np.zeros(128), sigma=np.zeros((128, 128)))
    assert path.stat().st_size < 1 << 12
    with pytest.raises(InputError, match=r"sigma takes .* more than statistics have"):
        read_statistics(path, width=128)
