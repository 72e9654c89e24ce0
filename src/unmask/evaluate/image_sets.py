"""Sets of images on disk, as evaluators exchange them: folders of pictures and ``.npz`` files."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from unmask.errors import InputError
from unmask.evaluate.folder_set import FolderSet
from unmask.evaluate.image_batch import Batches, as_batches
from unmask.evaluate.npz_set import NpzSet
from unmask.files.durable import output, output_folder
from unmask.files.folders import check_folder
from unmask.pictures import to_pil

ImageSet = FolderSet | NpzSet
Shape = tuple[int, int, int, int]


def open_image_set(path: Path | str, *, batch_size: int = 64) -> ImageSet:
    """A folder of pictures or an ``.npz`` file, read batch by batch.

    Raises:
        InputError: when there is nothing at ``path`` that can be read.
    """
    if not Path(path).exists():
        raise InputError(f"{path} does not exist; name a folder of image files or an .npz file")
    kind = FolderSet if Path(path).is_dir() else NpzSet
    return kind(path, batch_size=batch_size)


def write_npz(path: Path | str, source: Batches) -> int:
    """Write ``arr_0`` and, if every batch has labels, ``arr_1``; memory holds one batch.

    The file appears under its name only when it is whole, and replaces one that was there.

    Args:
        path: ends in ``.npz``.
        source: batches of uint8 ``(B, C, H, W)``, all of one shape.

    Returns:
        The number of images.

    Raises:
        InputError: for another ending, an empty source, shapes that differ, or a disk that is full
            or refuses.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise InputError(f"{path} must end in .npz")
    # The header states the count, so pixels wait in a spool until it is known.
    with output(path) as aside, tempfile.TemporaryFile(dir=aside.parent) as spool:
        shape, labels = _spool(source, spool)
        spool.seek(0)
        pack_npz(aside, shape, labels, iter(lambda: spool.read(1 << 20), b""))
    return shape[0]


def pack_npz(path: Path, shape: Shape, labels: Sequence[int], blocks: Iterable[bytes]) -> None:
    """Write an ``.npz`` file of images whose number is known.

    Args:
        path: of the file, which is written straight; see :func:`unmask.files.durable.output`.
        shape: (N, H, W, C).
        labels: one an image; left out unless there are so many.
        blocks: bytes of the images in their order.
    """
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(member, header)
            for block in blocks:
                member.write(block)
        if len(labels) == shape[0]:
            with archive.open("arr_1.npy", "w") as member:
                np.lib.format.write_array(member, np.array(labels, np.int64))


def _spool(source: Batches, spool: IO[bytes]) -> tuple[Shape, list[int]]:
    """Write pixels in (N, H, W, C) order; return that shape and the labels met."""
    count, image_shape, labels = 0, None, list[int]()
    for batch in as_batches(source):
        pixels = batch.images.permute(0, 2, 3, 1).contiguous().cpu()
        image_shape = image_shape or tuple(pixels.shape[1:])
        if tuple(pixels.shape[1:]) != image_shape:
            raise InputError(
                f"images of shape {tuple(pixels.shape[1:])} after {image_shape} (height, width, "
                "channels); one set needs one shape"
            )
        spool.write(pixels.numpy().tobytes())
        count += len(pixels)
        if batch.labels is not None:
            labels += batch.labels.tolist()
    if image_shape is None or not count:
        raise InputError("no images to write; give at least 1")
    height, width, channels = image_shape
    return (count, height, width, channels), labels


def write_folder(path: Path | str, source: Batches) -> int:
    """Write PNG files named by index, in ``class_<k>`` folders where there are labels.

    Without labels all lie side by side, as torch-fidelity and pytorch-fid look for them. The folder
    appears under its name only when it is whole.

    Args:
        path: a new or empty folder.
        source: batches of uint8 ``(B, C, H, W)``, C 1 or 3.

    Returns:
        The number of images.

    Raises:
        InputError: when the folder holds something already, or the disk is full or refuses.
    """
    path = Path(path)
    check_folder(path, "image set")
    count = 0
    with output_folder(path) as aside:
        for batch in as_batches(source):
            labels = [None] * len(batch.images) if batch.labels is None else batch.labels.tolist()
            for image, label in zip(batch.images, labels, strict=True):
                folder = aside if label is None else aside / f"class_{label}"
                folder.mkdir(exist_ok=True)
                to_pil(image).save(folder / f"{count:06d}.png")
                count += 1
    return count
