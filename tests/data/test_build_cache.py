from __future__ import annotations

import io
import os
import resource
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest
import torch
from disk import watched
from PIL import Image
from tiny_data import TOKENIZERS, ListSource, MomentTokenizer, PatchTokenizer, contents, pixels, png
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache, plan_cache
from unmask.data.cache import LatentCache, verify
from unmask.data.cache_records import Encoding
from unmask.data.decoding import decode_image
from unmask.data.reader import ImageSource
from unmask.data.transform import Transform
from unmask.data.write_cache import CacheReport
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files.durable import aside_of
from unmask.image_size import CachedCrop
from unmask.tokenizers.tokenizer import Tokenizer


class Changed(ListSource):
    """Two images have other bytes under their old names; all files were touched."""

    time = 1

    def content(self, row: int) -> bytes:
        return png(77) if row in (3, 8) else super().content(row)


VALUES = [10 * i for i in range(10)]
LABELS = [i % 4 for i in range(10)]
LAYOUT = CacheLayout(image_size=8, shard_size=4, batch_size=3)


def build(
    out: Path,
    *,
    tokenizer: Tokenizer | None = None,
    source: ImageSource | None = None,
    layout: CacheLayout = LAYOUT,
    **more: Any,
) -> CacheReport:
    """Build a cache of ten images, unless told otherwise."""
    tokenizer = tokenizer or PatchTokenizer()
    source = source or ListSource(VALUES, LABELS)
    return build_cache(tokenizer, source, out=out, layout=layout, progress=False, **more)


def test_files_are_plain_arrays(tmp_path: Path) -> None:
    report = build(tmp_path / "c")
    assert (report.complete, report.rows, report.written, report.kept) == (True, 10, 3, 0)
    codes = np.load(tmp_path / "c" / "codes-00002.npy")
    assert (codes.shape, codes.dtype) == ((2, 2, 16), np.uint16)
    assert codes[1, 0, 0] == 90 + 256
    assert np.load(tmp_path / "c" / "labels.npy").tolist() == LABELS
    assert not list((tmp_path / "c").glob(".*.partial"))


def test_every_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deeds = watched(monkeypatch)
    build(tmp_path / "c")
    written = [name for deed, name in deeds if deed == "rename"]
    assert deeds == [pair for name in written for pair in (("wait", "aside"), ("rename", name))]
    assert written[0] == "plan.json"
    assert written[-1] == "cache.json"
    note = written.index("codes-00001.json")
    assert written[note - 2 : note] == ["codes-00001.npy", "codes-00001.origin"]


