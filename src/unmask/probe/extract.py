"""Codes or features of every image of a source, in its order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.checkpoints.write_tensors import write_tensors
from unmask.data.build_cache import source_hash
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.files.durable import clear_leftovers, output, outputs
from unmask.machine.processes import by_main, dealt, launched, meet
from unmask.pictures import to_float

Extractor = Callable[[Tensor], Tensor]
"""From what a batch holds to codes or features, ``(B, ...)``; nothing is trained in it."""
PART = 1024  # images whose features are kept in one file
BATCH = 16  # images at once: at 256 pixels a tokenizer's encoder wants 0.15 GB for each


class Extraction(NamedTuple):
    """Images, and how they become codes or features.

    Args:
        source: the images.
        transform: brings them to one size.
        extractor: what they are read by, as float32 in [0, 1] on ``device``.
        device: where to compute.
        batch_size: images at once, which decides the memory and not the features.
    """

    source: ImageSource
    transform: Transform
    extractor: Extractor
    device: torch.device
    batch_size: int = BATCH


@torch.no_grad()
def extract(
    wanted: Extraction, part: range | None = None, *, together: bool = False
) -> Iterator[tuple[list[int], Tensor]]:
    """Codes or features of images.

    Args:
        wanted: of which images, and how.
        part: rows that are read; None reads all.
        together: whether the processes of the launcher share the work; all call this then, and
            have everything.

    Yields:
        Rows, ascending, without those of unreadable images; and ``(n, ...)`` values on the CPU.
    """

    def _read(row: int) -> Tensor | None:
        try:
            return wanted.transform(wanted.source.image(row))
        except UnreadableImageError:
            return None

    all_rows, size = range(len(wanted.source)) if part is None else part, wanted.batch_size

    def _batch(number: int) -> tuple[list[int], Tensor] | None:
        rows = all_rows[number * size :][:size]
        images = zip(rows, pool.map(_read, rows), strict=True)
        whole = {row: image for row, image in images if image is not None}
        if not whole:
            return None
        pixels = to_float(torch.stack(list(whole.values())).to(wanted.device))
        return list(whole), wanted.extractor(pixels).cpu()

    with ThreadPoolExecutor() as pool:
        batches = -(-len(all_rows) // size)
        yield from filter(None, dealt(batches, _batch, together=together))


def labelled(wanted: Extraction) -> tuple[Tensor, Tensor]:
    """All values and labels of a source at once; the processes of the launcher share the work.

    Raises:
        InputError: none of its images can be read.
    """
    source, parts = wanted.source, list(extract(wanted, together=True))
    if not parts:
        raise InputError(f"none of the {len(source)} images of {source.name} can be read")
    labels = [source.label(row) for rows, _ in parts for row in rows]
    return torch.cat([values for _, values in parts]), torch.tensor(labels)


def write_features(
    wanted: Extraction, path: Path, *, kept: Path | None = None
) -> tuple[Tensor, Tensor]:
    """Features of every image as a memory map, the labels beside it.

    The processes of the launcher share the work, and the main one writes.

    Args:
        wanted: of which images, and how; its extractor makes ``(B, D)`` features of them.
        path: of the ``.npy`` file, ``(N, D)`` float32 in the order of the source; labels go to
            ``.labels.npy``. An unreadable image has NaN features and the label -1.
        kept: how the names of files begin that keep finished parts, in a folder of this work; None
            keeps nothing, and a killed process has worked in vain.

    Returns:
        The map and the labels, ``(N,)`` int64, -1 throughout for unlabelled images; empty ones in
        other processes than the main one.

    Raises:
        InputError: none of the images can be read, or the disk is full or refuses; an older file is
            whole then.
    """
    source = wanted.source
    found = extract(wanted, together=True) if kept is None else _in_parts(wanted, kept)
    if not launched().is_main_process:
        deque(found, maxlen=0)
        return torch.empty(0), torch.empty(0)
    labels = torch.full((len(source),), -1)
    table: np.memmap | None = None
    with outputs(labels_beside(path), path, named=path, intact="older ones are whole") as asides:
        labels_aside, aside = asides
        for rows, values in found:
            if table is None:
                table = _blank_table(aside, len(source), values.shape[1])
            table[rows] = values.float().numpy()
            known = map(source.label, rows)
            labels[rows] = torch.tensor([-1 if label is None else label for label in known])
        if table is None:
            raise InputError(f"none of the {len(source)} images of {source.name} can be read")
        table.flush()
        with labels_aside.open("wb") as file:
            np.save(file, labels.numpy())
    return torch.from_numpy(np.load(path, mmap_mode="c")), labels


def _in_parts(wanted: Extraction, kept: Path) -> Iterator[tuple[list[int], Tensor]]:
    """What :func:`extract` gives, for the main process by way of files that any may have made."""
    state, rows = launched(), range(len(wanted.source))
    starts = rows[::PART]
    files = [kept.with_name(f"{kept.name}-{start:09d}.safetensors") for start in starts]
    by_main(lambda: clear_leftovers(kept.parent))
    missing = by_main(lambda: [n for n, file in enumerate(files) if not file.exists()])
    for number in missing[state.process_index :: state.num_processes]:
        parts = list(extract(wanted, rows[starts[number] :][:PART]))
        held = {"rows": torch.tensor([row for own, _ in parts for row in own], dtype=torch.int64)}
        if parts:
            held["values"] = torch.cat([values for _, values in parts])
        with output(files[number], "finished parts are whole", one_of_many=True) as aside:
            write_tensors(aside, held, {})
    meet()
    for file in files if state.is_main_process else []:
        try:
            held = load_file(file)
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{file} is damaged or not there ({error}); delete it if it is, and start again; "
                "the folder must be one that all machines share"
            ) from None
        if len(held["rows"]):
            yield held["rows"].tolist(), held["values"]


def images_identity(source: ImageSource) -> str:
    """What stands for names, classes and sizes of the images of a source."""
    sizes = blake2b(digest_size=8)
    for row in range(len(source)):
        bytes_, _, *place = source.stamp(row)  # times change where files are copied
        sizes.update(f"{bytes_} {place}\n".encode())
    return f"{source_hash(source)} {sizes.hexdigest()}"


def labels_beside(path: Path) -> Path:
    """The file with the labels of a file of features."""
    return path.with_suffix(".labels.npy")


def _blank_table(path: Path, rows: int, width: int) -> np.memmap:
    """A ``.npy`` file of ``(rows, width)`` NaN, open for writing.

    All of it is written before the work, so a disk that has no room for it says so at once.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    nan = np.full(width, np.nan, np.float32).tobytes()
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.writelines(nan for _ in range(rows))
    return np.load(path, mmap_mode="r+")


