"""Tokenizers judged side by side: the same images through each of them and back."""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Literal, NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.evaluate.features import EfficientNetLite0, FeatureExtractor
from unmask.evaluate.frechet import RunningStatistics
from unmask.evaluate.inception import Inception, load_inception
from unmask.evaluate.lpips import LPIPS, WINDOW, load_lpips, psnr, ssim
from unmask.evaluate.real_images import real_between
from unmask.evaluate.reference import Moments
from unmask.files.durable import outputs
from unmask.image_size import ImageSize, size_text
from unmask.machine.devices import resolve_device
from unmask.machine.processes import dealt
from unmask.pictures import sheet, to_float, to_uint8
from unmask.ranges import Between, Name, Ranged
from unmask.results import Result
from unmask.show import Table, shown
from unmask.tokenizers.published import PUBLISHED
from unmask.tokenizers.tokenizer import Tokenizer, noise_shape
from unmask.tokenizers.vq_tokenizer import perplexity

COLUMNS = (
    *("PSNR", "SSIM", "LPIPS", "FD", "rFID", "FD (other Inception)"),
    *("codes used", "perplexity", "latent std", "least channel", "most channel"),
    *("encode/s", "decode/s"),
)
FILES = ("table.md", "scores.json", "pictures.png")
LEAST_WIDTH = 640  # pixels of the picture; smaller images are magnified
SHOWN = 8  # images of the picture
LABEL = 16  # pixels of a row's title


@dataclass(frozen=True, kw_only=True)
class Comparison(Ranged):
    """How many images tokenizers are compared on, and by what."""

    count: Annotated[int, Between(2, 10**7)] = 2000
    """Images that are sent through; scores of other counts do not compare."""
    image_size: Annotated[ImageSize, Between(WINDOW, 2**13)] = 256
    """Pixels after ADM's centre crop: one number for a square, or height and width."""
    batch_size: Annotated[int, Between(1, 2**16)] = 32
    """Images a batch."""
    latents: Literal["sample", "mean"] = "sample"
    """Latents that are decoded: a draw from the encoder's Gaussian (of image k by seed k), as
    generators see it, or its mean."""
    lpips: tuple[Path, ...] = ()
    """AlexNet of torchvision and the linear weights of lpips v0.1 (alex.pth), for LPIPS; without
    them it is left out."""
    inception: Path | None = None
    """Weights of the 2015 Inception network (torch-fidelity's releases), for rFID; without them it
    is left out."""
    device: Name = "auto"
    """Device that computes: cpu, cuda, mps; auto takes the machine's accelerator if it has one."""

    def extractors(self) -> list[FeatureExtractor]:
        """Networks whose features the Fréchet distances compare."""
        device = resolve_device(self.device)
        known: list[FeatureExtractor] = [EfficientNetLite0(device=device)]
        return (
            known
            if self.inception is None
            else [*known, load_inception(self.inception, device=device)]
        )


@dataclass(frozen=True, kw_only=True)
class TokenizerRow:
    """Scores of one tokenizer on the images of a comparison.

    Args:
        name: Name of the tokenizer, as it was given.
        identity: Hash of the tokenizer's sizes and weights.
        tokens: Tokens of an image, and what they are, as "16x16 of 1024 codes".
        scores: Scores by title, see :data:`COLUMNS`; what does not apply is left out.
        published: Scores that others report of these weights.
    """

    name: str
    identity: str
    tokens: str
    scores: dict[str, float]
    published: tuple[Result, ...] = ()

    def cell(self, title: str) -> str:
        """Text under a title: the score, and in brackets the published one."""
        score = self.scores.get(title)
        own = "-" if score is None else shown(score)
        return " ".join([own, *(f"({r.value:g})" for r in self.published if r.metric == title)])


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """What a comparison found: rows of scores, and the circumstances under which they hold.

    Args:
        rows: Scores of the tokenizers, in the order asked for.
        notes: Every choice that moves a number, a line each.
        pictures: ``(N, C, H, W)`` uint8 of the same images by title: originals, then each
            tokenizer's.
    """

    rows: tuple[TokenizerRow, ...]
    notes: tuple[str, ...]
    pictures: Mapping[str, Tensor]

    def table(self) -> Table:
        """A line a tokenizer; columns that nobody fills are left out."""
        titles = [t for t in COLUMNS if any(row.cell(t) != "-" for row in self.rows)]
        return Table(
            titles=["tokenizer", "tokens", *titles],
            rows=[[row.name, row.tokens, *map(row.cell, titles)] for row in self.rows],
            notes=self.notes,
        )

    def to_json(self) -> str:
        """Rows and notes as indented JSON; a score without bound is the text "inf"."""
        rows = [asdict(row) for row in self.rows]
        for row in rows:
            row["scores"] = {k: str(v) if math.isinf(v) else v for k, v in row["scores"].items()}
        return json.dumps({"rows": rows, "notes": self.notes}, indent=2) + "\n"

    def write(self, folder: Path) -> None:
        """Write :data:`FILES`, replacing earlier ones.

        Raises:
            InputError: if the disk is full or refuses.
        """
        files = [folder / name for name in FILES]
        whole = "earlier ones are whole"
        with outputs(*files, named=folder, intact=whole) as (table, scores, pictures):
            table.write_text(self.table().markdown() + "\n", encoding="utf8")
            scores.write_text(self.to_json(), encoding="utf8")
            side_by_side(self.pictures).save(pictures, format="PNG")