def test_a_second_build_encodes_nothing(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    tokenizer = PatchTokenizer()
    report = build(tmp_path / "c", tokenizer=tokenizer)
    assert (report.written, report.kept, tokenizer.encoded) == (0, 3, 0)
    assert contents(tmp_path / "c") == before


def stop_after(
    tokenizer: MomentTokenizer | PatchTokenizer, limit: int
) -> MomentTokenizer | PatchTokenizer:
    """The tokenizer, dying when it has encoded a number of images."""
    name = "moments" if hasattr(tokenizer, "moments") else "encode"
    encode = getattr(tokenizer, name)

    def _encode(images: Tensor) -> Tensor:
        if tokenizer.encoded >= limit:
            raise KeyboardInterrupt
        return encode(images)

    setattr(tokenizer, name, _encode)
    return tokenizer


@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.parametrize("limit", [0, 3, 8, 11, 16])
def test_a_stopped_build_continues_to_the_same_bytes(tmp_path: Path, limit: int, kind: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "c", tokenizer=stop_after(TOKENIZERS[kind](), limit))
    with pytest.raises(InputError, match="no finished latent cache"):
        LatentCache.open(tmp_path / "c")
    report = build(tmp_path / "c", tokenizer=TOKENIZERS[kind]())
    assert report.complete
    assert report.kept == limit // 8  # both views of four images a shard
    build(tmp_path / "whole", tokenizer=TOKENIZERS[kind]())
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


def test_leftovers_of_killed_processes_are_cleared_up(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    (tmp_path / "c" / "codes-00001.npy").unlink()
    for name in ("codes-00001.npy", "cache.json"):
        mine = aside_of(tmp_path / "c" / name)  # of this process, as that of a dead one
        left = mine.with_name(mine.name.replace(f".{os.getpid()}.", f".{2**22 + 1}."))
        left.write_bytes(b"half")
    assert build(tmp_path / "c").written == 1
    assert contents(tmp_path / "c") == before


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float16", np.float16)])
def test_files_of_moments_are_plain_arrays(
    tmp_path: Path, precision: Literal["float32", "float16"], dtype: type
) -> None:
    layout = CacheLayout(image_size=8, shard_size=4, batch_size=3, precision=precision)
    tokenizer = MomentTokenizer()
    build(tmp_path / "c", tokenizer=tokenizer, layout=layout)
    moments = np.load(tmp_path / "c" / "moments-00002.npy")
    assert (moments.shape, moments.dtype) == ((2, 2, 6, 4, 4), dtype)
    image = torch.from_numpy(pixels(90)).permute(2, 0, 1)[None] / 255
    straight, mirrored = tokenizer.encode(image), tokenizer.encode(image.flip(-1))
    assert np.array_equal(moments[1, 0], straight[0].numpy().astype(dtype))
    assert np.array_equal(moments[1, 1], mirrored[0].numpy().astype(dtype))
    assert not torch.equal(straight, mirrored)


def test_the_mirror_image_is_encoded_not_the_moments_mirrored(tmp_path: Path) -> None:
    class Uneven(MomentTokenizer):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) + torch.arange(4.0)

    build(tmp_path / "c", tokenizer=Uneven())
    straight, mirrored = np.load(tmp_path / "c" / "moments-00000.npy")[1]
    assert not np.allclose(straight[..., ::-1], mirrored)
    assert np.allclose(straight[..., ::-1] - np.arange(4)[::-1], mirrored - np.arange(4))


def test_both_views_are_one_batch_of_the_encoder(tmp_path: Path) -> None:
    sizes = []

    class Counting(PatchTokenizer):
        def encode(self, images: Tensor) -> Tensor:
            sizes.append(len(images))
            return super().encode(images)

    build(tmp_path / "c", tokenizer=Counting())
    assert sizes == [6, 2, 6, 2, 4]  # 4 + 4 + 2 images in shards, at most 3 at a time


CROPS = CacheLayout(image_size=8, crops=3, shard_size=4, batch_size=3)


@pytest.mark.parametrize("crop", get_args(CachedCrop))
def test_a_cache_holds_the_crop_that_it_is_told(tmp_path: Path, crop: CachedCrop) -> None:
    class Wide(ListSource):
        def content(self, row: int) -> bytes:
            stripes, file = np.zeros((10, 30, 3), np.uint8), io.BytesIO()
            stripes[:, :: row + 2] = self.values[row] or 0
            Image.fromarray(stripes).save(file, "PNG")
            return file.getvalue()

        def image(self, row: int) -> Image.Image:
            return decode_image(self.content(row), self.key(row))

    source, tokenizer = Wide(VALUES, LABELS), PatchTokenizer()
    layout = replace(LAYOUT, crop=crop)
    build(tmp_path / "c", source=source, tokenizer=tokenizer, layout=layout)
    cache = LatentCache.open(tmp_path / "c")
    assert cache.plan.cut == crop
    cut = Transform(size=8, crop=crop)
    images = torch.stack([cut(source.image(row)) for row in range(10)])
    straight = cache.tokens(torch.arange(10), torch.zeros(10, dtype=torch.long))
    assert torch.equal(straight, tokenizer.encode(images.float() / 255))
    for other in {*get_args(CachedCrop)} - {crop}:
        with pytest.raises(InputError, match=f"cut '{crop}', not '{other}'"):
            build(tmp_path / "c", source=source, layout=replace(LAYOUT, crop=other))


def test_random_crops_are_views(tmp_path: Path) -> None:
    build(tmp_path / "c", layout=CROPS)
    cache = LatentCache.open(tmp_path / "c")
    assert (cache.views, cache.plan.cut) == (3, "mirrored crops")
    rows = torch.arange(10)
    cut = Transform(size=8, crop="resized", resample="bilinear", flip=True)
    for view in range(3):
        images = [cut(Image.fromarray(pixels(v)), keyed_generator("crop", r, view))
                  for r, v in enumerate(VALUES)]  # fmt: skip
        wanted = PatchTokenizer().encode(torch.stack(images).float() / 255)
        assert torch.equal(cache.tokens(rows, torch.full((10,), view)), wanted)
    others = replace(CROPS, shard_size=10, batch_size=7)
    build(tmp_path / "d", layout=others)
    again = LatentCache.open(tmp_path / "d")
    views = torch.arange(10) % 3
    assert torch.equal(cache.tokens(rows, views), again.tokens(rows, views))
    with pytest.raises(InputError, match="cut"):
        build(tmp_path / "c", layout=replace(CROPS, flip=False))
    with pytest.raises(InputError, match="crops=-1 must be at least 0"):
        CacheLayout(image_size=8, crops=-1)


def test_images_are_read_while_those_before_are_encoded(tmp_path: Path) -> None:
    """Reading of row 5 must begin before row 0 is encoded: two batches ahead, across shards."""
    begun = threading.Event()

    class Source(ListSource):
        def content(self, row: int) -> bytes:
            if row == 5:
                begun.set()
            return super().content(row)

    class Waiting(PatchTokenizer):
        def encode(self, images: Tensor) -> Tensor:
            assert begun.wait(20), "nothing was read ahead"
            return super().encode(images)

    build(tmp_path / "c", tokenizer=Waiting(), source=Source(VALUES, LABELS))


def test_moments_beyond_float16_are_refused(tmp_path: Path) -> None:
    class Large(MomentTokenizer):
        def encode(self, images: Tensor) -> Tensor:
            return super().encode(images) * 1e4

    layout = CacheLayout(image_size=8, precision="float16")
    with pytest.raises(InputError, match=r"moments reach 3\.5e\+05, float16 .* use precision"):
        build(tmp_path / "c", tokenizer=Large(), layout=layout)
    nothing = CacheLayout(image_size=8)
    Large.encode = lambda self, images: torch.full(  # type: ignore[method-assign]
        (len(images), 6, 4, 4), torch.nan
    )
    with pytest.raises(InputError, match="moments reach nan"):
        build(tmp_path / "d", tokenizer=Large(), layout=nothing)


def test_shards_are_many_and_hold_at_most_64_mib() -> None:
    source, layout = ListSource([1] * 300_000), CacheLayout(image_size=8)
    codes = Encoding(kind="codes", tokenizer="x", codes=1024)
    moments = Encoding(kind="moments", tokenizer="x", channels=16, moment_channels=32)
    assert plan_cache(codes, source, layout, grid=(16, 16)).shard_size == 1172  # of 256
    assert plan_cache(moments, source, layout, grid=(16, 16)).shard_size == 1024
    half = CacheLayout(image_size=8, precision="float16", flip=False)
    assert plan_cache(moments, source, half, grid=(16, 16)).shard_size == 1172
    assert plan_cache(moments, ListSource([1]), half, grid=(16, 16)).shard_size == 1024
    assert plan_cache(moments, ListSource([1]), half, grid=(32, 32)).shard_size == 1024
    assert plan_cache(moments, ListSource([1]), layout, grid=(32, 32)).shard_size == 256


def test_a_cache_goes_on_with_the_shards_that_it_has(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    (tmp_path / "c" / "codes-00001.npy").unlink()
    report = build(tmp_path / "c", layout=CacheLayout(image_size=8, batch_size=3))
    assert (report.written, report.kept) == (1, 2)
    assert contents(tmp_path / "c") == before


@pytest.mark.parametrize(
    "lost", ["codes-00001.npy", "codes-00001.json", "cache.json", "labels.npy"]
)
def test_whatever_file_is_lost_is_made_again(tmp_path: Path, lost: str) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    (tmp_path / "c" / lost).unlink()
    assert build(tmp_path / "c").written == lost.startswith("codes")
    assert contents(tmp_path / "c") == before


def test_an_origin_that_is_lost_is_made_again(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    (tmp_path / "c" / "codes-00001.origin").unlink()
    assert build(tmp_path / "c").written == 1
    assert contents(tmp_path / "c") == before


def test_a_cut_shard_is_made_again(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    file = tmp_path / "c" / "codes-00000.npy"
    file.write_bytes(file.read_bytes()[:-7])
    assert build(tmp_path / "c").written == 1
    assert contents(tmp_path / "c") == before


def test_processes_together_build_what_one_builds(tmp_path: Path) -> None:
    reports = [build(tmp_path / "c", rank=rank, world=2) for rank in (1, 0)]
    assert [report.complete for report in reports] == [False, True]
    assert [report.written for report in reports] == [1, 2]
    build(tmp_path / "whole")
    assert contents(tmp_path / "c") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"tokenizer": PatchTokenizer("other")}, "tokenizer 'patch', not 'other'"),
        (
            {"source": ListSource(VALUES, LABELS[::-1])},
            r"10 of another class \(item0, item1, item2, …",
        ),
        ({"source": ListSource(VALUES[:9], LABELS[:9])}, r"other images: 1 removed \(item9\)"),
        ({"source": ListSource([*VALUES, 1], [*LABELS, 0])}, r"other images: 1 added \(item10\)"),
        ({"source": ListSource(VALUES, [4] * 10)}, r"images: 1 added \(class 4\)"),
        (
            {"source": Changed(VALUES, LABELS)},
            r"images: 2 of other bytes \(item3, item8\); .*--rebuild",
        ),
        ({"layout": CacheLayout(image_size=16, shard_size=4)}, "image_size 8, not 16"),
        ({"layout": CacheLayout(image_size=8, shard_size=4, flip=False)}, "views 2, not 1"),
        ({"layout": CacheLayout(image_size=8, shard_size=5)}, "shard_size 4, not 5"),
        ({"tokenizer": MomentTokenizer()}, "kind 'codes', not 'moments'"),
    ],
)
def test_a_cache_of_something_else_is_left_alone(tmp_path: Path, changed: Any, named: str) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    with pytest.raises(InputError, match=named) as caught:
        build(tmp_path / "c", **changed)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path / "c") == before


