"""Caches of MAR, eMIGM and maskgit-pytorch become caches of this library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import MomentTokenizer, PatchTokenizer, contents

from unmask.data import foreign_cache
from unmask.data.cache import LatentCache, verify
from unmask.data.cache_records import CachePlan
from unmask.data.decoding import UnreadableImageError
from unmask.data.foreign_cache import convert_cache
from unmask.draws import keyed_generator
from unmask.errors import InputError

FILES = ["n02/b.JPEG", "n01/z.JPEG", "n02/a.JPEG", "n10/c.JPEG"]
ORDER = ["n01/z.JPEG", "n02/a.JPEG", "n02/b.JPEG", "n10/c.JPEG"]


def normal(*key: Any, shape: tuple[int, ...] = (32, 16, 16)) -> np.ndarray:
    return torch.randn(shape, generator=keyed_generator("foreign", *key)).numpy()


def write_moments(root: Path, scale: float = 1.0) -> Path:
    """As MAR's main_cache.py leaves it: folders of classes, the images' names kept."""
    for name in FILES:
        file = root / f"{name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        arrays = {key: (scale * normal(name, key)) for key in ("moments", "moments_flip")}
        whole: dict[str, Any] = {key: a.astype(np.float32) for key, a in arrays.items()}
        np.savez(file, **whole)
    return root


def write_codes(root: Path, *, labelled: bool, codes: int = 512, count: int = 5) -> Path:
    """As maskgit-pytorch's make_cache.py leaves it: a flat folder."""
    root.mkdir()
    for row in range(count):
        generator = keyed_generator("idx", row)
        ids = torch.randint(codes, (2, 16), generator=generator).numpy()
        more: dict[str, Any] = {"y": np.array(row % 3)} if labelled else {}
        np.savez(root / f"{row:06d}.npz", idx=ids[0], idx_flip=ids[1], **more)
    return root


def convert(source: Path, name: str, **more: Any) -> LatentCache:
    report = convert_cache(source, name, out=source.with_name("out"), progress=False, **more)
    assert report.complete
    return LatentCache.open(report.path)


def both_views(cache: LatentCache) -> torch.Tensor:
    """What is stored, an image's two views one after the other."""
    rows = torch.arange(len(cache)).repeat_interleave(2)
    return cache.stored(rows, torch.tensor([0, 1]).repeat(len(cache)))


@pytest.mark.parametrize("name", ["mar", "emigm"])
def test_moments_come_over_bit_for_bit(tmp_path: Path, name: str) -> None:
    write_moments(tmp_path / "mar")
    (tmp_path / "mar" / "n05").mkdir()  # a class without images still counts
    cache = convert(tmp_path / "mar", name)
    assert cache.class_names == ("n01", "n02", "n05", "n10")
    assert cache.labels.tolist() == [0, 1, 1, 3]
    assert (cache.kind, cache.channels, cache.grid, cache.views) == ("moments", 16, (16, 16), 2)
    assert (cache.plan.encoding.scale, cache.plan.image_size) == (0.2325, 256)
    expected = [normal(name, key) for name in ORDER for key in ("moments", "moments_flip")]
    assert np.array_equal(both_views(cache).numpy(), np.stack(expected))
    assert verify(cache.path) == []


def test_grids_that_are_not_square(tmp_path: Path) -> None:
    moments = tmp_path / "mar"
    (moments / "n01").mkdir(parents=True)
    arrays: dict[str, Any] = {
        key: normal(key, shape=(32, 6, 10)) for key in ("moments", "moments_flip")
    }
    np.savez(moments / "n01" / "a.JPEG.npz", **arrays)
    cache = convert(moments, "mar")
    assert (cache.grid, cache.plan.image_size) == ((6, 10), (96, 160))
    assert np.array_equal(both_views(cache)[0].numpy(), arrays["moments"])
    codes = write_codes(tmp_path / "m", labelled=False)
    tall = convert_cache(codes, "maskgit-pytorch", out=tmp_path / "tall", grid=(8, 2))
    plan = LatentCache.open(tall.path).plan
    assert (plan.grid, plan.image_size) == ((8, 2), (128, 32))
    with pytest.raises(InputError, match=r"has 16 tokens an image, which are not 3x5; .* --grid"):
        convert_cache(codes, "maskgit-pytorch", out=tmp_path / "wrong", grid=(3, 5))
    assert not (tmp_path / "wrong").exists()


