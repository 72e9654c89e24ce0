from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_data import ListSource
from torch.utils.data import DataLoader

from unmask.data.batches import BadImages, ImageBatches, epoch_rows, share_rows
from unmask.data.transform import Transform
from unmask.errors import InputError

PLAIN = Transform(size=8, crop="none")
VARIED = Transform(size=8, crop="random", flip=True)


def test_an_epoch_visits_distinct_rows_and_drops_the_rest() -> None:
    rows = torch.cat([epoch_rows(23, 5, seed=3, step=step) for step in range(4)])
    assert rows.dtype == torch.int64
    assert len(rows.unique()) == 20
    assert rows.max() < 23
    following = torch.cat([epoch_rows(23, 5, seed=3, step=step) for step in range(4, 8)])
    assert len(following.unique()) == 20
    assert not torch.equal(rows, following)


def test_rows_are_a_function_of_seed_and_step() -> None:
    wanted = [epoch_rows(50, 7, seed=1, step=step) for step in range(30)]
    for step in (29, 3, 17, 0):
        assert torch.equal(epoch_rows(50, 7, seed=1, step=step), wanted[step])
    assert not torch.equal(epoch_rows(50, 7, seed=2, step=0), wanted[0])


def test_the_caller_may_change_what_it_got() -> None:
    first = epoch_rows(9, 9, seed=0, step=0)
    kept = first.clone()
    first.zero_()
    assert torch.equal(epoch_rows(9, 9, seed=0, step=0), kept)


def test_rows_do_not_change_between_versions() -> None:
    assert epoch_rows(10, 4, seed=0, step=3).tolist() == [3, 2, 8, 0]


def test_batch_larger_than_the_data() -> None:
    with pytest.raises(InputError, match="batch_size=64 does not fit the 10 images; use 1 to 10"):
        epoch_rows(10, 64, seed=0, step=0)
    with pytest.raises(InputError, match="batch_size=64"):
        ImageBatches(ListSource([1] * 10), PLAIN, batch_size=64, seed=0, steps=1)


def test_shares_partition_the_batch_in_the_stated_order() -> None:
    rows = torch.arange(12)
    parts = {
        (m, r): rows[cut].tolist()
        for r in range(2)
        for m, cut in enumerate(share_rows(rows, rank=r, world=2, accumulate=3))
    }
    assert parts[0, 0] == [0, 1]
    assert parts[0, 1] == [2, 3]
    assert parts[2, 0] == [8, 9]
    assert sorted(row for part in parts.values() for row in part) == list(range(12))
    with pytest.raises(InputError, match=r"batch_size=12 .* 5 processes; choose a multiple of 5"):
        share_rows(rows, rank=0, world=5, accumulate=1)


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("images", [12, 18, 30])
@pytest.mark.parametrize(
    "cut", [{"accumulate": 4}, {"accumulate": 5}, {"micro_batch_size": 4}, {"micro_batch_size": 99}]
)
def test_micro_batches_with_a_remainder_are_those_of_a_split(
    world: int, images: int, cut: dict[str, int]
) -> None:
    rows, share = torch.arange(images), images // world
    size = cut.get("micro_batch_size") or math.ceil(share / cut["accumulate"])
    every = [share_rows(rows, rank=rank, world=world, **cut) for rank in range(world)]
    for parts in every:
        given = [part.stop - part.start for part in parts]
        assert given == [len(part) for part in torch.arange(share).split(size)]
    by_micro_batch = [rows[part] for parts in zip(*every, strict=True) for part in parts]
    assert torch.equal(torch.cat(by_micro_batch), rows), "a micro-batch of all is one range"


def test_images_of_micro_batches_with_a_remainder_are_those_of_the_whole_batch() -> None:
    kwargs = {"batch_size": 10, "seed": 5, "steps": 9}
    whole = ImageBatches(source(), VARIED, **kwargs)[1]
    parts = ImageBatches(source(), VARIED, micro_batch_size=4, **kwargs)[1]
    assert [len(images) for images, _ in parts] == [4, 4, 2]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole[0][0])


def source(count: int = 24) -> ListSource:
    return ListSource(list(range(count)), [i % 3 for i in range(count)])


