"""``unmask cache``: images encoded once, read many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from unmask.commands.arguments import explained
from unmask.commands.sources import Images, open_images
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache, verify
from unmask.data.foreign_cache import convert_cache
from unmask.data.split import Split
from unmask.data.write_cache import CacheReport
from unmask.errors import InputError
from unmask.image_size import ImageSize, size_text, size_words
from unmask.machine.devices import resolve_device
from unmask.machine.processes import launched, part, say_once
from unmask.networks.sizes import Grid
from unmask.ranges import Name, Place, Ranged
from unmask.recipes.trained_size import trained_size
from unmask.show import aligned
from unmask.text import say
from unmask.tokenizers.folder import load_tokenizer

USUAL_SIZE: ImageSize = 256  # of published tokenizers


@dataclass(frozen=True, kw_only=True)
class Build(Ranged):
    """Encode every image once; a build that was stopped keeps its finished shards.

    Several processes share the shards: torchrun --nproc-per-node 8 -m unmask.cli cache build ...

    A tokenizer of codes gives a cache of codes, one of latents a cache of moments: the mean and log
    variance from which each reading samples anew.
    """

    tokenizer: Place
    """Tokenizer that encodes: a run, a folder, or a shipped or published name."""
    data: Images
    """Images: a folder, WebDataset tars, IDX files, Parquet, avatars or fashion-mnist."""
    split: Split = "train"
    """Images that are encoded: the training side, or all, as some sources train on; or val, those
    that are held out."""
    out: Path
    """Folder of the cache: new, empty, or begun by the same words."""
    layout: Annotated[CacheLayout, tyro.conf.arg(name="")] = field(default_factory=CacheLayout)
    """Image size, crops, precision and shards of the cache."""
    rebuild_cache: bool = False
    """Encode everything anew, in the place of a cache that is there."""
    device: Name = "auto"
    """Device that computes: cpu, cuda, mps; auto takes the machine's accelerator if it has one."""

    def run(self) -> None:
        """Encode, then report what was skipped."""
        device = resolve_device(self.device)
        tokenizer = load_tokenizer(self.tokenizer).to(device)
        layout = sized(self.layout, self.tokenizer)
        report = build_cache(
            tokenizer,
            open_images(self.data, self.split, speaks=launched().is_main_process),
            out=self.out,
            layout=layout,
            device=device,
            rebuild=self.rebuild_cache,
            together=True,
        )
        print_report(report)
        option = "--cache CACHE --held-out-cache" if self.split == "val" else "--cache"
        given = f"{option} {self.out} --tokenizer {self.tokenizer}"
        train = f"unmask train RECIPE {given} --out FOLDER"
        if launched().is_main_process:
            say(f"next: {train}", error=True)
        part()


def sized(layout: CacheLayout, tokenizer: str) -> CacheLayout:
    """The layout with an image size, and a line on where that comes from."""
    known = trained_size(tokenizer)
    if layout.image_size is None:
        size = known or USUAL_SIZE
        why = "at which the tokenizer was trained" if known else "as nothing tells another"
        say_once(f"image size {size_text(size)}, {why} (--image-size {size_words(size)})")
        return replace(layout, image_size=size)
    if known not in (None, layout.image_size):
        say_once(
            f"image size {size_text(layout.size)}; the tokenizer was trained at {size_text(known)}"
        )
    return layout


@dataclass(frozen=True, kw_only=True)
class Convert(Ranged):
    """Turn another project's cache, one .npz file an image, into one of this library.

    mar, emigm: CLASS/NAME.npz with moments and moments_flip, (32, 16, 16) of KL-16. emigm-512: the
    same names, DC-AE's latents times 0.3189. maskgit-pytorch: NAME.npz with idx, idx_flip, (L,),
    and y if labelled. Damaged files are named and left out. Stopped, it continues.
    """

    source: Annotated[Path, tyro.conf.Positional]
    """Folder of the other cache; it is only read."""
    format: Annotated[
        Literal["mar", "emigm", "emigm-512", "maskgit-pytorch"], tyro.conf.arg(name="from")
    ]
    """Project that wrote the other cache."""
    out: Path
    """Folder of the new cache."""
    tokenizer: Place | None = None
    """Tokenizer that made the other cache. None: unknown, and whoever opens the new one must
    accept that."""
    grid: Grid | None = None
    """Rows and columns of codes, which the files do not tell; None means a square."""
    precision: Literal["float32", "float16"] = "float32"
    """Number format of moments; codes are whole numbers."""
    rebuild_cache: bool = False
    """Convert everything anew, in the place of a cache that is there."""

    def run(self) -> None:
        """Copy, then report what was skipped."""
        named = self.tokenizer
        report = convert_cache(
            self.source,
            self.format,
            out=self.out,
            tokenizer=None if named is None else load_tokenizer(named),
            grid=self.grid,
            precision=self.precision,
            rebuild=self.rebuild_cache,
            together=True,
        )
        print_report(report)
        part()


@dataclass(frozen=True, kw_only=True)
class Info(Ranged):
    """Say what a cache holds."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache."""

    def run(self) -> None:
        """Print what the index says."""
        cache = LatentCache.open(self.path, check="never")
        plan, shards = cache.plan, cache.index.shards
        made = plan.encoding
        what = f"{made.codes} codes"
        if cache.kind == "moments":
            deterministic = made.moment_channels == made.channels
            law = "latents" if deterministic else "mean and log variance"
            what = f"{made.channels} numbers, scale {made.scale:g}, from {law}"
        lines = {
            "kind": f"{cache.kind}, {plan.dtype}, {sum(shard.size for shard in shards):,} bytes",
            "images": f"{len(cache)} in {len(shards)} shards, {cache.views} views each",
            "tokens": f"{cache.length} ({plan.grid[0]} x {plan.grid[1]}) of {what}",
            "image size": size_text(plan.image_size),
            "tokenizer": made.tokenizer,
            "source": f"{plan.source}; {plan.split_rule}",
            "classes": ", ".join(plan.class_names) or "none",
            "skipped": str(len(cache.skipped)),
            "content": cache.index.content or "not noted: made by an older revision",
        }
        say(*aligned(lines))


@dataclass(frozen=True)
class Verify(Ranged):
    """Compare every shard with its hash."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache."""

    def run(self) -> None:
        """Name damaged shards.

        Raises:
            InputError: when there is one.
        """
        damaged = verify(self.path)
        if damaged:
            raise InputError(
                f"{self.path} has damaged, missing or foreign files: {', '.join(damaged)}; build "
                "it again by the same words, the others are kept"
            )
        say("all shards are whole")


def print_report(report: CacheReport) -> None:
    """Say how much there is, and name what is not."""
    say_once(*report.notes)
    say_once(
        f"{report.rows} images in {report.written + report.kept} shards ({report.kept} kept), "
        f"{len(report.skipped)} skipped, {report.seconds:.0f} s"
    )
    print_skipped(report)


def print_skipped(report: CacheReport) -> None:
    """Name the images that could not be read and say how many they were."""
    for name, reason in report.skipped:
        say_once(f"skipped {name}: {reason}")
    if report.skipped:
        total = report.rows + len(report.skipped)
        say_once(f"{len(report.skipped)} of {total} images cannot be read and were left out")


def main(words: Sequence[str]) -> None:
    """Run the command."""
    commands: dict[str, Callable[..., Build | Convert | Info | Verify]] = {
        "build": Build,
        "convert": Convert,
        "info": Info,
        "verify": Verify,
    }
    arguments = explained(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands,
            prog="unmask cache",
            description="Encode images once, read them many times.",
            args=list(words),
        )
    )
    arguments.run()