def test_other_peoples_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex' but no cache"):
        build(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"x"}
    with pytest.raises(InputError, match="is a file"):
        build(tmp_path / "thesis.tex")


def test_unreadable_images_are_left_out_and_named(tmp_path: Path) -> None:
    values = [None if i in (1, 4, 5, 6, 7) else value for i, value in enumerate(VALUES)]
    report = build(tmp_path / "c", source=ListSource(values, LABELS))
    assert report.rows == 5
    assert report.skipped == [(f"item{i}", "broken") for i in (1, 4, 5, 6, 7)]
    cache = LatentCache.open(tmp_path / "c")
    assert len(cache) == 5
    assert cache.skipped == report.skipped
    rows = torch.arange(5)
    assert cache.tokens(rows, torch.zeros_like(rows))[:, 0].tolist() == [
        256 + VALUES[i] for i in (0, 2, 3, 8, 9)
    ]
    assert cache.labels.tolist() == [LABELS[i] for i in (0, 2, 3, 8, 9)]


def test_nothing_readable(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 images"):
        build(tmp_path / "c", source=ListSource([None, None]))


def test_too_many_codes(tmp_path: Path) -> None:
    tokenizer = PatchTokenizer()
    tokenizer.space = "codes", 65537
    with pytest.raises(InputError, match="65537 codes, a cache stores at most 65536"):
        build(tmp_path / "c", tokenizer=tokenizer)
    assert not (tmp_path / "c").exists()


def test_layout_sizes() -> None:
    with pytest.raises(InputError, match="shard_size=0 must be at least 1"):
        CacheLayout(image_size=8, shard_size=0)
    with pytest.raises(InputError, match="precision='bf16' must be"):
        CacheLayout(image_size=8, precision="bf16")  # type: ignore[arg-type]


def reads(source: ListSource) -> tuple[ListSource, list[Any]]:
    """The source, counting how many images it is asked for."""
    content, asked = source.content, []

    def _content(row: int) -> bytes:
        asked.append(row)
        return content(row)

    source.content = _content  # type: ignore[method-assign]
    return source, asked


def test_images_are_read_again_only_where_their_files_changed(tmp_path: Path) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    source, asked = reads(ListSource(VALUES, LABELS))
    assert build(tmp_path / "c", source=source).notes == []
    assert asked == []
    source, asked = reads(ListSource(VALUES, LABELS))
    source.stamp = lambda row: (row, 5 if row in (2, 7) else 0)  # type: ignore[method-assign]
    assert build(tmp_path / "c", source=source).written == 0
    assert sorted(asked) == [2, 7]
    asked.clear()
    build(tmp_path / "c", source=source)  # the new times are remembered
    assert asked == []
    stable = {name: content for name, content in before.items() if not name.endswith(".origin")}
    assert stable.items() <= contents(tmp_path / "c").items()


def test_a_moved_or_renamed_data_set_is_the_same(tmp_path: Path) -> None:
    build(tmp_path / "c")
    moved = ListSource(VALUES, LABELS)
    moved.name, moved.split_rule, moved.time = "elsewhere", "in other words", 9
    assert build(tmp_path / "c", source=moved).written == 0


def test_an_image_that_was_mended_is_a_change(tmp_path: Path) -> None:
    build(tmp_path / "c", source=ListSource([1, None, 3]))
    mended = ListSource([1, 2, 3])
    mended.time = 1
    with pytest.raises(InputError, match=r"1 of other bytes \(item1\)"):
        build(tmp_path / "c", source=mended)


def test_rebuilding_takes_the_place_of_any_cache_and_of_nothing_else(tmp_path: Path) -> None:
    build(tmp_path / "c")
    (tmp_path / "c" / "notes.txt").write_text("mine")
    for change in ({"tokenizer": PatchTokenizer("other")}, {"source": Changed(VALUES, LABELS)}):
        assert build(tmp_path / "c", rebuild=True, **change).written == 3
        assert verify(tmp_path / "c") == []
    assert (tmp_path / "c" / "notes.txt").read_text() == "mine"
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="holds 'thesis"):
        build(tmp_path / "d", rebuild=True)
    assert contents(tmp_path / "d") == {"thesis.tex": b"x"}


