"""Every kind of file with weights, statistics or settings, damaged, before a command that reads it.

What opens a file runs in a forked child with little memory and little time (``forked.py``).
``benchmarks/damaged_weights.py`` reports the counts.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np
import torch
import yaml
from forked import Answer, answers
from place import write_place
from safetensors.torch import load_file, save_file
from toy_tokenizers import write_amused, write_lightning

import unmask
from unmask.checkpoints.names import to_source
from unmask.cli import main
from unmask.errors import InputError
from unmask.evaluate.classifier import load_classifier
from unmask.evaluate.inception import load_inception
from unmask.evaluate.lpips import LPIPS, load_lpips
from unmask.evaluate.lpips import TABLE as LPIPS_TABLE
from unmask.evaluate.reference import open_reference
from unmask.networks.latent import LatentNetwork
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.projects.foreign import PROJECTS

FIXTURES = Path(__file__).parents[1] / "fixtures"
JUDGE = Path(unmask.__file__).parent / "assets" / "fashion_classifier.safetensors"
CUTS, FLIPS = 3, 6
RAN = "RAN"  # the file that hostile pickles would make


class Kind(NamedTuple):
    """A file, the folder that is copied for it, and what reads it."""

    part: str
    file: str
    words: str
    """Of the command line; "x" is the copy, ROOT where the toys are. Empty for ``call``."""
    call: Callable[[Path], object] | None = None
    """What reads the file where no quick command does; it raises as commands raise."""


class Attempt(NamedTuple):
    """One damaged file."""

    kind: str
    damage: str
    answer: Answer


SAMPLE = "sample x --per-class 1 --out out --device cpu --steps 1"
TOKENIZE = "tokenizer eval x --data ROOT/images --count 2 --image-size 16 --device cpu"
TUNE = "finetune x --data ROOT/images --out out --batch-size 8 --epochs 1 --warmup-epochs 0 "
KINDS = {
    "model weights": Kind("base", "model.safetensors", SAMPLE),
    "model config": Kind("base", "config.json", SAMPLE),
    "its tokenizer": Kind("base", "tokenizer/model.safetensors", SAMPLE),
    "latent model": Kind("latent", "model.safetensors", SAMPLE),
    "tokenizer": Kind("vq", "model.safetensors", TOKENIZE),
    "classifier": Kind(
        "tuned", "model.safetensors", TUNE + "--crop none --tracker none --mixing.group 2"
    ),
    "recipe": Kind("recipes", "maskgit.yaml", "recipes x/maskgit.yaml"),
    "torch zip": Kind("theirs-zip", "model.pt", "convert x/model.pt out --heads 2"),
    "torch legacy": Kind("theirs-legacy", "model.tar", "convert x/model.tar out --heads 2"),
    "safetensors": Kind("theirs-safe", "w.safetensors", "convert x/w.safetensors out --heads 2"),
    "flax": Kind("theirs-flax", "f", "convert x/f out --classes 6"),
    "flax chunks": Kind("theirs-chunks", "f", "convert x/f out --classes 6"),
    "run's config": Kind("theirs-zip", "config-1.yaml", "convert x/model.pt out"),
    "port's weights": Kind("port", "pytorch_model.bin", "convert x out"),
    "port's config": Kind("port", "config.json", "convert x out"),
    "MAR": Kind("theirs-mar", "checkpoint-last.pth", "convert x out --heads 2"),
    "MAR's training": Kind("their-mar", "checkpoint-last.pth", "takeover x out --heads 2"),
    "MAGE's training": Kind(
        "their-mage", "checkpoint-last.pth", "takeover x out --heads 2 --decoder-heads 2"
    ),
    "training states": Kind(
        "their-maskgit_pytorch", "ckpt/step0000004/training_states.pt", "takeover x out"
    ),
    "adapter's optimiser": Kind("their-unlockmgm", "checkpoint-8/optimizer.bin", "takeover x out"),
    "adapter's config": Kind("their-unlockmgm", "config.yaml", "takeover x out"),
    "adapter's average": Kind(
        "their-unlockmgm", "checkpoint-8/ema_model/config.json", "takeover x out"
    ),
    "adapter's step": Kind("their-unlockmgm", "checkpoint-8/metadata.json", "takeover x out"),
    "taming": Kind("taming", "last.ckpt", "convert x/last.ckpt out"),
    "aMUSEd's config": Kind("amused", "vqvae/config.json", "convert x out"),
    "statistics npz": Kind("statistics", "s.npz", "", partial(open_reference, width=4)),
    "statistics pt": Kind("statistics", "s.pt", "", partial(open_reference, width=4)),
    "LPIPS": Kind("lpips", "both.pth", "", lambda path: load_lpips([path])),
    "Inception": Kind("lpips", "inception.pth", "", load_inception),
    "judge": Kind("lpips", "judge.safetensors", "", load_classifier),
    "fine-tuned file": Kind(
        "lpips", "inception.pth", TUNE.replace("finetune x", "finetune x/inception.pth")
    ),
}


def build(root: Path) -> None:
    """Everything that is damaged."""
    write_place(root)
    for part in ("zip", "legacy", "safe", "flax", "chunks", "mar"):
        (root / f"theirs-{part}").mkdir()
    for part in ("taming", "amused-all", "statistics", "lpips", "recipes"):
        (root / part).mkdir()
    shutil.copy(root / "maskgit.yaml", root / "recipes")
    network = MaskGITVitNetwork(codes=16, width=8, depth=2, heads=2, length=16, classes=3)
    state = to_source(network.build().state_dict(), PROJECTS["maskgit-pytorch"].rules)
    torch.save({"model": state, "step": 3}, root / "theirs-zip/model.pt")
    params = {"n_heads": 2, "dropout": 0.1, "mask_schedule_type": "arccos"}
    config = {"transformer": {"params": params}, "train": {"n_steps": 3, "optim": {"params": {}}}}
    (root / "theirs-zip/config-1.yaml").write_text(yaml.safe_dump(config))
    torch.save(state, root / "theirs-legacy/model.tar", _use_new_zipfile_serialization=False)
    save_file(state, root / "theirs-safe/w.safetensors")
    flax = FIXTURES / "maskgit" / "jax_transformer.msgpack"
    shutil.copy(flax, root / "theirs-flax/f")
    (root / "theirs-chunks/f").write_bytes(chunked(flax.read_bytes()))
    latent = LatentNetwork(
        channels=4, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1, decoder_heads=2,
        length=16, head_width=8, head_depth=1, classes=3, buffer=4,
    ).build().state_dict()  # fmt: skip
    mar = to_source(latent, PROJECTS["mar"].rules)
    torch.save({"model": mar, "model_ema": mar}, root / "theirs-mar/checkpoint-last.pth")
    for project in ("mar", "mage", "maskgit_pytorch", "unlockmgm"):
        shutil.copytree(FIXTURES / "takeover" / project, root / f"their-{project}")
    write_lightning(FIXTURES, root / "taming")
    made = write_amused(FIXTURES, root / "amused-all")
    shutil.copytree(made, root / "amused")
    write_statistics(root / "statistics")
    torch.save(to_source(LPIPS().state_dict(), LPIPS_TABLE), root / "lpips/both.pth")
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(2)}, root / "lpips/inception.pth")
    shutil.copy(JUDGE, root / "lpips/judge.safetensors")
    os.environ["HF_HUB_OFFLINE"] = "1"


def write_statistics(folder: Path) -> None:
    arrays = {"mu": np.zeros(4), "sigma": np.eye(4)}
    np.savez(folder / "s.npz", **arrays)
    torch.save(arrays, folder / "s.pt")


def chunked(whole: bytes) -> bytes:
    """The same flax file with one array in chunks."""
    tree = msgpack.unpackb(whole, strict_map_key=False)
    layer = tree["params"]["Embed_0"]["word_embeddings"]
    shape, name, raw = msgpack.unpackb(layer["embedding"].data, raw=True)
    half = len(raw) // 8 * 4
    parts = (raw[:half], raw[half:])
    chunks = {
        str(i): msgpack.ExtType(1, msgpack.packb([[len(part) // 4], name.decode(), part]))
        for i, part in enumerate(parts)
    }
    sizes = {str(i): size for i, size in enumerate(shape)}
    layer["embedding"] = {"__msgpack_chunked_array__": True, "shape": sizes, "chunks": chunks}
    return msgpack.packb(tree)


class Harmful:
    """Would make a file if anybody ran it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.system, (f"touch {os.environ[RAN]}",))


