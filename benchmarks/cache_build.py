"""How much of the time in which a latent cache is built is spent in the encoder.

    python benchmarks/cache_build.py --images 64 --report benchmarks/reports
    python benchmarks/cache_build.py --images 20000 --device cuda --report benchmarks/reports

Synthetic photographs (JPEG, 500 x 375) are cached at 256 x 256 in two views by a tokenizer of
published size with random weights. Each call of the encoder is timed inside the run, the device
waited for at both ends; the rest of the wall time is all else: reading and decoding that was not
hidden behind the encoder, hashing, writing. Limit: the encoder has at least 90%.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import parsed, parser, publish, seconds
from PIL import Image
from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.source import open_source
from unmask.draws import keyed_generator
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.vqgan import KLVAE, KLVAETokenizer, MaskGITVQGAN, MaskGITVQGANTokenizer

LIMIT = 0.9
MADE: dict[str, Callable[[], ImageTokenizer]] = {
    "kl16": lambda: KLVAETokenizer(KLVAE()),
    "maskgit-vqgan": lambda: MaskGITVQGANTokenizer(MaskGITVQGAN()),
}


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
        made: list[Tensor] = []
        self.seconds += seconds(lambda: made.append(self.call(images)), images.device)
        self.calls += 1
        return made[0]


def main() -> None:
    """Write images, cache them, print the share."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=64)
    words.add_argument("--batch-size", type=int, default=16)
    words.add_argument("--device", default="cpu")
    words.add_argument("--tokenizer", choices=MADE, default="kl16")
    args = parsed(words)
    device = torch.device(args.device)
    tokenizer = MADE[args.tokenizer]().to(device).eval()
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
    note = (
        f"JPEG files of 500 x 375 pixels, cached at 256 x 256 in two views, {args.batch_size} "
        f"images a batch, {watch.calls} calls of the encoder on {args.device}, random weights "
        "of the published size. The wall time is the whole call of build_cache, the hash of "
        "the weights and the fsync of every file included."
    )
    publish(args, rows, header=header, note=note)


if __name__ == "__main__":
    main()
