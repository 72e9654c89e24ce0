from __future__ import annotations

import cProfile
import json
import os
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import TOKENIZERS, ListSource, MomentTokenizer, PatchTokenizer, contents
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache, verify
from unmask.data.cache_records import CacheIndex, read_record, to_json
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files import verified
from unmask.files.digests import digest_of
from unmask.files.verified import LIST
from unmask.tokenizers.patches import Patches
from unmask.tokenizers.patches import PatchTokenizer as PixelTokenizer
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer

VALUES = [7, 100, 3, 250, 61, 9, 18, 77]
LABELS = [0, 1, 2, 0, 1, 2, 0, 1]


def make(
    folder: Path, tokenizer: KLVAETokenizer | MomentTokenizer | PatchTokenizer, **layout: Any
) -> Path:
    source = ListSource(VALUES, LABELS)
    whole = CacheLayout(**{"image_size": 8, "shard_size": 3, "batch_size": 2, **layout})
    build_cache(tokenizer, source, out=folder, layout=whole, progress=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path / "cache", PatchTokenizer())


@pytest.fixture(params=TOKENIZERS)
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A cache of codes, then one of moments."""
    return make(tmp_path / "cache", TOKENIZERS[request.param]())


def flip_bit(file: Path, place: int, bit: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def expected(row: int, view: int) -> list[int]:
    """Left half of the image carries the value, tokens of the left half 256 more."""
    straight = [VALUES[row] + 256] * 2 + [0] * 2
    mirrored = [256] * 2 + [VALUES[row]] * 2
    return (mirrored if view else straight) * 4


def test_codes_of_any_rows_in_any_order(folder: Path) -> None:
    cache = LatentCache.open(folder, tokenizer_identity="patch")
    rows = torch.tensor([7, 0, 3, 3, 5, 1, 2, 6, 4, 0])
    views = torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 0, 0])
    codes = cache.tokens(rows, views)
    assert codes.dtype == torch.int64
    wanted = [expected(r, v) for r, v in zip(rows.tolist(), views.tolist(), strict=True)]
    assert codes.tolist() == wanted


def test_what_it_says_of_itself(folder: Path) -> None:
    cache = LatentCache.open(folder)
    assert (len(cache), cache.length, cache.grid, cache.views) == (8, 16, (4, 4), 2)
    assert (cache.kind, cache.channels) == ("codes", 0)
    assert cache.labels.tolist() == LABELS
    assert cache.labels.dtype == torch.int64
    assert cache.class_names == ("0", "1", "2")
    assert cache.plan.image_size == 8
    assert cache.plan.split_rule == "all of a list"
    assert cache.skipped == []


def test_rows_out_of_range_are_refused(folder: Path) -> None:
    cache = LatentCache.open(folder)
    with pytest.raises(IndexError, match="rows 8 to 8 of 8"):
        cache.tokens(torch.tensor([8]), torch.tensor([0]))


def test_another_process_maps_the_files_itself(folder: Path) -> None:
    content = pickle.dumps(LatentCache.open(folder))
    rows = torch.arange(8)
    views = torch.zeros_like(rows)
    assert torch.equal(
        pickle.loads(content).tokens(rows, views), LatentCache.open(folder).tokens(rows, views)
    )


def test_another_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="made by tokenizer patch, not by other"):
        LatentCache.open(folder, tokenizer_identity="other")


def test_no_cache_and_unfinished_cache(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no finished latent cache .* build it with"):
        LatentCache.open(tmp_path)
    (folder / "cache.json").unlink()
    with pytest.raises(InputError, match="no finished latent cache"):
        LatentCache.open(folder)


def test_every_one_of_twenty_flipped_bits_is_found_and_named(either: Path, tmp_path: Path) -> None:
    assert verify(either) == []
    dice = random.Random(20)
    files = sorted(either.glob("*.npy"))
    for _ in range(20):
        file = dice.choice(files)
        place, bit = dice.randrange(file.stat().st_size), dice.randrange(8)
        flip_bit(file, place, bit)
        assert verify(either) == [file.name]
        flip_bit(file, place, bit)
    assert verify(either) == []


def test_verify_names_all_that_is_damaged_or_missing(folder: Path) -> None:
    flip_bit(folder / "codes-00001.npy", -1, 2)
    flip_bit(folder / "labels.npy", 130, 2)
    (folder / "codes-00002.npy").unlink()
    assert verify(folder) == ["codes-00001.npy", "codes-00002.npy", "labels.npy"]


def test_no_bit_of_the_index_flips_unseen(folder: Path) -> None:
    file = folder / "cache.json"
    whole = file.read_bytes()
    for place in range(len(whole)):
        for bit in random.Random(place).sample(range(8), 1):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            file.write_bytes(content)
            with pytest.raises(InputError, match="damaged or of another format"):
                read_record(file, CacheIndex)


def test_no_bit_of_a_header_ends_in_a_traceback(folder: Path) -> None:
    """Whatever a flipped bit makes of the shape, the type or the order of the numbers."""
    file = folder / "codes-00001.npy"
    said = []
    whole = file.read_bytes()
    for place in range(128):
        for bit in range(8):
            content = bytearray(whole)
            content[place] ^= 1 << bit
            file.write_bytes(content)
            try:
                LatentCache.open(folder)
            except InputError as error:
                said.append(str(error))
    assert len(said) > 400  # of the others most are in the padding of the header
    assert all(file.name in line and "\n" not in line for line in said)


def test_a_damaged_shard_is_made_again_alone(either: Path) -> None:
    before = contents(either)
    (damaged,) = either.glob("*-00001.npy")
    flip_bit(damaged, 200, 1)
    for name in verify(either):
        (either / name).unlink()
    tokenizer = TOKENIZERS[damaged.name.partition("-")[0]]()
    make(either, tokenizer)
    assert tokenizer.encoded == 6
    assert contents(either) == before


def test_the_rest_is_readable_without_a_damaged_shard(either: Path) -> None:
    every = LatentCache.open(either)
    (either / f"{every.kind}-00001.npy").unlink()
    rest = LatentCache.open(either, without=[f"{every.kind}-00001.npy"])
    assert len(rest) == 5
    assert rest.labels.tolist() == [LABELS[i] for i in (0, 1, 2, 6, 7)]
    old, new = torch.tensor([7, 0, 2, 6]), torch.tensor([4, 0, 2, 3])
    views = torch.tensor([0, 1, 1, 0])
    read = LatentCache.stored
    assert torch.equal(read(rest, new, views), read(every, old, views))
    assert torch.equal(read(pickle.loads(pickle.dumps(rest)), new, views), read(rest, new, views))
    with pytest.raises(InputError, match=r"no shard 'labels\.npy' to leave out"):
        LatentCache.open(either, without=["labels.npy"])


def test_truncated_and_missing_files_are_refused_at_once(folder: Path) -> None:
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
    with pytest.raises(InputError, match=r"not those that were built: labels\.npy"):
        LatentCache.open(folder)
    with pytest.raises(InputError, match=r"labels\.npy is missing or damaged"):
        LatentCache.open(folder, check="never")
    shutil.copy(folder / "codes-00000.npy", folder / "labels.npy")
    with pytest.raises(InputError, match=r"labels\.npy .*it holds uint16 \(3, 2, 16\), not int64"):
        LatentCache.open(folder, check="never")


def test_a_file_that_cannot_be_read_is_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("unmask.data.cache.MappedArray", refuse)
    with pytest.raises(InputError, match=r"labels\.npy cannot be read \(Permission denied\); noth"):
        LatentCache.open(folder)


def test_damaged_index(folder: Path) -> None:
    file = folder / "cache.json"
    record = json.loads(file.read_text())
    del record["plan"]["grid"]
    for content in (json.dumps(record), "[]", "{", "null"):
        file.write_text(content)
        with pytest.raises(InputError, match="damaged or of another format"):
            LatentCache.open(folder)


def test_unlabelled_cache(tmp_path: Path) -> None:
    layout = CacheLayout(image_size=8, flip=False)
    out = tmp_path / "c"
    build_cache(PatchTokenizer(), ListSource([4]), out=out, layout=layout, progress=False)
    cache = LatentCache.open(out)
    assert cache.views == 1
    assert cache.class_names == ()
    assert cache.labels.tolist() == [-1]
    assert cache.tokens(torch.tensor([0]), torch.tensor([0])).shape == (1, 16)


def random_weights(tokenizer: KLVAETokenizer, *key: str) -> KLVAETokenizer:
    generator = keyed_generator(0, *key)
    for parameter in tokenizer.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return tokenizer.requires_grad_(False)


def small_kl() -> KLVAETokenizer:
    sizes = KLVAE(stem=8, widths=(8, 8), blocks=1, attention=(), channels=4, groups=4, scale=0.3)
    return random_weights(KLVAETokenizer(sizes), "kl")


def rows_views_noise(cache: LatentCache) -> tuple[Tensor, Tensor, Tensor]:
    rows, views = torch.tensor([5, 0, 7, 5, 2]), torch.tensor([1, 0, 0, 0, 1])
    shape = (len(rows), cache.length, cache.channels)
    return rows, views, torch.randn(shape, generator=keyed_generator("noise"))


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("made_by", [small_kl, lambda: PixelTokenizer(Patches(patch=2))])
def test_latents_are_those_of_the_tokenizer_to_the_bit(
    tmp_path: Path, made_by: Callable[..., Any], precision: str
) -> None:
    tokenizer = made_by()
    make(tmp_path / "c", tokenizer, precision=precision)
    cache = LatentCache.open(tmp_path / "c", tokenizer_identity=tokenizer.identity)
    assert (cache.kind, cache.channels) == ("moments", tokenizer.space[1])
    rows, views, noise = rows_views_noise(cache)
    moments = cache.stored(rows, views)
    assert moments.shape == (5, tokenizer.moment_channels, 4, 4)
    latents = cache.tokens(rows, views, noise)
    assert latents.is_contiguous()
    assert latents.dtype == torch.float32
    maps = noise.transpose(1, 2).unflatten(2, cache.grid)
    assert torch.equal(latents, tokenizer.tokens(moments, maps))
    images = torch.stack([torch.full((3, 8, 8), 0.0) for _ in rows])
    for image, row, view in zip(images, rows.tolist(), views.tolist(), strict=True):
        image[0, :, :4] = image[1, :, :4] = VALUES[row] / 255
        image[2] = 1 - VALUES[row] / 255
        image[:] = image.flip(-1) if view else image
    told = tokenizer.encode(images)
    tolerance = {"float32": 1e-6, "float16": 1e-3}[precision]
    assert torch.allclose(moments, told, rtol=tolerance, atol=tolerance)


def test_variances_are_stored_as_they_are_and_clamped_when_drawn(tmp_path: Path) -> None:
    cache = LatentCache.open(make(tmp_path / "c", MomentTokenizer()))
    rows, views, noise = rows_views_noise(cache)
    mean, logvar = cache.stored(rows, views).chunk(2, 1)
    assert logvar.min() < -30
    assert logvar.max() > 20
    std = torch.exp(logvar.clamp(-30, 20) / 2).flatten(2).transpose(1, 2)
    expected = 0.5 * (mean.flatten(2).transpose(1, 2) + std * noise)
    assert torch.allclose(cache.tokens(rows, views, noise), expected, rtol=1e-6)
    assert torch.equal(cache.tokens(rows, views, 0 * noise)[0, 0], 0.5 * mean[0, :, 0, 0])
    assert torch.equal(cache.tokens(rows, views), cache.tokens(rows, views, 0 * noise))


def test_noise_of_another_shape_is_refused(tmp_path: Path) -> None:
    one = torch.zeros(1, dtype=torch.int64)
    moments = LatentCache.open(make(tmp_path / "moments", MomentTokenizer()))
    with pytest.raises(InputError, match=r"are not \(B, L, 3\)"):
        moments.tokens(one, one, torch.zeros(1, 16, 4))


def test_a_damaged_shard_is_found_before_its_first_use(folder: Path) -> None:
    LatentCache.open(folder)
    flip_bit(folder / "codes-00001.npy", -1, 2)
    told: list[str] = []
    with pytest.raises(InputError, match=r"not those that were built: codes-00001\.npy; build it"):
        LatentCache.open(folder, tell=told.append)
    assert len(told) == 1
    assert "comparing 1 files" in told[0]
    assert len(LatentCache.open(folder, check="never")) == 8
    assert len(LatentCache.open(folder, without=["codes-00001.npy"])) == 5
    flip_bit(folder / "codes-00001.npy", -1, 2)
    assert len(LatentCache.open(folder, tell=told.append)) == 8
    assert len(LatentCache.open(folder, tell=told.append)) == 8  # remembered
    assert len(told) == 2


def test_what_was_compared_once_is_not_read_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / LIST).unlink()
    LatentCache.open(folder)
    monkeypatch.setattr(verified, "digest_of_file", lambda file: pytest.fail(f"{file} is read"))
    LatentCache.open(folder)
    with pytest.raises(pytest.fail.Exception):
        LatentCache.open(folder, check="always")


def test_a_shard_of_another_cache_is_refused(folder: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "other", PatchTokenizer("strange"))
    for name in ("codes-00001.npy", "codes-00001.json", "codes-00001.origin"):
        shutil.copy(other / name, folder / name)
    assert len(LatentCache.open(folder)) == 8  # the bytes happen to be the same
    index = read_record(folder / "cache.json", CacheIndex)
    theirs = read_record(other / "cache.json", CacheIndex).shards[1]
    shards = (index.shards[0], theirs, index.shards[2])  # as if its index had been made of notes
    (folder / "cache.json").write_bytes(to_json(replace(index, shards=shards)))
    with pytest.raises(InputError, match=r"codes-00001\.npy belongs to .* tokenizer strange"):
        LatentCache.open(folder)
    assert verify(folder) == ["codes-00001.npy"]


def rewritten(folder: Path, name: str, array: np.ndarray) -> None:
    """Put other numbers into a cache together with their hashes, as a hostile hand might."""
    np.save(folder / name, array)
    content = (folder / name).read_bytes()
    index = read_record(folder / "cache.json", CacheIndex)
    if name == "labels.npy":
        index = replace(index, labels_digest=digest_of(content))
    shards = tuple(
        replace(s, digest=digest_of(content), size=len(content)) if s.file == name else s
        for s in index.shards
    )
    (folder / "cache.json").write_bytes(to_json(replace(index, shards=shards)))


@pytest.mark.parametrize("code", [512, 60000])
def test_codes_that_the_tokenizer_has_not(folder: Path, code: int) -> None:
    rewritten(folder, "codes-00001.npy", np.full((3, 2, 16), code, np.uint16))
    cache, first = LatentCache.open(folder), torch.tensor([0])
    cache.tokens(torch.tensor([0, 7]), torch.tensor([0, 1]))
    with pytest.raises(InputError, match=rf"codes-00001\.npy holds the code {code}, .* has 512"):
        cache.tokens(torch.tensor([4]), first)


@pytest.mark.parametrize("label", [-1, 3, 77])
def test_labels_that_no_class_has(folder: Path, label: int) -> None:
    rewritten(folder, "labels.npy", np.array([*LABELS[:-1], label]))
    with pytest.raises(InputError, match=r"labels\.npy holds labels .* the cache has 3 classes"):
        LatentCache.open(folder)


def test_counts_that_no_file_holds(folder: Path) -> None:
    index = read_record(folder / "cache.json", CacheIndex)
    shards = (replace(index.shards[0], rows=10**15), *index.shards[1:])
    (folder / "cache.json").write_bytes(to_json(replace(index, shards=shards)))
    with pytest.raises(InputError, match=r"too few for 1000000000000000 images"):
        LatentCache.open(folder)


def test_records_that_are_nested_too_deeply(folder: Path) -> None:
    (folder / "cache.json").write_bytes(b"[" * 100_000)
    with pytest.raises(InputError, match="damaged or of another format"):
        LatentCache.open(folder)


def test_content_stands_for_the_images_however_they_are_cut_into_shards(tmp_path: Path) -> None:
    few, many = (make(tmp_path / str(n), PatchTokenizer(), shard_size=n) for n in (2, 7))
    same = [LatentCache.open(folder).index.content for folder in (few, many)]
    assert same[0] == same[1] != ""


def test_opening_costs_as_much_more_as_there_are_more_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls of functions are counted, which no other process of the machine changes."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    source = ListSource([7] * 60, [0] * 60)
    layout = CacheLayout(image_size=8, shard_size=1, batch_size=60, flip=False)
    build_cache(PatchTokenizer(), source, out=tmp_path, layout=layout, progress=False)
    index = read_record(tmp_path / "cache.json", CacheIndex)
    calls = []
    for shards in (15, 30, 60):
        part = replace(index, shards=index.shards[:shards], labels_digest="")
        (tmp_path / "cache.json").write_bytes(to_json(part))
        profile = cProfile.Profile()
        profile.runcall(LatentCache.open, tmp_path)
        calls.append(sum(entry.callcount for entry in profile.getstats()))
        digests = [entry for entry in profile.getstats() if "deciding" in str(entry.code)]
        assert sum(entry.callcount for entry in digests) <= 1, "a plan's digest is taken once"
    assert calls[2] - calls[1] < 2.1 * (calls[1] - calls[0])