def strangers() -> dict[str, bytes]:
    """Files of other kinds, and hostile ones of the right kind."""
    found = {
        "empty": b"",
        "a page": b"<!DOCTYPE html><html><body>Sign in</body></html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "noise": random.Random(1).randbytes(3000),
        "zeros": bytes(20_000),
        "100,000 brackets": b"[" * 100_000,
        "nested objects": b'{"a":' * 100_000,
        "null": b"null",
        "a list": b"[1, 2]",
        "a number": b"1e999",
        "half UTF-8": b"\xff\xfe{}\xc3",
        "a pickle that runs": pickle.dumps(Harmful()),
        "nested pickle": b"\x80\x02" + b"(" * 100_000,
        "nested msgpack": b"\x91" * 100_000,
        "nested maps": b"\x81\xa1a" * 50_000,
        "msgpack of 2^32": b"\xdf\xff\xff\xff\xff",
        "bytes of 2^32": b"\x81\xa1a\xc6\xff\xff\xff\xff",
        "header of 2^63": struct.pack("<Q", 2**63 - 1) + b"{" * 100,
        "array of 2^62": safetensors({"a": ("F32", [2**62], [0, 4])}),
        "YAML that multiplies": b"a: &a [x,x]\n"
        + b"".join(b"%c: &%c [*%c,*%c]\n" % (c + 1, c + 1, c, c) for c in range(97, 121)),
        "an array of objects": objects(),
        "npz of 2^40": npz((2**40,)),
        "npz of -1": npz((-1,)),
        "npz of a text": zipped({"mu.npy": b"text", "sigma.npy": b"text"}),
        "zip of nothing": zipped({}),
    }
    for legacy in (False, True):
        for name, thing in hostile().items():
            stream = io.BytesIO()
            torch.save(thing, stream, _use_new_zipfile_serialization=not legacy)
            found[f"{name}{', legacy' * legacy}"] = stream.getvalue()
    return found


