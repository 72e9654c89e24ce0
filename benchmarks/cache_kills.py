"""A build that is killed again and again ends as one that never was.

    python benchmarks/cache_kills.py --kills 10 --report benchmarks/reports

A cache of codes and one of moments are each built in a process of its own, which is killed by
SIGKILL at random moments and started again. What it leaves in the end is compared byte for byte
with an undisturbed build.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from common import parsed, parser, publish
from random_caches import RandomImages, RandomMoments, RandomTokenizer
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import verify
from unmask.files.verified import LIST

IMAGES, SIDE, PAUSE = 240, 8, 0.05
LAYOUT = CacheLayout(image_size=SIDE, shard_size=4, batch_size=2)
KINDS = {"codes": RandomTokenizer, "moments": RandomMoments}


def build(kind: str, out: Path, pause: float = 0.0) -> None:
    """Build one; ``pause`` seconds a batch, so that kills find it in every place."""
    tokenizer = KINDS[kind]()
    encode = tokenizer.encode

    def slowly(images: Tensor) -> Tensor:
        time.sleep(pause)
        return encode(images)

    tokenizer.encode = slowly  # type: ignore[method-assign]
    print("building", flush=True)
    build_cache(tokenizer, RandomImages(IMAGES, SIDE), out=out, layout=LAYOUT, progress=False)


def killed_build(kind: str, out: Path, kills: int) -> list[int]:
    """Build with kills; how many files there were after each."""
    dice, left = random.Random(kind), []
    command = [sys.executable, __file__, "--build", kind, "--out", str(out)]
    longest = IMAGES / LAYOUT.batch_size * PAUSE / kills
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(dice.uniform(0, longest))
            assert child.poll() is None, "it ended before it was killed"
            child.kill()
        left.append(len(list(out.glob("*"))))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return left


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the list of those that were found whole, which holds their times."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != LIST}


def main() -> None:
    """Kill, compare, print the table."""
    words = parser(__doc__)
    words.add_argument("--kills", type=int, default=10, help="of each kind")
    words.add_argument("--build", choices=KINDS, help=argparse.SUPPRESS)
    words.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parsed(words)
    torch.set_num_threads(1)
    if args.build:
        build(args.build, args.out, PAUSE)
        return
    rows = []
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            killed, whole = Path(name) / "killed", Path(name) / "whole"
            left = killed_build(kind, killed, args.kills)
            build(kind, whole)
            files = contents(whole)
            assert contents(killed) == files, f"the cache of {kind} differs"
            assert not verify(killed)
            rows.append([kind, args.kills, str(left), len(files), "all bytes equal"])
    header = ["cache", "kills", "files after each", "files of an undisturbed build", "result"]
    note = (
        f"{IMAGES} images in shards of {LAYOUT.shard_size}. Each build runs in a process of "
        f"its own and is killed by SIGKILL within {IMAGES / 2 * PAUSE / args.kills:.2g} s of "
        "its start, at random; the last is let end. All files are compared but the list of "
        "those that were found whole, which holds their times."
    )
    publish(args, rows, header=header, note=note)


if __name__ == "__main__":
    main()
