"""Whoever measures a chunk, and when, the numbers are those of one process that did it all."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import joined
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate import chunks as chunks_module
from unmask.evaluate import evaluation
from unmask.evaluate.chunks import Chunks
from unmask.evaluate.features import Features
from unmask.evaluate.generated import Generated
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.measure import RunningScores
from unmask.evaluate.numbered_set import NumberedSet
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.reference import Reference
from unmask.evaluate.report import Report
from unmask.machine import processes as processes_module
from unmask.machine.processes import part

BATCH = 3  # so 12 images a chunk


class Sums:
    """Features whose rounding depends on the batch they are computed in."""

    name, identity, width = "sums", "sums, no weights", 4

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, images: Tensor) -> Features:
        self.images += len(images)
        x = images[:, 0, :2, :2].flatten(1).float() / 7 + images.float().mean() * 1e-6
        return Features(x, x.softmax(1), torch.cat([x, x.sin()], 1))


def numbered(
    name: str = "generated", count: int = 40, bad: Collection[int] = (), wanted: int | None = None
) -> NumberedSet:
    """A set of which some positions cannot be read."""
    shape = (count, 1, 5, 5)
    x = torch.randint(0, 256, shape, generator=keyed_generator(0, name), dtype=torch.uint8)
    skipped: list[str] = []

    def between(start: int, stop: int) -> Iterator[ImageBatch]:
        for first in range(start, stop, BATCH):
            rows = range(first, min(first + BATCH, stop))
            skipped.extend(str(row) for row in rows if row in bad)
            yield ImageBatch(x[[row for row in rows if row not in bad]])

    return NumberedSet(name=name, between=between, positions=count, wanted=wanted, skipped=skipped)


def sets() -> list[NumberedSet]:
    return [
        numbered(),
        numbered("real floor", 50, wanted=40),
        numbered("reference", 60, {0, 4, 13, 14, 15, 30}, wanted=45),
    ]


def opened(folder: Path | None, extractor: Sums | None = None, **settings: str) -> Chunks:
    extractor = extractor or Sums()
    settings = {"images": "a", **settings}
    return Chunks(folder, settings, (extractor, None), batch_size=BATCH)


def report_of(chunks: Chunks, images: Sequence[NumberedSet]) -> Report:
    generated, floor, reference = images
    return evaluation._report(
        chunks,
        Generated(sets=[generated], shape=(1, 5, 5)),
        {"real floor": floor, "reference": reference},
        Reference(),
        EvaluationOptions(),
        (Sums(), None),
    )


@pytest.fixture(scope="module")
def expected() -> Report:
    return report_of(opened(None), sets())


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_any_number_of_processes_gives_the_same_bits(
    tmp_path: Path, expected: Report, processes: int
) -> None:
    for rank in reversed(range(processes)):
        chunks, own = opened(tmp_path), sets()
        chunks.compute(chunks.missing(own, rank=rank, processes=processes))
    folding = Sums()
    images = sets()
    assert report_of(opened(tmp_path, folding), images) == expected
    assert images[2].skipped == ["0", "4", "13", "14", "15", "30"]
    # Past the wanted number of positions, where unreadable images left too few.
    assert folding.images == 12


LONG = pytest.param(2, 5.0, 20.0, marks=pytest.mark.slow, id="long")


@pytest.mark.parametrize(("processes", "patience", "work"), [(2, 1.0, 1.5), (4, 1.0, 1.5), LONG])
def test_launched_processes_give_the_report_of_one(
    tmp_path: Path,
    expected: Report,
    processes: int,
    patience: float,
    work: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the main one takes longer than the default group waits."""
    totals = RunningScores.of

    def slowly(*arguments: Any, **more: Any) -> RunningScores:
        time.sleep(work)
        return totals(*arguments, **more)

    def one(rank: int) -> None:
        monkeypatch.setattr(RunningScores, "of", slowly)
        assert folded(tmp_path / "work") == expected
        (tmp_path / str(rank)).touch()
        part()

    assert joined(processes, one, patience=patience) == [0] * processes
    assert all((tmp_path / str(rank)).exists() for rank in range(processes))


def folded(folder: Path, extractor: Sums | None = None) -> Report:
    """The report that every process of a launcher has."""
    chunks, images = opened(folder, extractor), sets()
    return chunks.fold(images, lambda: report_of(chunks, images))


def test_a_folder_that_not_all_processes_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes_module, "LATE", 0.2)

    def one(rank: int) -> None:
        with pytest.raises(InputError, match="name a folder that all machines share"):
            opened(tmp_path / str(rank))

    assert joined(2, one) == [0, 0]


