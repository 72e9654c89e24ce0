"""Every kind of file that a command reads, damaged in every way we know, and what comes of it.

:mod:`forked` runs the attempts, and ``benchmarks/damaged_data.py`` reports the counts.
"""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import random
import shutil
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from unmask.cli import main
from unmask.data.cache_records import digest_of

OLD = Path(__file__).parents[1] / "fixtures" / "before_issue_11"
CUTS, FLIPS = 6, 8
BUILD = "cache build --tokenizer vq --image-size 16 --no-flip --device cpu --out made --data"
TRAIN = (
    "train fashion-maskgit --tokenizer vq --image-size 16 --network.length 16 --network.width 16 "
    "--network.depth 1 --network.heads 2 --network.classes 2 --network.codes 32 --plan.steps 2 "
    "--training.tracker none --training.batch-size 4 --training.preview-every 0 "
    "--training.steps 1 --out run --cache cache"
)
READ_CACHE = (
    f"{BUILD} data --out cache --shard-size 4",
    "cache verify cache",
    "cache info cache",
    TRAIN,
)


class Kind(NamedTuple):
    """A file, what makes it, and the commands that read it."""

    file: str
    make: Callable[[], None]
    commands: tuple[str, ...]


class Attempt(NamedTuple):
    """One damaged file and one command."""

    kind: str
    damage: str
    command: str


def picture(value: int, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(value).integers(0, 255, (16, 16), np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def images(ending: str, kind: str) -> Callable[[], None]:
    def _make() -> None:
        for value in range(6):
            file = Path(f"data/{'ab'[value % 2]}/{value}.{ending}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(value, kind))

    return _make


def tar() -> None:
    Path("data").mkdir()
    with tarfile.open("data/x.tar", "w") as archive:
        for value in range(6):
            label = b'{"label": %d}' % (value % 2)
            for name, content in ((f"{value}.png", picture(value)), (f"{value}.json", label)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def named_tar() -> None:
    tar()
    Path("data/classes.json").write_text('["a", "b"]')


def parquet() -> None:
    Path("data").mkdir()
    note = {"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": [{"bytes": picture(v), "path": "x"} for v in range(6)],
                      "label": [v % 2 for v in range(6)]})  # fmt: skip
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(note)}),
                   "data/x.parquet", row_group_size=3)  # fmt: skip


def idx(end: str = "") -> Callable[[], None]:
    def _make() -> None:
        Path("data").mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16), np.uint8)
        for name, array in (("images-idx3", pixels), ("labels-idx1", np.arange(6) % 2)):
            head = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
            content = head + array.astype(np.uint8).tobytes()
            file = Path(f"data/train-{name}-ubyte{end}")
            file.write_bytes(gzip.compress(content) if end else content)

    return _make


def cache() -> None:
    images("png", "PNG")()
    assert main(f"{BUILD} data --out cache --shard-size 4".split()) == 0
    Path("cache/.verified").unlink(missing_ok=True)  # nobody has looked at it yet


def foreign() -> None:
    Path("theirs").mkdir()
    for value in range(3):
        codes = np.random.default_rng(value).integers(0, 32, 16)
        np.savez(f"theirs/{value}.npz", idx=codes, idx_flip=codes[::-1], y=np.array(value % 2))


KINDS = {
    **{
        f"image {ending}": Kind(f"data/a/0.{ending}", images(ending, name), (f"{BUILD} data",))
        for ending, name in (("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP"), ("bmp", "BMP"),
                             ("tif", "TIFF"))
    },
    "tar": Kind("data/x.tar", tar, (f"{BUILD} data",)),
    "parquet": Kind("data/x.parquet", parquet, (f"{BUILD} data",)),
    "idx": Kind("data/train-images-idx3-ubyte", idx(), (f"{BUILD} data",)),
    "idx labels": Kind("data/train-labels-idx1-ubyte", idx(), (f"{BUILD} data",)),
    "idx.gz": Kind("data/train-images-idx3-ubyte.gz", idx(".gz"), (f"{BUILD} data",)),
    "classes.json": Kind("data/classes.json", named_tar, (f"{BUILD} data",)),
    "foreign npz": Kind(
        "theirs/0.npz", foreign, ("cache convert theirs --from maskgit-pytorch --out made",)
    ),
    **{
        f"cache {name}": Kind(f"cache/{name}", cache, READ_CACHE)
        for name in ("plan.json", "cache.json", "codes-00000.npy", "codes-00000.json",
                     "codes-00000.origin", "labels.npy", ".verified")
    },
}  # fmt: skip


def damages(file: Path, dice: random.Random) -> Iterator[tuple[str, Callable[[], None]]]:
    """What is done to a file, by name."""
    whole = file.read_bytes() if file.exists() else b""
    size = len(whole)
    for place in sorted(dice.randrange(max(1, size)) for _ in range(CUTS)):
        yield f"cut at {place}", lambda p=place: file.write_bytes(whole[:p])
    for _ in range(FLIPS if size else 0):
        place, bit = dice.randrange(size), dice.randrange(8)
        flipped = whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :]
        yield f"bit {bit} of byte {place}", lambda c=flipped: file.write_bytes(c)
    for name, content in others().items():
        yield name, lambda c=content: file.write_bytes(c)
    for name, content in huge(file, whole):
        yield name, lambda c=content: file.write_bytes(c)

    def _folder() -> None:
        file.unlink(missing_ok=True)
        file.mkdir()

    def _link() -> None:
        file.unlink(missing_ok=True)
        file.symlink_to("nowhere")

    yield "a folder", _folder
    yield "a link to nothing", _link
    yield "nothing", lambda: file.unlink(missing_ok=True)


