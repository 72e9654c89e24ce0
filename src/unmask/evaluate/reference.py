"""Reference statistics: a set of real images known by mean and covariance of its features alone.

They are exchanged as ``.npz`` files: ``mu`` and ``sigma`` (pytorch-fid, TTUR and MAR's ImageNet
statistics), with ``mu_s`` and ``sigma_s`` for sFID in the files of ADM's evaluator, some of which
hold the images themselves as ``arr_0`` too.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask.errors import InputError
from unmask.evaluate.frechet import frechet_distance
from unmask.evaluate.image_sets import ImageBatch, as_batches, open_image_set
from unmask.evaluate.inception import SPATIAL_WIDTH, WIDTH, Inception
from unmask.evaluate.statistics import RunningStatistics

POOLED = ("mu", "sigma")
SPATIAL = ("mu_s", "sigma_s")


@dataclass(frozen=True, kw_only=True)
class Moments:
    """A Gaussian fitted to features."""

    mean: Tensor
    """``(F,)`` float64."""
    covariance: Tensor
    """``(F, F)`` float64, divided by N - 1."""

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


@dataclass(frozen=True, kw_only=True)
class ReferenceStatistics:
    """What a set of images looks like to the Inception network."""

    source: str
    """File or set, for a report."""
    pooled: Moments
    """Of the 2048 features of FID."""
    spatial: Moments | None = None
    """Of the 2023 features of sFID, where the file has them."""
    images: int | None = None
    """How many were measured; files of the exchanged form do not say."""

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


def measure_statistics(
    batches: Iterable[Tensor | ImageBatch], extractor: Inception, *, source: str
) -> ReferenceStatistics:
    """The statistics of a set of images, read once.

    Args:
        batches: uint8 ``(B, C, H, W)``.
        extractor: the network.
        source: name of the set, for a report.

    Raises:
        InputError: for fewer than 2 images or features with NaN.
    """
    pooled, spatial = RunningStatistics(extractor.width), RunningStatistics(SPATIAL_WIDTH)
    for batch in as_batches(batches):
        taps = extractor.taps(batch.images)
        pooled.update(taps.pooled)
        spatial.update(taps.spatial)
    return ReferenceStatistics(
        source=source, pooled=Moments.of(pooled), spatial=Moments.of(spatial), images=pooled.count
    )


def read_statistics(
    path: Path | str, *, width: int = WIDTH, spatial_width: int = SPATIAL_WIDTH
) -> ReferenceStatistics:
    """Statistics from an ``.npz`` file.

    Args:
        path: holds ``mu``, ``sigma`` and perhaps ``mu_s``, ``sigma_s``.
        width: pooled features of the extractor that they are for.
        spatial_width: its spatial features.

    Raises:
        InputError: when the file is missing, damaged, without statistics or of another width.
    """
    path = Path(path)
    found = _read_arrays(path)
    if not found.keys() >= set(POOLED):
        raise InputError(
            f"{path} holds no mu and sigma; name a file of reference statistics, or measure its "
            "images with open_reference"
        )
    return ReferenceStatistics(
        source=str(path),
        pooled=_moments_of(path, found, POOLED, width),
        spatial=(
            _moments_of(path, found, SPATIAL, spatial_width)
            if found.keys() >= set(SPATIAL)
            else None
        ),
    )


def _read_arrays(path: Path) -> dict[str, Tensor]:
    """The statistics of a file, without its images."""
    if not path.is_file():
        raise InputError(f"there is no file {path}; name an .npz file of reference statistics")
    try:
        with np.load(path, allow_pickle=False) as archive:
            # A lone .npy file gives an array, which has no names.
            names = getattr(archive, "files", [])
            arrays = {name: archive[name] for name in (*POOLED, *SPATIAL) if name in names}
            return {name: torch.from_numpy(a.astype(np.float64)) for name, a in arrays.items()}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as problem:
        reason = (str(problem).splitlines() or [type(problem).__name__])[0]
        raise InputError(f"cannot read the statistics {path}: {reason}") from None


def _moments_of(
    path: Path, found: dict[str, Tensor], names: tuple[str, str], width: int
) -> Moments:
    mean, covariance = names
    try:
        moments = Moments(mean=found[mean], covariance=found[covariance])
    except InputError as problem:
        raise InputError(f"{path}, {mean} and {covariance}: {problem}") from None
    if len(moments.mean) != width:
        raise InputError(
            f"{path}: {mean} is of width {len(moments.mean)}, the extractor gives {width}; "
            "use statistics of the same network and layer"
        )
    return moments


def open_reference(path: Path | str, extractor: Inception) -> ReferenceStatistics:
    """Statistics of a file that has them; else measured on its images.

    Args:
        path: an ``.npz`` file of statistics, of images (``arr_0``), or a folder of PNG files.
        extractor: measures images, and names the width that statistics must have.

    Raises:
        InputError: when there is nothing of the kind, or the width differs.
    """
    path = Path(path)
    if path.is_dir() or not _read_arrays(path):
        return measure_statistics(open_image_set(path), extractor, source=str(path))
    return read_statistics(path, width=extractor.width)


def write_statistics(path: Path | str, statistics: ReferenceStatistics) -> None:
    """Write the form that :func:`read_statistics` and the published evaluators read.

    The file appears under its name only when it is whole, and replaces one that was there.

    Args:
        path: ends in ``.npz``.
        statistics: the spatial ones are left out where there are none.

    Raises:
        InputError: for another ending or a folder that does not exist.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path} must end in .npz")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it")
    held = {POOLED: statistics.pooled, SPATIAL: statistics.spatial}
    arrays: dict[str, np.ndarray] = {}
    for (mean, covariance), moments in held.items():
        if moments is not None:
            arrays[mean] = moments.mean.numpy()
            arrays[covariance] = moments.covariance.numpy()
    part = path.with_name(path.name + ".part")
    try:
        with zipfile.ZipFile(part, "w") as archive:
            for name, values in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, values)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
