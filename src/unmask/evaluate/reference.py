"""Reference statistics: a set of real images known by mean and covariance of its features alone.

They are exchanged as ``.npz`` files: ``mu`` and ``sigma`` (pytorch-fid, clean-fid, TTUR and MAR's
ImageNet statistics), with ``mu_s`` and ``sigma_s`` for sFID in the files of guided-diffusion, ADM's
evaluator, some of which hold images as ``arr_0`` too; as the ``.pt`` pickles of torch-fidelity; and
as the ``.pkl`` pickles of EDM2, which keep them under ``fid``.
"""

from __future__ import annotations

import codecs
import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unmask.checkpoints.file_kinds import kind_of
from unmask.checkpoints.pickles import load_pickle
from unmask.errors import InputError
from unmask.evaluate.array_pickles import read_arrays
from unmask.evaluate.frechet import RunningStatistics, frechet_distance
from unmask.evaluate.image_batch import Batches
from unmask.evaluate.image_sets import ImageSet, open_image_set
from unmask.evaluate.inception import SPATIAL_WIDTH, WIDTH
from unmask.files.damage import DAMAGE, reason
from unmask.files.durable import output

POOLED = ("mu", "sigma")
SPATIAL = ("mu_s", "sigma_s")
ENDINGS = (".npz", ".pt")
ROUNDING = 1e-5  # of the largest entry: files hold float32 too
LARGEST = 1 << 30  # bytes of one array: a covariance of 11,585 features
# What a pickled array is made of, under the names of NumPy 1 and 2.
REBUILD: Callable = np.zeros(1).__reduce__()[0]  # type: ignore[assignment]
ARRAY_PARTS: list[Callable | tuple[Callable, str]] = [
    (REBUILD, "numpy.core.multiarray._reconstruct"),
    (REBUILD, "numpy._core.multiarray._reconstruct"),
    *(np.ndarray, np.dtype, type(np.dtype("f4")), type(np.dtype("f8")), codecs.encode),
]


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A Gaussian fitted to features.

    Args:
        mean: ``(F,)`` float64.
        covariance: ``(F, F)`` float64, divided by N - 1.
    """

    mean: Tensor
    covariance: Tensor

    def __post_init__(self) -> None:
        """Reject shapes that do not fit, NaN and infinity."""
        width = self.mean.numel()
        if self.mean.ndim != 1 or tuple(self.covariance.shape) != (width, width):
            raise InputError(
                f"a mean of shape {tuple(self.mean.shape)} and a covariance of shape "
                f"{tuple(self.covariance.shape)}; they must be (F,) and (F, F)"
            )
        if not (self.mean.isfinite().all() and self.covariance.isfinite().all()):
            raise InputError("the statistics hold NaN or infinity; measure them again")
        if not _is_covariance(self.covariance):
            raise InputError(
                "the covariance is none: it is not symmetric, or larger off its diagonal than "
                "variances allow; measure the statistics again"
            )

    @classmethod
    def of(cls, found: RunningStatistics) -> Moments:
        """Those of a set.

        Raises:
            InputError: for fewer than two vectors.
        """
        return cls(mean=found.mean, covariance=found.covariance())

    def distance(self, other: Moments) -> float:
        """The Fréchet distance.

        Raises:
            InputError: when the widths differ.
        """
        if self.mean.shape != other.mean.shape:
            raise InputError(
                f"features of width {len(self.mean)} and {len(other.mean)} do not compare; "
                "use one extractor for both"
            )
        return frechet_distance(self.mean, self.covariance, other.mean, other.covariance)


def _is_covariance(matrix: Tensor) -> bool:
    """Whether a matrix is symmetric and no entry exceeds what the variances allow.

    But for rounding; some matrices that no data have still pass.
    """
    variances = matrix.diagonal()
    slack = ROUNDING * float(matrix.abs().max()) if matrix.numel() else 0.0
    spread = variances.clamp(min=0).sqrt()
    wrong = (
        variances < -slack,
        (matrix - matrix.T).abs() > slack,
        matrix.abs() > torch.outer(spread, spread) + slack,
    )
    return not any(bool(part.any()) for part in wrong)


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """Mean and covariance of the features of a set of images.

    Args:
        source: Name of the file or set, for a report.
        pooled: Gaussian of the pooled features, which fd compares (of Inception, FID).
        spatial: Gaussian of the spatial features, which sfd compares (of Inception, sFID); None:
            unknown.
        images: Number of images measured; None where a file does not say.
    """

    source: str
    pooled: Moments
    spatial: Moments | None = None
    images: int | None = None

    def fid(self, other: ReferenceStatistics) -> float:
        """Fréchet distance of the pooled features: FID if both are of the published weights."""
        return self.pooled.distance(other.pooled)

    def sfid(self, other: ReferenceStatistics) -> float | None:
        """Fréchet distance of the spatial features (Nash et al., arXiv 2103.03841, as ADM's
        evaluator takes it); None where one side has none.
        """
        if self.spatial is None or other.spatial is None:
            return None
        return self.spatial.distance(other.spatial)


def read_statistics(
    path: Path | str, *, width: int = WIDTH, spatial_width: int | None = SPATIAL_WIDTH
) -> ReferenceStatistics:
    """Statistics from a file.

    Args:
        path: ``.npz`` or ``.pt`` with ``mu``, ``sigma`` and perhaps ``mu_s``, ``sigma_s``.
        width: pooled features of the extractor that they are for.
        spatial_width: its spatial features; None for any number.

    Raises:
        InputError: when the file is missing, damaged, without statistics or of another width.
    """
    path = Path(path)
    found = _read_arrays(path)
    pooled = _moments_of(path, found, POOLED, width)
    if pooled is None:
        raise InputError(
            f"{path} holds no mu and sigma; name a file of reference statistics, or of images"
        )
    spatial = _moments_of(path, found, SPATIAL, spatial_width)
    return ReferenceStatistics(source=str(path), pooled=pooled, spatial=spatial)


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The statistics of a file, without its images."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; name a file of reference statistics")
    try:
        held = _read_held(path)
        named = held if isinstance(held, dict) else {}
        found = {name: np.asarray(named[name]) for name in (*POOLED, *SPATIAL) if name in named}
        for name, array in found.items():
            if array.dtype.kind not in "fiu":
                raise InputError(f"{path}: {name} holds no real numbers but {array.dtype}")
        return {name: torch.from_numpy(a.astype(np.float64)) for name, a in found.items()}
    except InputError:
        raise
    except (*DAMAGE, MemoryError) as problem:
        raise InputError(f"cannot read the statistics {path}: {reason(problem)}") from None


def _read_held(path: Path) -> object:
    """Content of a file of statistics: arrays by name, if it is one."""
    if path.suffix == ".pt":
        return load_pickle(path, zipped=kind_of(path) == "zip", allowed=ARRAY_PARTS)
    if path.suffix == ".pkl":
        held = read_arrays(path)
        return held.get("fid", held) if isinstance(held, dict) else held
    _check_sizes(path)
    with np.load(path, allow_pickle=False) as archive:
        # A lone .npy file gives an array, which has no names.
        names = getattr(archive, "files", [])
        return {name: archive[name] for name in (*POOLED, *SPATIAL) if name in names}


def _check_sizes(path: Path) -> None:
    """Refuse an archive whose statistics would unpack to more than any have."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            name = member.filename.removesuffix(".npy")
            if name in (*POOLED, *SPATIAL) and member.file_size > LARGEST:
                raise InputError(
                    f"{path}: {name} takes {member.file_size:,} bytes, more than statistics have"
                )