def test_half_precision(tmp_path: Path) -> None:
    cache = convert(write_moments(tmp_path / "mar"), "mar", precision="float16")
    expected = normal(ORDER[0], "moments").astype(np.float16).astype(np.float32)
    assert np.array_equal(both_views(cache)[0].numpy(), expected)


def test_scaled_latents_are_unscaled_and_come_back(tmp_path: Path) -> None:
    cache = convert(write_moments(tmp_path / "emigm", scale=0.3189), "emigm-512")
    assert (cache.channels, cache.plan.encoding.moment_channels) == (32, 32)
    assert (cache.plan.encoding.scale, cache.plan.image_size) == (0.3189, 512)
    moments = both_views(cache)
    expected = torch.from_numpy(normal(ORDER[2], "moments_flip"))
    assert torch.allclose(moments[5], expected, rtol=3e-7, atol=0)
    rows = torch.tensor([2])
    latents = cache.tokens(rows, torch.tensor([1]), torch.zeros(1, 256, 32))
    with np.load(tmp_path / "emigm" / f"{ORDER[2]}.npz") as arrays:
        in_file = torch.from_numpy(arrays["moments_flip"])
    assert torch.allclose(latents[0].T.unflatten(1, (16, 16)), in_file, rtol=2e-7, atol=0)


@pytest.mark.parametrize("labelled", [True, False])
def test_codes_with_and_without_labels(tmp_path: Path, labelled: bool) -> None:
    cache = convert(write_codes(tmp_path / "m", labelled=labelled), "maskgit-pytorch")
    assert cache.class_names == (("0", "1", "2") if labelled else ())
    assert cache.labels.tolist() == ([0, 1, 2, 0, 1] if labelled else [-1] * 5)
    assert (cache.kind, cache.grid, cache.plan.image_size) == ("codes", (4, 4), 64)
    with np.load(tmp_path / "m" / "000003.npz") as arrays:
        assert both_views(cache)[6:8].tolist() == [
            arrays["idx"].tolist(),
            arrays["idx_flip"].tolist(),
        ]


def test_a_cache_without_mirror_images_has_one_view(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "m" / "0.npz", idx=np.arange(16))
    cache = convert(tmp_path / "m", "maskgit-pytorch")
    assert cache.views == 1
    one = torch.zeros(1, dtype=torch.int64)
    assert cache.tokens(one, one).tolist() == [list(range(16))]