def test_processes_go_on_after_one_was_killed(tmp_path: Path, expected: Report) -> None:
    class Dies(Sums):
        def __call__(self, images: Tensor) -> Features:
            if self.images > 20:
                os._exit(9)
            return super().__call__(images)

    def one_dies(rank: int) -> None:
        with pytest.raises(InputError, match="another process of this launch has ended"):
            folded(tmp_path / "work", Dies() if rank == 1 else None)

    def all_live(rank: int) -> None:
        assert folded(tmp_path / "work") == expected
        part()

    assert joined(2, one_dies) == [0, 9]
    left = {file.name for file in (tmp_path / "work").glob("*.safetensors")}
    assert 0 < len(left) < 12
    assert joined(3, all_live) == [0] * 3


def test_a_folder_of_an_older_revision_goes_on(tmp_path: Path, expected: Report) -> None:
    """Its chunks have four batches, and it notes neither that nor the sizes of files."""
    (tmp_path / "settings.json").write_text('{"images": "a"}')
    for _ in range(2):
        chunks, images = opened(tmp_path, **{"sizes of real images": "b"}), sets()
        chunks.compute(chunks.missing(images))
        assert report_of(chunks, images) == expected
    assert len(list(tmp_path.glob("*.safetensors"))) == 4 + 4 + 5
    with pytest.raises(InputError, match="images was 'a'"):
        opened(tmp_path, images="c")


def test_many_processes_share_finer_chunks_and_few_go_on_with_them(
    tmp_path: Path, expected: Report, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks_module, "FEW", 0)
    images = sets()
    shares = [opened(tmp_path).missing(images, rank=rank, processes=40) for rank in range(40)]
    assert all(shares)
    assert sum(map(len, shares)) == 14 + 14 + 15
    opened(tmp_path).compute(shares[0])
    monkeypatch.undo()
    chunks = opened(tmp_path)
    chunks.compute(chunks.missing(images))
    assert len(list(tmp_path.glob("*.safetensors"))) == 14 + 14 + 15
    assert report_of(chunks, images) == expected


def test_other_sizes_of_files_are_another_evaluation(tmp_path: Path) -> None:
    opened(tmp_path, **{"sizes of real images": "a"})
    with pytest.raises(InputError, match="sizes of real images was 'a' and is 'b' now"):
        opened(tmp_path, **{"sizes of real images": "b"})


def test_a_stopped_measurement_goes_on_from_its_last_whole_chunk(
    tmp_path: Path, expected: Report
) -> None:
    class Stops(Sums):
        def __call__(self, images: Tensor) -> Features:
            if self.images > 50:
                raise KeyboardInterrupt
            return super().__call__(images)

    first = opened(tmp_path, Stops())
    with pytest.raises(KeyboardInterrupt):
        first.compute(first.missing(sets()))
    whole = {file.name: file.stat().st_mtime_ns for file in tmp_path.glob("*.safetensors")}
    assert len(whole) == 5  # 40 + 12 images
    again = opened(tmp_path)
    again.compute(again.missing(sets()))
    assert report_of(again, sets()) == expected
    assert whole.items() <= {f.name: f.stat().st_mtime_ns for f in tmp_path.iterdir()}.items()
    assert not again.missing(sets())


def test_limits_and_statistics_of_a_set(tmp_path: Path) -> None:
    images = numbered("reference", 60, {0, 4}, wanted=45)
    found = RunningScores.of(opened(tmp_path).read(images))
    assert found.count == 45
    statistics = found.statistics("reference")
    assert statistics.spatial is not None
    assert (statistics.images, len(statistics.pooled.mean), len(statistics.spatial.mean)) == (
        45,
        4,
        8,
    )


def test_a_chunk_of_unreadable_images_alone(tmp_path: Path) -> None:
    images = numbered("reference", 30, set(range(12, 24)))
    assert RunningScores.of(opened(tmp_path).read(images)).count == 18


def test_the_folder_of_another_evaluation_is_refused_by_what_differs(tmp_path: Path) -> None:
    opened(tmp_path / "work", seeds="0 to 9", network="n")
    with pytest.raises(InputError, match="seeds was '0 to 9' and is '5 to 14' now"):
        opened(tmp_path / "work", seeds="5 to 14", network="n")
    with pytest.raises(InputError, match="network was 'n' and is None now"):
        opened(tmp_path / "work", seeds="0 to 9")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match=r"holds 'kept\.txt' but no evaluation"):
        opened(tmp_path / "used")
    assert [p.name for p in (tmp_path / "used").iterdir()] == ["kept.txt"]


def test_damaged_files_are_named(tmp_path: Path) -> None:
    chunks, images = opened(tmp_path), numbered()
    chunks.compute(chunks.missing([images]))
    file = tmp_path / "generated-00001.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"generated-00001\.safetensors is damaged"):
        list(chunks.read(images))
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json is damaged"):
        opened(tmp_path)
