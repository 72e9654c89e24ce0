"""Speed beside the code of maskgit-pytorch and MAR, on one thread, by processor time.

    python benchmarks/beside_sources.py --maskgit-pytorch CHECKOUT --mar CHECKOUT [--report DIR]

The checkouts, and what they import (timm 0.9.12, einops, omegaconf, scipy), are for whoever runs
this to bring. Both sides have the same weights, through the tables that read published files, the
same tokens, labels and masked share, and take turns. Widths are those of the published base
systems; depth is cut (--depth) so that a round takes seconds, and ratios at full depth are lower.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from common import parsed, parser, publish
from torch import Tensor
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from unmask.convert import convert
from unmask.draws import keyed_generator
from unmask.generation import generate_tokens
from unmask.masking import Masking, NormalMasking, TrainMasking
from unmask.nn.gaussian import STEPS as DIFFUSION_STEPS
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.pipeline import Pipeline
from unmask.types import MaskedBatch

LENGTH, CLASSES, CHANNELS, REPEATS = 256, 1000, 16, 4
SMOOTHING, DROPOUT = 0.1, 0.1
PRODUCTS = ("mm", "linear", "attention", "convolution")  # in the names of operations


class Pair(NamedTuple):
    """The same work on both sides."""

    name: str
    source: Callable[[], object]
    ours: Callable[[], object]


@contextmanager
def imported(checkout: Path) -> Iterator[Callable[[str], Any]]:
    """Import from a checkout, whose packages have names that others have too."""
    known = set(sys.modules)
    with patch.object(sys, "path", [str(checkout), *sys.path]):
        yield importlib.import_module
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(checkout)):
            del sys.modules[name]


def masked_batch(tokens: Tensor, masking: Masking) -> tuple[Tensor, Tensor, LocatedBatch]:
    """Labels, a mask, and our batch of them, with times and noise for latents."""
    count, stream = len(tokens), keyed_generator("batch")
    labels = torch.randint(CLASSES, (count,), generator=stream)
    masked, kept, _ = masking.draw(count, LENGTH, stream)  # (B, L) and (B, K)
    hidden = int(masked.sum())
    batch = MaskedBatch(tokens, masked, labels, torch.full((count,), 1 / hidden), kept)
    if not tokens.is_floating_point():
        return labels, masked, locate(batch)
    times = torch.randint(DIFFUSION_STEPS, (REPEATS, hidden), generator=stream)
    noise = torch.randn(REPEATS, hidden, CHANNELS, generator=stream)
    return labels, masked, locate(batch, times=times, noise=noise)


def same(state: dict[str, Any], **stated: int) -> Pipeline:
    """Our system with the weights of a source's."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pth"
        torch.save(state, path)
        system, _ = convert(path, **stated)
    return system


def maskgit(checkout: Path, depth: int) -> Iterator[Pair]:
    """maskgit-pytorch: 768 wide, 1024 codes."""
    with imported(checkout) as load:
        parts = load("models.stage2.transformer"), load("models.stage2.sampler")
    theirs = parts[0].MaskTransformer(
        vocab_size=1024, embed_dim=768, n_heads=8, n_layers=depth, n_tokens=LENGTH,
        n_classes=CLASSES, dropout=0.0,
    )  # fmt: skip
    system = same(theirs.state_dict(), heads=8)
    tokens = torch.randint(1024, (4, LENGTH), generator=keyed_generator("tokens"))
    labels, masked, batch = masked_batch(tokens, TrainMasking(rounding="up"))
    trained = MaskedObjective(fresh(system), label_smoothing=SMOOTHING).train()

    def source_step() -> None:
        """As its ``train_c2i.py`` does."""
        logits = theirs(torch.where(masked, theirs.mask_token_id, tokens), labels, DROPOUT)
        loss = functional.cross_entropy(logits[masked], tokens[masked], label_smoothing=SMOOTHING)
        theirs.zero_grad()
        loss.backward()

    yield Pair("maskgit-pytorch, training step", source_step, lambda: step(trained, batch))
    guided = replace(system.plan.guidance, scale=3.0, ramp="revealed")
    plan = replace(system.plan, steps=8, guidance=guided)
    sampler = parts[1].MaskGITSampler(
        model=theirs, sequence_length=LENGTH, sampling_steps=8, cfg=3.0, cfg_schedule="linear-r"
    )
    yield Pair(
        "maskgit-pytorch, 4 images in 8 steps",
        lambda: sampler.sample(4, labels),
        lambda: list(generate_tokens(system, labels.tolist(), seeds=range(4), plan=plan)),
    )


