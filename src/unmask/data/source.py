"""A set of images, whatever files it lies in."""

from __future__ import annotations

from pathlib import Path

from unmask.data.folder import FolderImages
from unmask.data.idx import IdxImages
from unmask.data.parquet import ParquetImages
from unmask.data.reader import ImageSource, Listed, Reader
from unmask.data.split import Split, check_split, hash_rule, hashed_rows
from unmask.data.webdataset import TarImages
from unmask.errors import InputError

__all__ = ["ImageSource", "Listed", "open_source"]

KINDS: tuple[type[Reader], ...] = (IdxImages, TarImages, ParquetImages, FolderImages)


def _kind_of(path: Path) -> type[Reader]:
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of images, shards or tables")
    for kind in KINDS:
        if kind.recognises(path):
            return kind
    if (path / "cache.json").exists():
        raise InputError(f"{path} is a latent cache, not a set of images; train from it directly")
    known = "; ".join(kind.kind for kind in KINDS)
    if path.is_file():
        raise InputError(
            f"{path} is a file of unknown kind; known are folders or files of: {known}"
        )
    raise InputError(f"{path} holds no images of a known kind: {known}")


def open_source(path: str | Path, *, split: Split = "train", val_share: float = 0.1) -> ImageSource:
    """Open the images at ``path``, recognising their kind from what lies there.

    Args:
        path: a folder of images or of class folders, WebDataset tars, IDX files or Parquet files.
        split: a side of the data set's own split, where it has one; otherwise keys decide by hash.
        val_share: expected share of val where there is no official split, in (0, 1).

    Returns:
        The images of that side; ``split_rule`` says which rule was used.

    Raises:
        InputError: nothing there, nothing of a known kind, damaged files, or an empty side.
    """
    check_split(split, val_share)
    path = Path(path).expanduser()
    kind = _kind_of(path)
    official = kind.official_split(path)
    images = kind(path, split if official else "all")
    every = len(images)
    if not official:
        images.keep(hashed_rows(map(images.key, range(every)), split, val_share))
    images.split_rule = official or hash_rule(val_share)
    if not len(images):
        raise InputError(
            f"the {split} side of {path} is empty ({images.split_rule}; {every} images in all); "
            "use split='all' or another val_share"
        )
    images.name = f"{path.resolve().name} ({split})"
    return images