@pytest.mark.parametrize("victim", ["codes-00001.npy", "codes-00001.origin", "codes-00001.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "other", "empty"])
def test_a_damaged_shard_of_any_size_is_encoded_again_by_itself(
    tmp_path: Path, victim: str, damage: str
) -> None:
    build(tmp_path / "c")
    build(tmp_path / "other", source=ListSource([v + 1 for v in VALUES], LABELS))
    before, file = contents(tmp_path / "c"), tmp_path / "c" / victim
    whole = file.read_bytes()
    flipped = whole[:-2] + bytes([whole[-2] ^ 4]) + whole[-1:]
    other = (tmp_path / "other" / victim).read_bytes()
    file.write_bytes({"flip": flipped, "cut": whole[:-3], "other": other, "empty": b""}[damage])
    report = build(tmp_path / "c")
    if damage == "flip" and victim.endswith("origin"):  # the last bytes of gzip are its length
        assert report.written in (0, 1)
        return
    assert report.written == 1
    assert "1 shards" in report.notes[0]
    assert "codes-00001.npy" in report.notes[0]
    assert contents(tmp_path / "c") == before


def test_a_shard_of_another_cache_with_its_note_is_not_taken(tmp_path: Path) -> None:
    build(tmp_path / "c")
    build(tmp_path / "other", tokenizer=PatchTokenizer("other"))
    before = contents(tmp_path / "c")
    for ending in ("npy", "json", "origin"):
        name = f"codes-00001.{ending}"
        (tmp_path / "c" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    (tmp_path / "c" / "cache.json").unlink()
    assert build(tmp_path / "c").written == 1
    assert contents(tmp_path / "c") == before


def test_the_reason_when_nothing_can_be_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of the 2 images of list can be read; item0: broken"):
        build(tmp_path / "c", source=ListSource([None, None]))


def test_a_finished_cache_is_not_written_to(tmp_path: Path) -> None:
    build(tmp_path / "c")
    times = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "c").iterdir()}
    build(tmp_path / "c")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "c").iterdir()} == times


