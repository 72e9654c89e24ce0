"""``unmask cache``: images encoded once, read many times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from unmask.commands.arguments import explained
from unmask.commands.device import resolve_device
from unmask.data.build_cache import CacheLayout, CacheReport, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.errors import InputError
from unmask.tokenizers.folder import load_tokenizer


@dataclass(frozen=True, kw_only=True)
class Build:
    """Encode every image once; a build that was stopped keeps its finished shards."""

    tokenizer: str
    """A tokenizer run, folder or shipped name."""
    data: Path
    """Images: a folder, WebDataset tars, IDX files or Parquet."""
    out: Path
    """Folder of the cache."""
    layout: Annotated[CacheLayout, tyro.conf.arg(name="")] = field(
        default_factory=lambda: CacheLayout(image_size=256)
    )
    """Image size, views, shards."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""


@dataclass(frozen=True)
class Info:
    """Say what a cache holds."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache."""


@dataclass(frozen=True)
class Verify:
    """Compare every shard with its hash."""

    path: Annotated[Path, tyro.conf.Positional]
    """Folder of the cache."""


def build(arguments: Build, console: Console) -> None:
    """Encode, then report what was skipped."""
    device = resolve_device(arguments.device)
    source = open_source(arguments.data)
    console.print(f"{len(source)} images of {arguments.data}: {source.split_rule}")
    report = build_cache(
        load_tokenizer(arguments.tokenizer).to(device),
        source,
        out=arguments.out,
        layout=arguments.layout,
        device=device,
    )
    console.print(
        f"{report.rows} images in {report.written + report.kept} shards ({report.kept} kept), "
        f"{len(report.skipped)} skipped, {report.seconds:.0f} s"
    )
    print_skipped(report)


def print_skipped(report: CacheReport) -> None:
    """Name the images that could not be read and say how many they were."""
    for name, reason in report.skipped:
        print(f"skipped {name}: {reason}")
    if report.skipped:
        total = report.rows + len(report.skipped)
        print(f"{len(report.skipped)} of {total} images cannot be read and were left out")


def info(arguments: Info, console: Console) -> None:
    """Print what the index says."""
    cache = LatentCache.open(arguments.path)
    plan = cache.index.plan
    lines = {
        "images": f"{len(cache)} in {len(cache.index.shards)} shards, {cache.views} views each",
        "tokens": f"{cache.length} ({plan.grid[0]} x {plan.grid[1]}) of {plan.codes} codes",
        "image size": plan.image_size,
        "tokenizer": plan.tokenizer,
        "source": f"{plan.source}; {plan.split_rule}",
        "classes": ", ".join(plan.class_names) or "none",
        "skipped": len(cache.skipped),
    }
    for name, value in lines.items():
        console.print(f"{name:12}{value}", highlight=False)


def verify(arguments: Verify, console: Console) -> None:
    """Name damaged shards.

    Raises:
        InputError: when there is one.
    """
    cache = LatentCache.open(arguments.path)
    damaged = cache.verify()
    if damaged:
        raise InputError(
            f"{len(damaged)} of {len(cache.index.shards)} shards are damaged: "
            f"{', '.join(damaged)}; delete them and build again, the others are kept"
        )
    console.print(f"{len(cache.index.shards)} shards, all whole")


def main(words: Sequence[str]) -> None:
    """Run the command."""
    commands: dict[str, Callable[..., Build | Info | Verify]] = {
        "build": Build,
        "info": Info,
        "verify": Verify,
    }
    arguments = explained(
        lambda: tyro.extras.subcommand_cli_from_dict(
            commands, prog="unmask cache", args=list(words)
        )
    )
    console = Console()
    if isinstance(arguments, Build):
        build(arguments, console)
    elif isinstance(arguments, Info):
        info(arguments, console)
    else:
        verify(arguments, console)
