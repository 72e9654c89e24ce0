"""How much of the time in which a latent cache is built is spent in the encoder.

    python benchmarks/cache_build.py --images 64 --report benchmarks/reports
    python benchmarks/cache_build.py --images 20000 --device cuda --report benchmarks/reports

Synthetic photographs (JPEG, 500 x 375) are cached at 256 x 256 in two views by a tokenizer of
published size with random weights. Each call of the encoder is timed inside the run, the device
waited for at both ends; the rest of the wall time is all else: reading and decoding that was not
hidden behind the encoder, hashing, writing. Limit: the encoder has at least 90%.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from report import hardware_line, markdown_table, versions_line, write_report
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.source import open_source
from unmask.draws import keyed_generator
from unmask.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANTokenizer
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer

LIMIT = 0.9


def write_photographs(folder: Path, count: int) -> Path:
    """Smooth colours with noise on them, about 100 kB each, in two classes."""
    for row in range(count):
        generator = keyed_generator("photograph", row)
        coarse = torch.rand(1, 3, 6, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, (375, 500), mode="bicubic")[0]
        pixels = smooth + 0.08 * torch.randn(3, 375, 500, generator=generator)
        file = folder / f"class{row % 2}" / f"{row:06d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        data = (pixels.clamp(0, 1) * 255).byte().permute(1, 2, 0)
        Image.fromarray(data.numpy()).save(file, quality=90)
    return folder


class Stopwatch:
    """Calls of a function, and the seconds spent in them."""

    def __init__(self, call: Callable[[Tensor], Tensor]) -> None:
        self.call, self.calls, self.seconds = call, 0, 0.0

    def __call__(self, images: Tensor) -> Tensor:
        """Call and time it, the device idle before and after."""
        wait = torch.cuda.synchronize if images.is_cuda else lambda: None
        wait()
        start = time.perf_counter()
        out = self.call(images)
        wait()
        self.seconds += time.perf_counter() - start
        self.calls += 1
        return out


def main() -> None:
    """Write images, cache them, print the share."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tokenizer", choices=("kl16", "maskgit-vqgan"), default="kl16")
    parser.add_argument("--report", metavar="DIR", help="write a report file there")
    args = parser.parse_args()
    device = torch.device(args.device)
    tokenizer: KLVAETokenizer | MaskGITVQGANTokenizer
    if args.tokenizer == "kl16":
        tokenizer = KLVAETokenizer(KLVAE()).to(device).eval()
        watch = Stopwatch(tokenizer.moments)
        tokenizer.moments = watch  # type: ignore[method-assign]
    else:
        tokenizer = MaskGITVQGANTokenizer(MaskGITVQGAN()).to(device).eval()
        watch = Stopwatch(tokenizer.encode)
        tokenizer.encode = watch  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as name:
        folder = write_photographs(Path(name) / "images", args.images)
        source = open_source(folder, split="all")
        layout = CacheLayout(image_size=256, batch_size=args.batch_size)
        start = time.perf_counter()
        build_cache(tokenizer, source, out=Path(name) / "cache", layout=layout, device=device)
        wall = time.perf_counter() - start
    share = watch.seconds / wall
    views = 2 * args.images
    header = ["tokenizer", "images", "wall, s", "in the encoder, s", "share", "views/s", "limit"]
    verdict = "kept" if share >= LIMIT else "MISSED"
    limit = f"{LIMIT:.0%} {verdict}"
    rows = [[args.tokenizer, args.images, wall, watch.seconds, share, views / wall, limit]]
    print(hardware_line(), versions_line(), markdown_table(header, rows), sep="\n")
    if args.report:
        note = (
            f"JPEG files of 500 x 375 pixels, cached at 256 x 256 in two views, {args.batch_size} "
            f"images a batch, {watch.calls} calls of the encoder on {args.device}, random weights "
            "of the published size. The wall time is the whole call of build_cache, the hash of "
            "the weights and the fsync of every file included."
        )
        print(write_report(args.report, "cache_build", rows=rows, header=header, note=note))


if __name__ == "__main__":
    main()
