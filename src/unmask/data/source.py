"""A set of images, whatever files it lies in."""

from __future__ import annotations

import re
from pathlib import Path

from unmask.assets import HERE
from unmask.data.folder import FolderImages
from unmask.data.idx import IdxImages
from unmask.data.parquet import ParquetImages
from unmask.data.reader import ImageSource, Listed, Reader, ShardReader
from unmask.data.split import TRAIN_NAMES, VAL_NAMES, Split, check_split, hash_rule, hashed_rows
from unmask.data.tar_index import COMPRESSED
from unmask.data.walk import Walk
from unmask.data.webdataset import TarImages
from unmask.errors import InputError, did_you_mean
from unmask.files.damage import reason

__all__ = ["EMBEDDED", "ImageSource", "Listed", "open_source", "summary"]

EMBEDDED = {"avatars": HERE / "avatars", "fashion-mnist": HERE / "fashion_mnist_10k"}
"""Sets of images that travel with the package, by the name that ``--data`` takes.

avatars: 5,000 training and 500 validation faces in ten drawn styles, 64 x 64 colour (DiceBear's
designs, CC BY 4.0 and CC0 1.0 by style, named beside them).
fashion-mnist: the first 8,000 training and 2,000 validation images of the original files, 28 x 28
grey (github.com/zalandoresearch/fashion-mnist, MIT licence beside them).
"""

KINDS: tuple[type[Reader], ...] = (IdxImages, TarImages, ParquetImages, FolderImages)
SHARDS: tuple[type[ShardReader], ...] = (TarImages, ParquetImages)
# Shards are numbered, or named after their side; another archive beside pictures is a stray one.
SHARD = re.compile(rf".*\d|({'|'.join((*TRAIN_NAMES, *VAL_NAMES))})(?![a-z]).*", re.IGNORECASE)
WAYS_OUT: dict[Split, str] = {
    "train": "train on all of them (split 'all')",
    "val": "add images, or hold some out in a folder or in files called val",
    "all": "add images",
}


def _kind_of(path: Path) -> type[Reader]:
    if not path.exists():
        raise InputError(
            f"{path} does not exist; give a folder of images, shards or tables, or the name of a "
            f"set that travels along: {did_you_mean(str(path), EMBEDDED)}"
        )
    for kind in KINDS:
        if kind.recognises(path):
            return FolderImages if _stray(kind, path) else kind
    if (path / "cache.json").exists():
        raise InputError(f"{path} is a latent cache, not a set of images; train from it directly")
    known = "; ".join(kind.kind for kind in KINDS)
    if path.is_file():
        raise InputError(
            f"{path} is a file of unknown kind; known are folders or files of: {known}"
        )
    raise InputError(f"{path} holds no images of a known kind{_near(path)}: {known}")


def _stray(kind: type[Reader], path: Path) -> bool:
    """Whether archives are none of a data set's shards, and lie beside pictures."""
    found = [file for shards in SHARDS if shards is kind for file in shards.find(path)]
    numbered = any(SHARD.fullmatch(file.stem) for file in found)
    return bool(found) and not numbered and FolderImages.recognises(path)


def _holds_images(path: Path) -> bool:
    """Whether it is a folder of some kind of images."""
    return path.is_dir() and any(kind.recognises(path) for kind in KINDS)


def _near(path: Path) -> str:
    """What in a folder may be meant, a clause; empty if nothing is."""
    inside = sorted(path.iterdir())
    packed = [file.name for file in inside if file.name.lower().endswith(COMPRESSED)]
    if packed:
        return f", but {packed[0]}, which is compressed (unpack it to a .tar); known are"
    below = [at for at in inside if _holds_images(at)]
    return f", but {below[0].name} in it does (give that); known are" if below else ""


def open_source(path: str | Path, *, split: Split = "train", val_share: float = 0.1) -> Reader:
    """Open the images at ``path``, recognising their kind from what lies there.

    Args:
        path: a folder of images or of class folders, WebDataset tars, IDX files or Parquet files;
            or a key of :data:`EMBEDDED`. A folder of that name is ``./fashion-mnist``.
        split: a side of the data set's own split, where it has one; otherwise keys decide by hash.
            "all" takes both.
        val_share: expected share of val where there is no official split, in (0, 1).

    Returns:
        The images of that side; ``split_rule`` says which rule was used, ``notes`` what lies there
        and is not read.

    Raises:
        InputError: nothing there, nothing of a known kind, damaged files, or an empty side.
    """
    check_split(split, val_share)
    embedded = EMBEDDED.get(path) if isinstance(path, str) else None
    place = embedded or Path(path).expanduser()
    try:
        images = _open(place, split, val_share)
    except OSError as error:
        raise InputError(f"{place} cannot be read ({reason(error)})") from error
    if embedded and Path(path).exists():
        images.notes = [*images.notes, f"{path} is the set that travels along, not ./{path}"]
    return images


def _open(path: Path, split: Split, val_share: float) -> Reader:
    kind = _kind_of(path)
    official = kind.official_split(path)
    images = kind(path, split if official else "all")
    every = len(images)
    if not official:
        images.keep(hashed_rows(map(images.key, range(every)), split, val_share))
        images.total = every
    images.split_rule = official or hash_rule(val_share)
    if not len(images):
        raise InputError(
            f"the {split} side of {path} is empty ({images.split_rule}; {every} images in all); "
            + (WAYS_OUT[split] if every else "put images there")
        )
    images.name = f"{path.resolve().name} ({split})"
    if kind is not FolderImages and path.is_dir():
        images.notes = [*images.notes, *_pictures_beside(path)]
    return images


def _pictures_beside(path: Path) -> list[str]:
    first = next(Walk(path).pictures(), None)
    if first is None:
        return []
    return [f"left out of {path}: image files such as {first}; give their folder to read them"]


def summary(
    source: Reader, *, title: str = "", counted: bool = True, split: Split = "train"
) -> list[str]:
    """What a person should know of an open source, a line each: its numbers, and what is left out.

    Args:
        source: of one side.
        title: name in place of the source's own, which files remember.
        counted: whether the numbers are said here.
        split: which side it is.
    """
    classes = f" of {len(source.class_names):,} classes" if source.class_names else ""
    held_out, verbs = source.total - len(source), ("trained on", "held out")
    this, other = reversed(verbs) if split == "val" else verbs
    sides = f"{len(source):,} {this}, {held_out:,} {other}" if held_out else f"all {this}"
    said = [f"{source.total:,} images{classes}, {sides}"] if counted else []
    said += [source.split_rule] if held_out else []
    return [f"{title or source.name}: {'; '.join(said) or 'all of them'}", *source.notes]
