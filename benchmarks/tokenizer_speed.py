"""How fast tokenizers encode and decode, against plain calls of the same networks.

    python benchmarks/tokenizer_speed.py [NAME ...] [--image-size 256] [--batch-size 2]
        [--device cuda] [--dtype bfloat16] [--compile] [--report DIR]

Sizes are those of the published tokenizers, weights are random. Plain is the network called with
weights and maps in torch's default order in memory; ours is `encode` and
`decode`. Both run in turn in one process, and the ratio is the median of paired ratios. Where ids
differ, the last column says by how much the two nearest codes differ in squared distance, relative
to the nearer; of latents it says the largest difference relative to their spread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from functools import partial

import torch
from common import paired, parsed, parser, publish
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.show import shown
from unmask.tokenizers.image_tokenizer import ImageTokenizer, channels_last
from unmask.tokenizers.latent_tokenizer import to_map
from unmask.tokenizers.published import PUBLISHED
from unmask.tokenizers.tokenizer import from_native, to_native
from unmask.tokenizers.vq_tokenizer import VQTokenizer

HEADER = (
    *("tokenizer", "encode plain, s", "ours, s", "ratio"),
    *("decode plain, s", "ours, s", "ratio", "differs"),
)


def random_tokenizer(name: str) -> ImageTokenizer:
    """A published tokenizer with weights that keep the size of its maps."""
    made = PUBLISHED[name].network.build()
    generator = keyed_generator("benchmark", name)
    for parameter in made.requires_grad_(False).parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=parameter[0].numel() ** -0.5, generator=generator)
    return made.eval()


def plain_encode(tokenizer: ImageTokenizer, images: Tensor) -> Tensor:
    """Ids or moments, by the bare network."""
    latents = tokenizer.encoder(to_native(images, tokenizer.native_range))
    if isinstance(tokenizer, VQTokenizer):
        return tokenizer.quantizer(latents.permute(0, 2, 3, 1)).ids.flatten(1)
    return latents


def plain_decode(tokenizer: ImageTokenizer, tokens: Tensor) -> Tensor:
    """Images, by the bare network."""
    if isinstance(tokenizer, VQTokenizer):
        side = int(tokens.shape[1] ** 0.5)
        values = tokenizer.quantizer.lookup(tokens.view(-1, side, side)).permute(0, 3, 1, 2)
    else:
        values = to_map(tokens, tokenizer.space[1]) / tokenizer.scale
    made = tokenizer.decoder(values.contiguous())
    return from_native(made, tokenizer.native_range).float().clamp(0, 1)


def difference(plain: ImageTokenizer, ours: ImageTokenizer, images: Tensor) -> str:
    """How far what both encode to is apart."""
    wanted = plain_encode(plain, images)
    if not isinstance(plain, VQTokenizer) or not isinstance(ours, VQTokenizer):
        gap = (ours.encode(images) - wanted).abs().max() / wanted.float().std()
        return f"{float(gap):.1e} of the spread"
    apart = (ours.encode(images) != wanted).flatten()
    if not apart.any():
        return f"0 of {apart.numel()} ids"
    latents = plain.encoder(to_native(images, plain.native_range)).permute(0, 2, 3, 1).float()
    if plain.quantizer.l2_normalised:
        latents = torch.nn.functional.normalize(latents, dim=-1)
    picked = latents.flatten(0, 2)[apart].double()  # (N, D)
    squared = torch.cdist(picked, plain.quantizer.table().double()).square()  # (N, V)
    near = squared.topk(2, largest=False).values
    gap = ((near[:, 1] - near[:, 0]) / near[:, 0]).max()
    return f"{int(apart.sum())} of {apart.numel()} ids, gap at most {float(gap):.1e}"


def compare(
    plain: Callable[[], object], ours: Callable[[], object], device: torch.device, rounds: int
) -> tuple[float, float, float]:
    """Median seconds of both and the median of paired ratios, after a warm-up."""
    plain(), ours()
    return paired(plain, ours, rounds=rounds, device=device)


@torch.inference_mode()
def measure(name: str, options: argparse.Namespace) -> tuple[object, ...]:
    """One line of the table."""
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    plain = random_tokenizer(name).to(device)
    ours = deepcopy(plain)
    channels_last(ours)
    if options.compile:
        ours.encoder.compile()
        ours.decoder.compile()
    shape = (options.batch_size, plain.image_channels, options.image_size, options.image_size)
    images = torch.rand(shape, generator=keyed_generator("images")).to(device)
    tokens = ours.tokens(ours.encode(images))
    with nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype):
        there = partial(plain_encode, plain, images), partial(ours.encode, images)
        back = partial(plain_decode, plain, tokens), partial(ours.decode, tokens)
        times = [compare(*pair, device, options.rounds) for pair in (there, back)]
        return name, *times[0], *times[1], difference(plain, ours, images)


def of_different_sizes() -> list[str]:
    """One name for each network; several tokenizers share one."""
    first: dict[str, str] = {}
    for name, entry in PUBLISHED.items():
        first.setdefault(str(entry.network), name)
    return list(first.values())


def main() -> None:
    """Measure and print."""
    words = parser(__doc__)
    words.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PUBLISHED)}")
    words.add_argument("--image-size", type=int, default=256)
    words.add_argument("--batch-size", type=int, default=2)
    words.add_argument("--rounds", type=int, default=7)
    words.add_argument("--device", default="cpu")
    words.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    words.add_argument("--compile", action="store_true", help="compile our side")
    options = parsed(words)
    if unPUBLISHED := [name for name in options.names if name not in PUBLISHED]:
        words.error(f"{unPUBLISHED[0]} is none of {', '.join(PUBLISHED)}")
    rows = []
    for name in options.names or of_different_sizes():
        rows.append(measure(name, options))
        print(*map(shown, rows[-1]), sep="\t", flush=True)
    note = (
        f"Images {options.batch_size} x {options.image_size}^2, {options.dtype}, "
        f"{options.device}{', ours compiled' if options.compile else ''}; random weights; median "
        f"of {options.rounds} interleaved pairs after one call of each to warm up. Above 1 ours "
        "is faster."
    )
    publish(options, rows, header=HEADER, note=note)


if __name__ == "__main__":
    main()
