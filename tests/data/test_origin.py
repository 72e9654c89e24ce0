from __future__ import annotations

from pathlib import Path

import pytest
from tiny_data import ListSource

from unmask.data.origin import Origin, compare, difference, read_origin, stamp_of
from unmask.files.digests import digest_of


def origin_of(source: ListSource) -> Origin:
    rows = range(len(source))
    return Origin(
        keys=[source.key(row) for row in rows],
        labels=[source.label(row) for row in rows],
        digests=[digest_of(source.content(row)) for row in rows],
        stamps=[stamp_of(source, row) for row in rows],
    )


def test_it_reads_what_it_wrote_and_nothing_else(tmp_path: Path) -> None:
    origin, file = origin_of(ListSource([1, 2, 3], [0, 1, 0])), tmp_path / "x.origin"
    file.write_bytes(origin.content())
    assert read_origin(file, origin.digest) == origin
    assert origin.content() == origin_of(ListSource([1, 2, 3], [0, 1, 0])).content()
    assert read_origin(file, "0" * 32) is None
    whole = file.read_bytes()
    for place in range(len(whole)):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        assert read_origin(file, origin.digest) in (None, origin)
        file.write_bytes(whole[:place])
        assert read_origin(file, origin.digest) is None
    assert read_origin(tmp_path / "none", origin.digest) is None


def test_the_digest_is_of_keys_labels_and_bytes_only() -> None:
    one = origin_of(ListSource([1, 2], [0, 1]))
    touched = ListSource([1, 2], [0, 1])
    touched.time = 5
    assert origin_of(touched).digest == one.digest
    for other in (ListSource([1, 3], [0, 1]), ListSource([1, 2], [1, 0]), ListSource([1, 2])):
        assert origin_of(other).digest != one.digest
    assert one._replace(keys=["item0", "\udcff"]).digest != one.digest  # a name that is no text


def test_only_what_was_touched_is_compared() -> None:
    source = ListSource([1, 2, 3])
    origin = origin_of(source)
    now = ListSource([1, 9, 8])
    assert compare(origin, now, range(3)) == ([], origin)  # the times tell of no change
    now.stamp = lambda row: (row, int(row == 1))  # type: ignore[method-assign]
    altered, after = compare(origin, now, range(3))
    assert altered == ["item1"]
    assert after.stamps[0] == origin.stamps[0]
    assert after.stamps[1] != origin.stamps[1]


@pytest.mark.parametrize(
    ("values", "labels", "said"),
    [([1, 2, 3, 4], [0, 1, 0, 1], "1 added (item3)"), ([1, 2], [0, 1], "1 removed (item2)"),
     ([1, 2, 3], [0, 0, 1], "2 of another class (item1, item2)")],
)  # fmt: skip
def test_what_differs_is_named(values: list[int], labels: list[int], said: str) -> None:
    before = [origin_of(ListSource([1, 2, 3], [0, 1, 0]))]
    assert str(difference(before, ListSource(values, labels))) == said


def test_many_differences_are_counted() -> None:
    before = [origin_of(ListSource([1]))]
    assert str(difference(before, ListSource(list(range(9))))) == "8 added (item1, item2, item3, …)"
    mixed = origin_of(ListSource([1, 2]))
    swapped = mixed._replace(keys=mixed.keys[::-1])
    assert str(difference([swapped], ListSource([1, 2]))) == "their order"
