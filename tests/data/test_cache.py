import json
import pickle

import pytest
import torch
from tiny_data import ListSource, PatchTokenizer

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.errors import InputError

VALUES = [7, 100, 3, 250, 61, 9, 18, 77]


@pytest.fixture
def folder(tmp_path):
    source = ListSource(VALUES, [0, 1, 2, 0, 1, 2, 0, 1])
    layout = CacheLayout(image_size=8, shard_size=3, batch_size=2)
    build_cache(PatchTokenizer(), source, out=tmp_path / "cache", layout=layout, progress=False)
    return tmp_path / "cache"


def expected(row, view):
    """Left half of the image carries the value, tokens of the left half 256 more."""
    straight = [VALUES[row] + 256] * 2 + [0] * 2
    mirrored = [256] * 2 + [VALUES[row]] * 2
    return (mirrored if view else straight) * 4


def test_codes_of_any_rows_in_any_order(folder):
    cache = LatentCache.open(folder, tokenizer_identity="patch")
    rows = torch.tensor([7, 0, 3, 3, 5, 1, 2, 6, 4, 0])
    views = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0, 0])
    codes = cache.codes(rows, views)
    assert codes.dtype == torch.int64
    wanted = [expected(r, v) for r, v in zip(rows.tolist(), views.tolist(), strict=True)]
    assert codes.tolist() == wanted


def test_what_it_says_of_itself(folder):
    cache = LatentCache.open(folder)
    assert (len(cache), cache.count, cache.length, cache.grid, cache.views) == (8, 8, 16, (4, 4), 2)
    assert cache.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert cache.labels.dtype == torch.int64
    assert cache.class_names == ("0", "1", "2")
    assert cache.image_size == 8
    assert cache.index.plan.split_rule == "all of a list"
    assert cache.skipped == []


def test_rows_out_of_range_are_refused(folder):
    cache = LatentCache.open(folder)
    with pytest.raises(IndexError):
        cache.codes(torch.tensor([8]), torch.tensor([0]))


def test_another_process_maps_the_files_itself(folder):
    content = pickle.dumps(LatentCache.open(folder))
    rows = torch.arange(8)
    views = torch.zeros_like(rows)
    assert torch.equal(
        pickle.loads(content).codes(rows, views), LatentCache.open(folder).codes(rows, views)
    )


def test_another_tokenizer_is_refused(folder):
    with pytest.raises(InputError, match="made by tokenizer patch, not by other"):
        LatentCache.open(folder, tokenizer_identity="other")


def test_no_cache_and_unfinished_cache(folder, tmp_path):
    with pytest.raises(InputError, match=r"no finished latent cache .* build it with"):
        LatentCache.open(tmp_path)
    (folder / "cache.json").unlink()
    with pytest.raises(InputError, match="no finished latent cache"):
        LatentCache.open(folder)


def test_verify_finds_a_flipped_bit(folder):
    cache = LatentCache.open(folder)
    assert cache.verify() == []
    for name, place in (("codes-00001.npy", -1), ("labels.npy", 130), ("codes-00002.npy", 3)):
        content = bytearray((folder / name).read_bytes())
        content[place] ^= 4
        (folder / name).write_bytes(content)
    assert cache.verify() == ["codes-00001.npy", "codes-00002.npy", "labels.npy"]


def test_truncated_and_missing_files_are_refused_at_once(folder):
    file = folder / "codes-00001.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-2])
    size = len(content)
    with pytest.raises(InputError, match=f"codes-00001.npy has {size - 2} bytes, not {size}"):
        LatentCache.open(folder)
    file.unlink()
    with pytest.raises(InputError, match="has 0 bytes"):
        LatentCache.open(folder)
    file.write_bytes(content)
    (folder / "labels.npy").unlink()
    with pytest.raises(InputError, match=r"labels\.npy is missing or damaged"):
        LatentCache.open(folder)


def test_damaged_index(folder):
    file = folder / "cache.json"
    record = json.loads(file.read_text())
    del record["plan"]["grid"]
    for content in (json.dumps(record), "[]", "{", "null"):
        file.write_text(content)
        with pytest.raises(InputError, match="damaged or of another format"):
            LatentCache.open(folder)


def test_unlabelled_cache(tmp_path):
    layout = CacheLayout(image_size=8, flip=False)
    out = tmp_path / "c"
    build_cache(PatchTokenizer(), ListSource([4]), out=out, layout=layout, progress=False)
    cache = LatentCache.open(out)
    assert cache.views == 1
    assert cache.class_names == ()
    assert cache.labels.tolist() == [-1]
    assert cache.codes(torch.tensor([0]), torch.tensor([0])).shape == (1, 16)