def side_by_side(pictures: Mapping[str, Tensor]) -> Image.Image:
    """A row of images for each title, below it.

    Args:
        pictures: by title, ``(N, C, H, W)`` uint8; C 1 or 3, the rest the same in all.
    """
    count, _, _, width = next(iter(pictures.values())).shape
    zoom = max(1, math.ceil(LEAST_WIDTH / (count * width)))
    rows = {
        title.encode("latin-1", "replace").decode("latin-1"):  # all that every default font has
        sheet(images.expand(-1, 3, -1, -1), count, zoom=zoom)
        for title, images in pictures.items()
    }
    font = ImageFont.load_default()
    widths = [*(row.width for row in rows.values()), *(font.getlength(t) + LABEL for t in rows)]
    height = sum(row.height + LABEL for row in rows.values())
    canvas = Image.new("RGB", (math.ceil(max(widths)), height), "white")
    draw, top = ImageDraw.Draw(canvas), 0
    for title, row in rows.items():
        draw.text((LABEL // 4, top + LABEL // 4), title, fill="black", font=font)
        canvas.paste(row, (0, top + LABEL))
        top += row.height + LABEL
    return canvas


Networks = tuple[Sequence[FeatureExtractor], LPIPS | None]


class _Found(NamedTuple):
    """What one tokenizer made of one batch.

    Args:
        tokens: ``(B, L)`` codes or ``(B, L, C)`` latents.
        values: ``(B,)`` by title.
        features: Features by each extractor, of reconstructions and of the images.
        seconds: To encode and to decode an image.
        first: The first images, ``(N, C, H, W)`` uint8, and what they became.
    """

    tokens: Tensor
    values: dict[str, Tensor]
    features: list[tuple[Tensor, Tensor]]
    seconds: tuple[float, float]
    first: list[Tensor]


class _Trial:
    """One tokenizer at work: what it makes of the images, added up batch by batch."""

    def __init__(self, tokenizer: Tokenizer, networks: Networks, options: Comparison) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.device, (self.extractors, lpips) = resolve_device(options.device), networks
        self.measures = {"PSNR": psnr, "SSIM": ssim} | ({"LPIPS": lpips} if lpips else {})
        self.grid = tokenizer.grid(options.image_size)
        self.transform = Transform(size=options.image_size, channels=tokenizer.image_channels)
        self.images = 0
        self.sums: defaultdict[str, float] = defaultdict(float)
        self.features = [
            (RunningStatistics(e.width), RunningStatistics(e.width)) for e in self.extractors
        ]  # of reconstructions and of the images
        self.use: Tensor | RunningStatistics  # how often each code was met; moments of latents
        kind, count = tokenizer.space
        is_codes = kind == "codes"
        self.use = torch.zeros(count, dtype=torch.int64) if is_codes else RunningStatistics(count)
        self.seconds: list[tuple[float, float]] = []  # to encode and decode an image, by batch
        self.first: list[Tensor] = []  # (N, C, H, W) uint8: the images, and what they became

    def run(
        self,
        source: ImageSource,
        skipped: list[str],
        on_images: Callable[[int], None],
        *,
        together: bool,
    ) -> None:
        """Send images through until there are enough; unreadable ones go to ``skipped``.

        Raises:
            InputError: fewer than two can be read, or the tokenizer makes NaN of one.
        """
        options, size = self.options, self.options.batch_size
        wanted = min(options.count, len(source))
        starts = [*range(0, wanted, size), *range(wanted, len(source), size)]
        ends = [*starts[1:], len(source)]

        def measured(number: int) -> tuple[list[str], _Found | None]:
            """What cannot be read of a batch, and what was found of the rest."""
            unread: list[str] = []
            between = starts[number], ends[number]
            for pixels, _ in real_between(between, source, self.transform, size, unread):
                return unread, self._measured(pixels, starts[number])
            return unread, None

        for unread, found in dealt(len(starts), measured, together=together):
            skipped += unread
            if found is not None:
                on_images(self._add(found, wanted - self.images))
            if self.images == wanted:
                break
        if self.images < 2:
            raise InputError(f"{source.name} holds {self.images} readable images; give at least 2")

    def _measured(self, pixels: Tensor, start: int) -> _Found:
        """What becomes of ``(B, C, H, W)`` uint8 images, the first of them at a position."""
        images = to_float(pixels.to(self.device))
        noise = self._noise(range(start, start + len(images)))
        tokens, encoding = _timed(partial(self._encode, images, noise))
        made, decoding = _timed(partial(self.tokenizer.decode, tokens, self.grid))
        if not made.isfinite().all():
            raise InputError("a tokenizer makes NaN of images; are its weights whole?")
        rounded = to_uint8(made)
        return _Found(
            tokens.cpu(),
            {title: measure(made, images).cpu() for title, measure in self.measures.items()},
            [(e(rounded).pooled.cpu(), e(pixels).pooled.cpu()) for e in self.extractors],
            (encoding / len(images), decoding / len(images)),
            [pixels[:SHOWN], rounded[:SHOWN].cpu()],
        )

    def _add(self, found: _Found, most: int) -> int:
        """Add what was found, of so many images at most; how many there were."""
        tokens = found.tokens[:most]
        if isinstance(self.use, Tensor):
            self.use += tokens.flatten().bincount(minlength=len(self.use))
        else:
            self.use.update(tokens.flatten(0, 1))
        for title, values in found.values.items():
            self.sums[title] += values[:most].sum().item()
        for sums, sides in zip(self.features, found.features, strict=True):
            for statistics, features in zip(sums, sides, strict=True):
                statistics.update(features[:most])
        self.seconds.append(found.seconds)
        self.images += len(tokens)
        self.first = self.first or found.first
        return len(tokens)

    def _encode(self, images: Tensor, noise: Tensor | None) -> Tensor:
        return self.tokenizer.tokens(self.tokenizer.encode(images), noise)

    def _noise(self, seeds: range) -> Tensor | None:
        """Normal numbers that latents are drawn with; None for their mean."""
        if self.options.latents == "mean":
            return None
        draws = Draws(seeds, device=self.device)
        return draws.normal("posterior", 0, *noise_shape(self.tokenizer, self.grid))

    def scores(self) -> dict[str, float]:
        """By the titles of the report."""
        found = {title: total / self.images for title, total in self.sums.items()}
        for extractor, (after, before) in zip(self.extractors, self.features, strict=True):
            found[distance_title(extractor)] = Moments.of(after).distance(Moments.of(before))
        if isinstance(self.use, Tensor):
            found["codes used"] = (self.use > 0).double().mean().item()
            found["perplexity"] = perplexity(self.use.double()).item()
        else:
            variances = self.use.covariance().diagonal()  # (C,)
            overall = variances.mean() + self.use.mean.var(unbiased=False)
            found["latent std"] = overall.sqrt().item()
            found["least channel"] = variances.min().sqrt().item()
            found["most channel"] = variances.max().sqrt().item()
        encoding, decoding = (median(seconds) for seconds in zip(*self.seconds, strict=True))
        return found | {"encode/s": 1 / encoding, "decode/s": 1 / decoding}


def _timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Result of a call, and the seconds that it took."""
    start = time.perf_counter()
    made = work()
    if made.device.type != "cpu":  # elsewhere it is only queued
        torch.accelerator.synchronize(made.device)
    return made, time.perf_counter() - start


def distance_title(extractor: FeatureExtractor) -> str:
    """Name of the Fréchet distance of such features: rFID only of the published network."""
    if isinstance(extractor, Inception):
        return "rFID" if extractor.published else "FD (other Inception)"
    return "FD"


def compare_tokenizers(
    tokenizers: Mapping[str, Tokenizer],
    source: ImageSource,
    *,
    options: Comparison | None = None,
    extractors: Sequence[FeatureExtractor] | None = None,
    on_images: Callable[[int], None] = lambda count: None,
    together: bool = False,
) -> TokenizerReport:
    """Send the same images through every tokenizer and score what comes back, in constant memory.

    A tokenizer of one channel sees grey versions of the images and is scored on these.

    Args:
        tokenizers: by the name that the report gives them, on the device of the options.
        source: the images, read once for each tokenizer.
        options: how many images, and by what they are scored.
        extractors: feature networks; None takes those of the options.
        on_images: called with the number of images that a tokenizer has just been scored on.
        together: whether the processes of the launcher share the work; all call this then, and have
            the report.

    Raises:
        InputError: an image size that a tokenizer or a score cannot take (before any work), or
            fewer than two readable images.
    """
    options, skipped = options or Comparison(), list[str]()
    lpips = load_lpips(options.lpips).to(resolve_device(options.device)) if options.lpips else None
    networks = extractors or options.extractors(), lpips
    trials = {name: _Trial(t, networks, options) for name, t in tokenizers.items()}
    for trial in trials.values():
        trial.run(source, skipped, on_images, together=together)
    rows = tuple(_row(name, trial) for name, trial in trials.items())
    coloured = max(trials.values(), key=lambda trial: trial.tokenizer.image_channels)
    pictures = {"originals": coloured.first[0]}
    for row in rows:
        title = f"{row.name}: {row.tokens}, PSNR {row.cell('PSNR')}"
        pictures[title] = trials[row.name].first[1]
    return TokenizerReport(
        rows=rows,
        notes=(*_notes(source, sorted(set(skipped)), coloured), *map(_told, rows, trials.values())),
        pictures=pictures,
    )


def _row(name: str, trial: _Trial) -> TokenizerRow:
    kind, count = trial.tokenizer.space
    known = PUBLISHED.get(name)
    return TokenizerRow(
        name=name,
        identity=trial.tokenizer.identity,
        tokens="{}x{} of {} {}".format(*trial.grid, count, kind),
        scores=trial.scores(),
        published=known.results if known else (),
    )


def _told(row: TokenizerRow, trial: _Trial) -> str:
    """Remarks on one row."""
    low, high = trial.tokenizer.native_range
    seen = "grey" if trial.tokenizer.image_channels == 1 else "colour"
    theirs = dict.fromkeys(f"{result.setting} ({result.source})" for result in row.published)
    brackets = f"; in brackets: published, {', '.join(theirs)}" if theirs else ""
    return f"{row.name}: {row.identity}; {seen}, seen as [{low:g}, {high:g}]{brackets}"


def _notes(source: ImageSource, skipped: list[str], trial: _Trial) -> Iterator[str]:
    """Choices that all rows share."""
    options, size = trial.options, size_text(trial.options.image_size)
    yield f"{trial.images:,} images of {source.name} ({source.split_rule})"
    yield from source.notes
    yield f"{size} by ADM's centre crop; rows of grey and of colour images do not compare"
    if skipped:
        yield f"{len(skipped)} unreadable images left out: {', '.join(skipped[:5])}"
    yield (
        "PSNR, SSIM and LPIPS: means over images, of floats in [0, 1]; reconstructions are clamped "
        f"and not rounded to 8 bits; SSIM has uniform windows of {WINDOW}x{WINDOW}"
    )
    if isinstance(lpips := trial.measures.get("LPIPS"), LPIPS):
        yield lpips.identity
    for extractor in trial.extractors:
        title, least = distance_title(extractor), extractor.width + 1
        yield f"{title}: of reconstructions, in 8 bits, to their images; {extractor.identity}"
        if trial.images < least:
            few = f"{trial.images:,} images are fewer than the {least:,} that the features need"
            yield f"{title} is biased upward: {few}; compare equal counts only"
    drawn = "drawn, of image k by seed k" if options.latents == "sample" else "the mean"
    yield f"latents are {drawn}; latent std is that after scaling, which should make it about 1"
    yield (
        "encode/s and decode/s: images a second in float32, median over batches of "
        f"{options.batch_size}, {trial.device}, {torch.get_num_threads()} threads"
    )