def others() -> dict[str, bytes]:
    """Files of other kinds."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x", b"y")
    array = io.BytesIO()
    np.save(array, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return {
        "empty": b"",
        "a page": b"<!DOCTYPE html><html><body>Not found</body></html>",
        "a picture": picture(9),
        "a zip": stream.getvalue(),
        "a gzip": gzip.compress(b"text"),
        "a bomb": gzip.compress(bytes(1 << 26), 1),
        "an object array": array.getvalue(),
        "noise": random.Random(1).randbytes(3000),
        "zeros": bytes(20_000),
        "100,000 brackets": b"[" * 100_000,
        "nested objects": b'{"a":' * 100_000,
        "null": b"null",
        "a number": b"1e999",
    }


def huge(file: Path, whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Files whose headers state far more than they hold."""
    name = file.name
    if "ubyte" in name:
        packed = name.endswith(".gz")
        plain = gzip.decompress(whole) if packed else whole
        for shape in ((2**32 - 1,) * plain[3], (2**32 - 1,) + (0,) * (plain[3] - 1), (2,) * 255):
            head = bytes((0, 0, 8, len(shape))) + struct.pack(f">{len(shape)}I", *shape)
            content = head + plain[4 + 4 * plain[3] :]
            yield f"shape of {len(shape)}", gzip.compress(content) if packed else content
    elif name.endswith(".npy"):
        for shape in ((10**12,), (2**62, 2**62), (-1,)):
            stream = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "<u2", "fortran_order": False, "shape": shape}
            )
            yield f"shape {shape}", stream.getvalue() + b"0" * 64
    elif name.endswith(".npz"):
        for shape in ((10**12,), (-1,)):
            header, stream = io.BytesIO(), io.BytesIO()
            np.lib.format.write_array_header_1_0(
                header, {"descr": "<i8", "fortran_order": False, "shape": shape}
            )
            with zipfile.ZipFile(stream, "w") as archive:
                for array in ("idx", "idx_flip", "y"):
                    archive.writestr(f"{array}.npy", header.getvalue())
            yield f"shape {shape}", stream.getvalue()
    elif name.endswith(".tar"):
        yield from huge_tars()
    elif name.endswith(".json") and name != "classes.json":
        yield from huge_records(whole)
    elif name == "classes.json":
        yield "a million names", json.dumps([str(i) for i in range(1_000_001)]).encode()
        yield "one name twice", b'["a", "a"]'


def huge_tars() -> Iterator[tuple[str, bytes]]:
    for label in (10**12, 30_000_000, -7, "1.5", "x" * 1000):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for name, content in (("0.png", picture(0)), ("0.cls", str(label).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        yield f"label {str(label)[:12]}", stream.getvalue()
    member = tarfile.TarInfo("0.png")
    member.size = 8**11 - 1
    yield "a member of 8 GiB", member.tobuf(tarfile.USTAR_FORMAT) + picture(0) + bytes(2048)
    long = tarfile.TarInfo("x")
    long.type, long.size = tarfile.GNUTYPE_LONGNAME, 512
    yield "10,000 long names", (long.tobuf() + bytes(512)) * 10_000
    head = tarfile.TarInfo("p")
    head.type, head.size = tarfile.XHDTYPE, 512
    record = b"20 size=" + b"9" * 11 + b"\n" + bytes(492)
    yield "10,000 pax headers", (head.tobuf() + record) * 10_000


COUNTS = (
    "rows",
    "size",
    "images",
    "shard_size",
    "views",
    "image_size",
    "grid",
    "codes",
    "class_names",
)


def huge_records(whole: bytes) -> Iterator[tuple[str, bytes]]:
    """Records of a cache with a right checksum and one wrong number, or all of them."""
    for key in (*COUNTS, "all"):
        for number in (10**18, -1, 0, "x"):
            record = json.loads(whole)
            record.pop("checksum")
            plan = record.get("plan", {})
            for part in (record, plan, *(plan.values() if isinstance(plan, dict) else ()),
                         record.get("encoding"), *record.get("shards", ())):  # fmt: skip
                for name in COUNTS if key == "all" else (key,):
                    if isinstance(part, dict) and name in part:
                        part[name] = [number, number] if name in ("grid", "class_names") else number
            text = json.dumps(record, ensure_ascii=False, indent=1).encode()
            signed = {"checksum": digest_of(text), **record}
            content = json.dumps(signed, ensure_ascii=False, indent=1).encode()
            if content != whole:
                yield f"{key} is {number!r}", content


def calls(
    name: str, whole: Path, most: int | None = None
) -> Iterator[tuple[object, Callable[[], int]]]:
    """What each attempt is called, and what it does in a fresh folder of its own.

    Args:
        name: a key of :data:`KINDS`.
        whole: an empty folder, which will hold the sound files.
        most: damages a command, chosen at random; None takes all.
    """
    kind, before = KINDS[name], Path.cwd()
    shutil.copytree(OLD / "vq", whole / "vq")
    os.chdir(whole)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            kind.make()
        known = [damage for damage, _ in damages(Path(kind.file), random.Random(name))]
    finally:
        os.chdir(before)
    dice = random.Random(name)
    for command in kind.commands:
        for number in sorted(dice.sample(range(len(known)), min(most or len(known), len(known)))):

            def _do(number: int = number, command: str = command) -> int:
                shutil.copytree(whole, ".", dirs_exist_ok=True)
                _, damage = list(damages(Path(kind.file), random.Random(name)))[number]
                damage()
                return main(command.split())

            yield Attempt(name, known[number], command), _do


def warm() -> None:
    """Import what the commands need, so that no child has to."""
    torch.set_num_threads(1)
    for module in ("unmask.commands.cache", "unmask.commands.train", "unmask.train.loop",
                   "torch._dynamo", "torch.distributed.tensor"):  # fmt: skip
        importlib.import_module(module)