def hostile() -> dict[str, object]:
    """Objects that ``torch.save`` takes."""
    deep: dict = {"pos_emb": torch.zeros(1)}
    for _ in range(200):
        deep = {"model": deep}
    wide: dict = {"pos_emb": torch.zeros(1)}
    for _ in range(40):
        wide = {"a": wide, "b": wide}
    marks = (
        *("pos_emb", "embed.word_embeddings.weight", "mlm_layer.fc.weight"),
        *("diffusion_pos_embed_learned", "quantize.embedding.weight", "quant_conv.weight"),
    )
    return {
        "a weight that runs": {"model": {"pos_emb": Harmful()}},
        "a tensor": torch.zeros(3),
        "a number in a file": 3,
        "no weights": {"model": {}},
        "deep": deep,
        "wide": wide,
        "one mark of each": {name: torch.zeros(1) for name in marks},
        "marks without dimensions": {name: torch.zeros(()) for name in marks},
        "marks without elements": {name: torch.zeros(0, 3) for name in marks},
        "marks that claim 4 TB": {name: torch.zeros(1).expand(10**6, 10**6) for name in marks},
        "sparse marks": {name: torch.zeros(2, 2).to_sparse() for name in marks},
        "complex marks": {name: torch.zeros(2, 2, dtype=torch.complex64) for name in marks},
        "statistics of other shapes": {"mu": np.zeros((2, 2)), "sigma": np.zeros(3)},
        "statistics of texts": {"mu": "a", "sigma": "b"},
        "negative statistics": {"mu": np.zeros(4), "sigma": -np.eye(4)},
        "asymmetric statistics": {"mu": np.zeros(4), "sigma": np.triu(np.ones((4, 4)))},
        "complex statistics": {"mu": np.zeros(4), "sigma": np.eye(4) * 1j},
    }


def safetensors(tensors: dict[str, tuple], metadata: dict[str, str] | None = None) -> bytes:
    header: dict[str, object] = {"__metadata__": metadata or {}}
    for name, (dtype, shape, offsets) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


def zipped(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def npz(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    told = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, told)
    member = header.getvalue() + bytes(1 << 20)
    return zipped({f"{name}.npy": member for name in ("mu", "sigma", "arr_0")})


def objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, mu=np.array([{"a": 1}], dtype=object), sigma=np.array(["x"], dtype=object))
    return stream.getvalue()


def changed_settings(file: Path) -> dict[str, bytes]:
    """A file of settings, or our weights with their settings inside, with other values."""
    if file.suffix == ".safetensors":
        return changed_metadata(file)
    if file.suffix not in (".json", ".yaml"):
        return {}
    text = file.read_text()
    load, dump = (json.loads, json.dumps) if file.suffix == ".json" else (yaml.safe_load, yaml.dump)
    return {name: dump(value).encode() for name, value in changed(load(text)).items()}