def test_who_made_it_must_be_said_or_accepted(tmp_path: Path) -> None:
    source = write_codes(tmp_path / "m", labelled=True)
    cache = convert(source, "maskgit-pytorch")
    with pytest.raises(InputError, match=r"by tokenizer unknown \(converted from maskgit-pytorch"):
        LatentCache.open(cache.path, tokenizer_identity="patch")
    opened = LatentCache.open(cache.path, tokenizer_identity="patch", accept_unknown=True)
    assert len(opened) == 5
    out = tmp_path / "named"
    convert_cache(source, "maskgit-pytorch", out=out, tokenizer=PatchTokenizer(), progress=False)
    named = LatentCache.open(out, tokenizer_identity="patch")
    assert (named.plan.encoding.codes, named.plan.image_size) == (512, 8)
    with pytest.raises(InputError, match="made by tokenizer patch, not by other"):
        LatentCache.open(out, tokenizer_identity="other", accept_unknown=True)


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (PatchTokenizer(), r"moments of shape \(32, 16, 16\), the tokenizer makes codes"),
        (MomentTokenizer(), r"the tokenizer makes moments of shape \(6, 16, 16\)"),
    ],
)
def test_another_tokenizer_is_refused(tmp_path: Path, tokenizer: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(write_moments(tmp_path / "mar"), "mar", tokenizer=tokenizer)
    assert not (tmp_path / "out").exists()


def test_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    source = write_codes(tmp_path / "m", labelled=True, count=9)
    (source / "000000.npz").write_bytes(b"")
    (source / "000002.npz").write_bytes((source / "000002.npz").read_bytes()[:-40])
    np.savez(source / "000004.npz", idx=np.arange(9), idx_flip=np.arange(9), y=1)
    np.savez(source / "000005.npz", idx=np.arange(16), y=1)
    np.savez(source / "000006.npz", idx=np.arange(16), idx_flip=np.arange(16) - 1, y=0)
    np.savez(source / "000007.npz", idx=np.arange(16.0), idx_flip=np.arange(16), y=0)
    with (source / "000008.npz").open("wb") as file:
        np.save(file, np.arange(16))  # an array, not an archive
    cache = convert(source, "maskgit-pytorch")
    assert cache.labels.tolist() == [1, 0]
    assert [key for key, _ in cache.skipped] == [f"{row:06d}.npz" for row in (0, 2, 4, 5, 6, 7, 8)]
    reasons = dict(cache.skipped)
    assert reasons["000004.npz"] == "idx is of shape (9,), not (16,)"
    assert reasons["000005.npz"] == "idx_flip is missing, not (16,)"
    assert reasons["000006.npz"] == "idx_flip holds what no tokenizer makes"


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "m" / "0.npz", idx=np.array([{"a": 1}] * 16, dtype=object))
    with pytest.raises(InputError, match=r"no file of .* holds an array 'idx'"):
        convert(tmp_path / "m", "maskgit-pytorch")


def test_no_flipped_bit_of_a_file_ends_in_a_traceback(tmp_path: Path) -> None:
    """A bit of the numbers is always found by the checksum in the file."""
    source = write_codes(tmp_path / "m", labelled=True, count=1)
    file = source / "000000.npz"
    files = foreign_cache._ForeignFiles(source, "maskgit-pytorch")
    content = file.read_bytes()
    (whole,) = files._arrays(0, ["idx"], content)
    assert whole is not None
    start = content.index(whole.tobytes())
    for place in range(len(content)):
        altered = bytearray(content)
        altered[place] ^= 1 << place % 8
        if start <= place < start + whole.nbytes:
            with pytest.raises(UnreadableImageError):
                files._arrays(0, ["idx"], bytes(altered))
            continue
        try:
            (read,) = files._arrays(0, ["idx"], bytes(altered))
        except UnreadableImageError:
            continue
        assert read is None or read.tobytes() == whole.tobytes()


def test_a_stopped_conversion_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_moments(tmp_path / "mar")
    convert_cache(source, "mar", out=tmp_path / "whole", shard_size=1, progress=False)
    read = foreign_cache._ForeignFiles.read

    def _dies(
        files: foreign_cache._ForeignFiles, row: int, content: bytes, plan: CachePlan
    ) -> torch.Tensor:
        if row == 2:
            raise KeyboardInterrupt
        return read(files, row, content, plan)

    with monkeypatch.context() as patch:
        patch.setattr(foreign_cache._ForeignFiles, "read", _dies)
        with pytest.raises(KeyboardInterrupt):
            convert_cache(source, "mar", out=tmp_path / "c", shard_size=1, progress=False)
    report = convert_cache(source, "mar", out=tmp_path / "c", shard_size=1, progress=False)
    assert (report.kept, report.written) == (1, 3)
    left, right = (contents(tmp_path / d) for d in ("c", "whole"))
    assert left == right


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mar", "holds no file CLASS/NAME.npz, as a cache of mar does"),
        ("maskgit-pytorch", "holds no file NAME.npz, as a cache of maskgit-pytorch does"),
        ("maskgit", "unknown cache format 'maskgit'; did you mean 'maskgit-pytorch'"),
    ],
)
def test_nothing_to_convert(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(tmp_path, name)
    with pytest.raises(InputError, match=r"no file of .* holds an array 'idx' of 1 dim"):
        convert(write_moments(tmp_path / "mar") / "n01", "maskgit-pytorch")