def _moments_of(
    path: Path, found: dict[str, Tensor], names: tuple[str, str], width: int | None
) -> Moments | None:
    if not found.keys() >= set(names):
        return None
    mean, covariance = names
    try:
        moments = Moments(mean=found[mean], covariance=found[covariance])
    except InputError as problem:
        raise InputError(f"{path}, {mean} and {covariance}: {problem}") from None
    if width is not None and len(moments.mean) != width:
        raise InputError(
            f"{path}: {mean} is of width {len(moments.mean)}, the extractor gives {width}; "
            "use statistics of the same network and layer"
        )
    return moments


class Reference(NamedTuple):
    """Real images that every row is compared with, or their statistics.

    Args:
        statistics: Gaussians that fd and sfd compare with; None measures the images.
        images: Real images that precision and recall compare with; None leaves both out.
        source: Where images came from, if that is to be stated; FID needs a stated reference.
        notes: Remarks on the reference for a report.
    """

    statistics: ReferenceStatistics | None = None
    images: ImageSet | Batches | None = None
    source: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def stated(self) -> str | None:
        """Name of the statistics, else of the images, for a report."""
        return self.source if self.statistics is None else self.statistics.source

    def check_width(self, width: int, name: str) -> None:
        """Refuse statistics of another network than the extractor ``name``.

        Raises:
            InputError: naming both widths.
        """
        if self.statistics is not None and len(self.statistics.pooled.mean) != width:
            raise InputError(
                f"{self.statistics.source} holds statistics of width "
                f"{len(self.statistics.pooled.mean)}, {name} gives {width}; use statistics of the "
                "same network"
            )


def open_reference(
    path: Path | str,
    *,
    width: int = WIDTH,
    spatial_width: int | None = SPATIAL_WIDTH,
    batch_size: int = 64,
) -> Reference:
    """Statistics and images of a file; ADM's hold one or both.

    Args:
        path: statistics, an ``.npz`` file of images (``arr_0``), or a folder of pictures.
        width: pooled features of the extractor that they are for.
        spatial_width: its spatial features; None for any number.
        batch_size: images read at a time.

    Raises:
        InputError: when there is nothing of the kind, or the width differs.
    """
    path, statistics, images = Path(path), None, None
    if not path.is_dir() and _read_arrays(path):
        statistics = read_statistics(path, width=width, spatial_width=spatial_width)
    if path.is_dir() or (path.suffix == ".npz" and _has_images(path)):
        images = open_image_set(path, batch_size=batch_size)
    if statistics is None and images is None:
        raise InputError(f"{path} holds no mu and sigma and no images (arr_0); name another file")
    return Reference(statistics, images, str(path), () if images is None else tuple(images.notes))


def _has_images(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "arr_0.npy" in archive.namelist()


def write_statistics(path: Path | str, statistics: ReferenceStatistics) -> None:
    """Write the form that :func:`read_statistics` and the published evaluators read.

    The file appears under its name only when it is whole, and replaces one that was there.

    Args:
        path: ends in ``.npz`` (guided-diffusion, pytorch-fid) or ``.pt`` (torch-fidelity).
        statistics: the spatial ones are left out where there are none.

    Raises:
        InputError: for another ending, or a disk that is full or refuses.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise InputError(f"{path} must end in {' or '.join(ENDINGS)}")
    held = {POOLED: statistics.pooled, SPATIAL: statistics.spatial}
    arrays: dict[str, np.ndarray] = {}
    for (mean, covariance), moments in held.items():
        if moments is not None:
            arrays |= {mean: moments.mean.numpy(), covariance: moments.covariance.numpy()}
    whole = io.BytesIO()
    if path.suffix == ".pt":
        torch.save(arrays, whole)
    else:
        np.savez(whole, allow_pickle=False, **arrays)
    with output(path) as aside:
        aside.write_bytes(whole.getvalue())