def test_many_shards_open_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # of minutes of a slow disk
    layout = CacheLayout(image_size=8, shard_size=1, batch_size=64, flip=False)
    build(tmp_path / "c", source=ListSource([i % 256 for i in range(400)]), layout=layout)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, limits[1]))
    try:
        begun = time.perf_counter()
        cache = LatentCache.open(tmp_path / "c")
        rows = torch.randperm(400)
        codes = cache.tokens(rows, torch.zeros_like(rows))
        assert time.perf_counter() - begun < 5
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert codes[:, 0].tolist() == [256 + row % 256 for row in rows.tolist()]


@pytest.mark.parametrize("lost", [("plan.json",), ("plan.json", "cache.json")])
@pytest.mark.parametrize("content", [None, b"", b"[" * 100_000])
def test_a_lost_plan_is_written_again(
    tmp_path: Path, lost: tuple[str, ...], content: bytes | None
) -> None:
    build(tmp_path / "c")
    before = contents(tmp_path / "c")
    for name in lost:
        file = tmp_path / "c" / name
        file.unlink() if content is None else file.write_bytes(content)
    assert build(tmp_path / "c").written == 0
    assert contents(tmp_path / "c") == before
    for name in lost:
        (tmp_path / "c" / name).write_bytes(b"null")
    if len(lost) == 1:  # the index knows whose shards these are
        with pytest.raises(InputError, match="tokenizer 'patch', not 'other'"):
            build(tmp_path / "c", tokenizer=PatchTokenizer("other"))
    else:  # the shards' own notes do
        assert build(tmp_path / "c", tokenizer=PatchTokenizer("other")).written == 3