def test_shapes_and_labels() -> None:
    batches = ImageBatches(source(), PLAIN, batch_size=8, seed=0, steps=5, accumulate=2)
    assert len(batches) == 5
    (images, labels), second = batches[4]
    assert images.shape == second[0].shape == (4, 3, 8, 8)
    assert labels is not None
    assert (images.dtype, labels.dtype) == (torch.uint8, torch.int64)
    assert (images[:, 0, 0, 0] % 3 == labels).all()  # the pixel is the row, the label row mod 3
    with pytest.raises(IndexError):
        batches[5]


def test_unlabelled() -> None:
    batches = ImageBatches(ListSource([1, 2]), PLAIN, batch_size=2, seed=0, steps=1)
    assert batches[0][0][1] is None


@pytest.mark.parametrize("world", [2, 4])
def test_processes_together_see_the_batch_of_one(world: int) -> None:
    kwargs = {"batch_size": 8, "seed": 5, "steps": 9}
    alone = ImageBatches(source(), VARIED, accumulate=2, **kwargs)[7]
    shares = [
        ImageBatches(source(), VARIED, accumulate=2, rank=r, world=world, **kwargs)[7]
        for r in range(world)
    ]
    for m in range(2):
        for part in range(2):
            whole: Any = alone[m][part]
            parts: Any = [share[m][part] for share in shares]
            assert torch.equal(torch.cat(parts), whole)


def test_accumulation_cuts_the_same_batch() -> None:
    kwargs = {"batch_size": 8, "seed": 5, "steps": 9}
    whole = ImageBatches(source(), VARIED, **kwargs)[3]
    parts = ImageBatches(source(), VARIED, accumulate=4, **kwargs)[3]
    assert torch.equal(torch.cat([images for images, _ in parts]), whole[0][0])


def test_batches_do_not_depend_on_what_was_read_before() -> None:
    batches = ImageBatches(source(), VARIED, batch_size=6, seed=1, steps=20)
    wanted = batches[13][0][0]
    for step in range(13):
        batches[step]
    assert torch.equal(batches[13][0][0], wanted)
    other = ImageBatches(source(), VARIED, batch_size=6, seed=2, steps=20)
    assert not torch.equal(other[13][0][0], wanted)


def test_unreadable_images_are_replaced_by_the_next_and_named() -> None:
    bad = ListSource([0, None, None, 3, None], [0, 1, 1, 2, 1])
    batches = ImageBatches(bad, PLAIN, batch_size=5, seed=0, steps=2)
    order = epoch_rows(5, 5, seed=0, step=0).tolist()
    ((images, labels),) = batches[0]
    replaced = {0: 0, 1: 3, 2: 3, 3: 3, 4: 0}
    assert images[:, 0, 0, 0].tolist() == [replaced[row] for row in order]
    assert labels is not None
    assert labels.tolist() == [{0: 0, 3: 2}[replaced[row]] for row in order]
    assert batches.bad.names() == ["item1", "item2", "item4"]
    assert batches.bad.news() == (
        "3 of 5 images cannot be read and were replaced: item1, item2, item4"
    )
    assert batches.bad.news() is None


def test_worker_processes_share_what_they_found() -> None:
    batches = ImageBatches(ListSource([5, None, 6, 7]), PLAIN, batch_size=4, seed=0, steps=3)
    read = list(DataLoader(batches, batch_size=None, num_workers=1))
    assert torch.equal(read[2][0][0], batches[2][0][0])
    assert batches.bad.rows() == [1]


def test_many_bad_images_are_counted_not_listed() -> None:
    bad = BadImages(ListSource([None] * 9))
    for row in range(9):
        bad.add(row)
    assert len(bad) == 9
    assert str(bad.news()).endswith("item0, item1, item2, item3, item4, …")


def test_nothing_readable() -> None:
    batches = ImageBatches(ListSource([None, None]), PLAIN, batch_size=1, seed=0, steps=1)
    with pytest.raises(InputError, match="none of the 2 images of list can be read"):
        batches[0]


def test_an_image_of_the_wrong_size_is_named() -> None:
    strict = Transform(size=16, crop="none")
    batches = ImageBatches(ListSource([1]), strict, batch_size=1, seed=0, steps=1)
    with pytest.raises(InputError, match=r"^item0: the image is 8 x 8"):
        batches[0]