def mar(checkout: Path, depth: int) -> Iterator[Pair]:
    """MAR: 768 wide, a head of 6 blocks of 1024."""
    with imported(checkout) as load:
        theirs = load("models.mar").MAR(
            encoder_embed_dim=768, encoder_depth=depth, encoder_num_heads=12,
            decoder_embed_dim=768, decoder_depth=depth, decoder_num_heads=12,
            attn_dropout=0.0, proj_dropout=0.0, diffloss_d=6, diffloss_w=1024,
            diffusion_batch_mul=REPEATS, num_sampling_steps="25",
        )  # fmt: skip
    system = same({"model": theirs.state_dict()}, heads=12)
    latents = torch.randn(4, LENGTH, CHANNELS, generator=keyed_generator("latents"))
    labels, masked, batch = masked_batch(latents, NormalMasking(mean=1.0, std=0.25, least=0.7))
    trained = MaskedObjective(fresh(system)).train()
    images = theirs.unpatchify(latents)
    share = float(masked.float().mean())

    def source_step() -> None:
        """As its ``engine_mar.py`` does, at our share of hidden tokens."""
        with patch.object(theirs, "mask_ratio_generator") as ratios:
            ratios.rvs.return_value = [share]
            loss = theirs(images, labels)
        theirs.zero_grad()
        loss.backward()

    yield Pair("MAR, training step", source_step, lambda: step(trained, batch))
    guided = replace(system.plan.guidance, scale=3.0, ramp="revealed")
    draw = replace(system.plan.draw, respacing="25")
    plan = replace(system.plan, steps=16, guidance=guided, draw=draw)

    @torch.no_grad()
    def source_sample() -> None:
        theirs.eval().sample_tokens(2, 16, 3.0, "linear", labels[:2])
        theirs.train()

    yield Pair(
        "MAR, 2 images in 16 x 25 steps",
        source_sample,
        lambda: list(generate_tokens(system, labels[:2].tolist(), seeds=range(2), plan=plan)),
    )


def fresh(system: Pipeline) -> torch.nn.Module:
    """The system's network once more, to be trained."""
    model = system.recipe.network.build()
    model.load_state_dict(system.model.state_dict())
    return model


def step(objective: MaskedObjective, batch: Any) -> None:
    """Forward and backward."""
    objective.zero_grad()
    objective(batch)["loss"].backward()


def processor(call: Callable[[], object]) -> float:
    """Processor seconds of a call."""
    began = time.process_time()
    call()
    return time.process_time() - began


def outside(call: Callable[[], object]) -> float:
    """Share of the time of a call that is not spent in matrix products and attention."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        began = time.perf_counter()
        call()
        whole = time.perf_counter() - began
    spent = sum(
        event.self_cpu_time_total / 1e6
        for event in seen.key_averages()
        if any(name in event.key for name in PRODUCTS)
    )
    return 1 - spent / whole


def measured(pair: Pair, rounds: int) -> tuple[object, ...]:
    """A line of the report."""
    pair.source(), pair.ours()  # once for warmth
    times = [(processor(pair.source), processor(pair.ours)) for _ in range(rounds)]
    ratios = sorted(source / ours for source, ours in times)
    middle = (statistics.median(side) for side in zip(*times, strict=True))
    spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
    shares = (f"{outside(side):.0%}" for side in (pair.source, pair.ours))
    return (pair.name, *middle, statistics.median(ratios), spread, *shares)


def revision_of(checkout: Path) -> str:
    """Commit of a source's checkout; "unknown" outside of one."""
    done = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "--short=10", "HEAD"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout.strip() or "unknown"


def main() -> None:
    """Take turns and print."""
    words: argparse.ArgumentParser = parser(__doc__)
    words.add_argument("--maskgit-pytorch", type=Path, required=True, metavar="CHECKOUT")
    words.add_argument("--mar", type=Path, required=True, metavar="CHECKOUT")
    words.add_argument("--depth", type=int, default=3, help="blocks, twice for MAR")
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--revisions", nargs=2, default=None, help="of checkouts without git")
    options = parsed(words)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows: list[tuple[object, ...]] = []
    with patch.object(Tensor, "cuda", lambda self, *args, **named: self):  # sources name it
        for pair in maskgit(options.maskgit_pytorch, 2 * options.depth):
            rows.append(measured(pair, options.rounds))
        for pair in mar(options.mar, options.depth):
            rows.append(measured(pair, options.rounds))
    header = ("work", "source, CPU s", "ours, CPU s", "source / ours", "spread",
              "source outside products", "ours outside products")  # fmt: skip
    found = options.revisions or [revision_of(options.maskgit_pytorch), revision_of(options.mar)]
    note = (
        f"Revisions of the sources: maskgit-pytorch {found[0]}, MAR {found[1]}. One thread; "
        f"medians of {options.rounds} rounds in which the sides take turns. Products: matrix "
        "products and attention, by the profiler, in one round of its own."
    )
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