CHUNK = 1024  # queries compared at a time


def knn_accuracy(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries that their nearest neighbours name rightly (DINO, arXiv 2104.14294).

    Each of the ``k`` known images of largest cosine similarity s votes for its class with weight
    exp(s / temperature).

    Args:
        known: ``(N, D)`` features whose classes may be looked at.
        known_labels: ``(N,)`` int64.
        queries: ``(M, D)`` features of other images.
        labels: ``(M,)`` int64.
        k: neighbours; fewer where there are not as many known images.
        temperature: above 0.

    Raises:
        InputError: no neighbours, or nothing to compare.
    """
    if k < 1 or not len(known) or not len(queries):
        raise InputError(
            f"k={k} neighbours among {len(known)} images for {len(queries)} others: each must be "
            "at least 1"
        )
    known = F.normalize(known.float(), dim=1)
    classes = int(torch.cat([known_labels, labels]).max()) + 1
    right = 0
    for part, truth in zip(queries.split(CHUNK), labels.split(CHUNK), strict=True):
        near = (F.normalize(part.float(), dim=1) @ known.T).topk(min(k, len(known)))  # (m, k)
        votes = torch.zeros(len(part), classes, dtype=near.values.dtype)
        votes.scatter_add_(1, known_labels[near.indices], (near.values / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(queries)