def changed_metadata(file: Path) -> dict[str, bytes]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
    if "config" not in metadata:
        return {}
    config = json.loads(metadata["config"])
    texts = {name: json.dumps(value) for name, value in changed(config).items()}
    texts |= {"no JSON": "{", "a list": "[1]", "null": "null", "deep": "[" * 100_000, "": ""}
    found = {}
    for name, text in texts.items():
        found[f"config: {name}"] = rewritten(file, metadata | {"config": text})
    found["a tie to nothing"] = rewritten(file, metadata | {"tied more": "absent"})
    found["no config"] = rewritten(file, {})
    return found


def rewritten(file: Path, metadata: dict[str, str]) -> bytes:
    aside = file.with_name("aside")
    save_file(load_file(file), aside, metadata=metadata)
    data = aside.read_bytes()
    aside.unlink()
    return data


VALUES = (None, -1, 0, 2**40, 10**7, 2**63, float("nan"), "text", [], {}, True)


def changed(config: object) -> dict[str, object]:
    """The settings with each value replaced by some others, and each left out."""
    found: dict[str, object] = {}
    for path in paths(config):
        for value in VALUES:
            copy = json.loads(json.dumps(config))
            at(copy, path[:-1])[path[-1]] = value
            found[f"{'.'.join(map(str, path))}={value}"] = copy
        copy = json.loads(json.dumps(config))
        del at(copy, path[:-1])[path[-1]]
        found[f"without {'.'.join(map(str, path))}"] = copy
    return found


def paths(tree: object, before: tuple = ()) -> Iterator[tuple]:
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield (*before, key)
            yield from paths(value, (*before, key))


def at(tree: Any, path: tuple) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def damages(file: Path, dice: random.Random, most: int) -> Iterator[tuple[str, bytes]]:
    """Other contents of a file, by what was done to it; ``most`` of the changed settings."""
    whole = file.read_bytes()
    for place in sorted(dice.randrange(len(whole)) for _ in range(CUTS)):
        yield f"cut at {place}", whole[:place]
    for _ in range(FLIPS):
        reach = dice.choice((400, len(whole)))  # headers are short, and tell most
        place, bit = dice.randrange(min(len(whole), reach)), dice.randrange(8)
        flipped = bytes([whole[place] ^ 1 << bit])
        yield f"bit {bit} of byte {place}", whole[:place] + flipped + whole[place + 1 :]
    yield from strangers().items()
    settings = list(changed_settings(file).items())
    yield from dice.sample(settings, min(most, len(settings)))


def read(root: Path, kind: Kind, content: bytes) -> int:
    """What a child does in its folder."""
    shutil.copytree(root / kind.part, "x")
    file = Path("x") / kind.file
    file.write_bytes(content)
    if kind.call is None:
        return main(kind.words.replace("ROOT", str(root)).split())
    try:
        kind.call(file)
    except InputError as error:
        print(f"unmask: error: {error}", file=sys.stderr)
        return 2
    return 0


def walk(
    root: Path, names: list[str], *, most: int = 60, tried: int | None = None, workers: int = 2
) -> list[Attempt]:
    """Damages of the named kinds.

    Args:
        root: where :func:`build` was.
        names: keys of :data:`KINDS`.
        most: changed settings a kind, of which there are hundreds.
        tried: damages a kind, chosen at random; None takes all.
        workers: children at a time.
    """
    os.environ[RAN] = str(root / RAN)
    calls: list[tuple[object, Callable[[], int]]] = []
    for name in names:
        kind, dice = KINDS[name], random.Random(name)
        found = list(damages(root / kind.part / kind.file, dice, most))
        for damage, content in dice.sample(found, min(tried or len(found), len(found))):
            calls.append(((name, damage), partial(read, root, kind, content)))
    return [Attempt(*name, answer) for name, answer in answers(calls, workers=workers)]


def warm(root: Path) -> None:
    """Import once what the children need."""
    here = Path.cwd()
    for number, kind in enumerate(KINDS.values()):
        place = root / "warm" / str(number)
        place.mkdir(parents=True)
        os.chdir(place)
        try:
            read(root, kind, (root / kind.part / kind.file).read_bytes())
        finally:
            os.chdir(here)
    torch.set_num_threads(1)
