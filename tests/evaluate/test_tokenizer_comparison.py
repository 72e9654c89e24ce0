"""Comparing tokenizers whose scores are known beforehand."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from unmask.data.decoding import UnreadableImageError
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate import lpips as reconstruction
from unmask.evaluate.features import Features
from unmask.evaluate.inception import Inception
from unmask.evaluate.tokenizer_comparison import (
    Comparison,
    TokenizerReport,
    TokenizerRow,
    compare_tokenizers,
    distance_title,
    side_by_side,
)
from unmask.image_size import ImageSize
from unmask.networks.sizes import Space
from unmask.results import Result
from unmask.tokenizers.published import PUBLISHED
from unmask.tokenizers.tokenizer import Tokenizer

SIZE = 8
SMALL = Comparison(count=10, image_size=SIZE, batch_size=4)


class Means:
    """A feature network of one number an image and channel."""

    name, identity, width, classes = "means", "means of channels", 3, 1

    def __call__(self, images: Tensor) -> Features:
        pooled = images.float().mean((2, 3)).expand(-1, 3)
        return Features(pooled, torch.ones(len(images), 1))


class Noisy:
    """A source of noise in colour; rows in ``broken`` cannot be read."""

    name, split_rule = "noise (val)", "all of it"
    class_names: tuple[str, ...] = ()
    notes: Sequence[str] = ()

    def __init__(self, count: int = 12, broken: tuple[int, ...] = ()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def key(self, row: int) -> str:
        return f"item{row}"

    def label(self, row: int) -> int | None:
        return None

    def content(self, row: int) -> bytes:
        raise NotImplementedError

    def stamp(self, row: int) -> tuple[int, ...]:
        return (row,)

    def image(self, row: int) -> Image.Image:
        if row in self.broken:
            raise UnreadableImageError(self.key(row), "broken")
        noise = torch.rand(SIZE, SIZE, 3, generator=keyed_generator("noisy", row))
        return Image.fromarray((noise * 255).byte().numpy())


class Same(Tokenizer):
    """Latents are the pixels themselves, as they are."""

    stride, native_range, identity = 2, (0.0, 1.0), "same"
    space: Space = ("channels", 12)
    image_channels = 3
    deviation = 0.0

    def __init__(self, image_channels: int = 3) -> None:
        self.image_channels = image_channels
        self.space = ("channels", 4 * image_channels)

    def encode(self, images: Tensor) -> Tensor:
        return F.pixel_unshuffle(images, 2)

    def tokens(self, stored: Tensor, noise: Tensor | None = None) -> Tensor:
        drawn = stored if noise is None else stored + self.deviation * noise
        return drawn.flatten(2).transpose(1, 2)

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        assert grid is not None
        return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, grid), 2).clamp(0, 1)


class Unsure(Same):
    """The same with a spread around it."""

    deviation = 0.05


class Flat(Tokenizer):
    """Of four codes it uses one for the left half of every image and one for the right."""

    stride, image_channels, native_range, identity = 2, 3, (-1.0, 1.0), "flat"
    space: Space = ("codes", 4)
    level = 0.5

    def encode(self, images: Tensor) -> Tensor:
        ids = torch.ones(len(images), *self.grid(images.shape[-1]), dtype=torch.int64)
        ids[..., ids.shape[-1] // 2 :] = 3
        return ids.flatten(1)

    def decode(self, tokens: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        assert grid is not None
        return torch.full((len(tokens), 3, 2 * grid[0], 2 * grid[1]), self.level)


def compare(
    tokenizers: dict, comparison: Comparison = SMALL, source: Noisy | None = None
) -> TokenizerReport:
    return compare_tokenizers(
        tokenizers, source or Noisy(), extractors=[Means()], options=comparison
    )


def test_what_comes_back_unchanged_has_the_best_scores() -> None:
    report = compare({"same": Same()})
    (row,) = report.rows
    assert row.scores["PSNR"] == math.inf
    assert row.scores["SSIM"] == pytest.approx(1)
    assert row.scores["FD"] == pytest.approx(0, abs=1e-6)
    assert row.tokens == "4x4 of 12 channels"
    assert json.loads(report.to_json())["rows"][0]["scores"]["PSNR"] == "inf"
    originals, made = report.pictures.values()
    assert originals.shape == (4, 3, SIZE, SIZE)
    assert torch.equal(originals, made)


def test_codes_in_use() -> None:
    (row,) = compare({"flat": Flat()}).rows
    assert row.scores["codes used"] == 0.5
    assert row.scores["perplexity"] == pytest.approx(2)
    assert "latent std" not in row.scores
    assert 0 < row.scores["PSNR"] < 20
    assert row.scores["FD"] > 1
    assert row.scores["encode/s"] > 0
    assert row.scores["decode/s"] > 0


def test_the_spread_of_latents_is_that_of_the_numbers() -> None:
    (row,) = compare({"same": Same()}).rows
    assert row.scores["latent std"] == pytest.approx(12**-0.5, rel=0.05)  # of uniform noise
    assert row.scores["least channel"] < row.scores["latent std"] < row.scores["most channel"]


def test_noise_belongs_to_the_image_and_not_to_the_batch() -> None:
    """Equal scores at any batch size, although every image has noise of its own."""

    def scores(**options: Any) -> dict[str, float]:
        (row,) = compare(
            {"unsure": Unsure()}, Comparison(count=10, image_size=SIZE, **options)
        ).rows
        return {title: v for title, v in row.scores.items() if not title.endswith("/s")}

    drawn = scores(batch_size=4)
    assert drawn == pytest.approx(scores(batch_size=3))
    # clamping to [0, 1] takes a little of the noise away
    assert drawn["PSNR"] == pytest.approx(-20 * math.log10(0.05), abs=0.5)
    assert scores(latents="mean")["PSNR"] == math.inf


def test_a_table_of_several() -> None:
    report = compare({"same": Same(), "flat": Flat()})
    titles, lines = report.table().titles, report.table().rows
    assert titles[:4] == ["tokenizer", "tokens", "PSNR", "SSIM"]
    assert "LPIPS" not in titles
    assert [line[0] for line in lines] == ["same", "flat"]
    assert lines[0][titles.index("perplexity")] == "-"
    assert lines[1][titles.index("latent std")] == "-"
    text = report.table().markdown()
    assert text.startswith("| tokenizer | tokens | PSNR |")
    assert text.count("\n| ") == 3
    for told in (
        "10 images of noise (val) (all of it)",
        "8x8 by ADM's centre crop",
        "not rounded to 8 bits",
        "means of channels",
        "of image k by seed k",
        "flat: flat; colour, seen as [-1, 1]",
    ):
        assert told in text


def test_too_few_images_are_told() -> None:
    biased = "FD is biased upward: 3 images are fewer than the 4"
    assert biased in compare({"s": Same()}, Comparison(count=3, image_size=SIZE)).table().markdown()
    assert (
        "biased"
        not in compare({"s": Same()}, Comparison(count=4, image_size=SIZE)).table().markdown()
    )


def test_published_scores_stand_in_brackets() -> None:
    results = PUBLISHED["amused-256"].results
    row = TokenizerRow(
        name="a", identity="", tokens="", scores={"PSNR": 21.7, "SSIM": 1e4}, published=results
    )
    assert row.cell("PSNR") == "21.7 (21.81)"
    assert row.cell("rFID") == "- (4.41)"
    assert row.cell("SSIM") == "10,000 (0.58)"
    assert row.cell("FD") == "-"
    report = TokenizerReport(rows=(row,), notes=(), pictures={})
    assert report.table().titles == ["tokenizer", "tokens", "PSNR", "SSIM", "LPIPS", "rFID"]
    assert all(isinstance(result, Result) for result in results)


def test_a_published_name_brings_its_scores() -> None:
    report = compare({"amused-256": Flat()})
    assert "(21.81)" in report.table().markdown()
    assert "in brackets: published, ImageNet validation, 256x256" in report.table().markdown()


def test_rfid_is_only_what_the_published_network_says() -> None:
    inception = object.__new__(Inception)
    inception.digest = "6726825d" + 56 * "0"
    assert distance_title(inception) == "rFID"
    inception.digest = 64 * "0"
    assert distance_title(inception) == "FD (other Inception)"
    assert distance_title(Means()) == "FD"


def test_damaged_images_are_left_out_and_named() -> None:
    report = compare({"same": Same(), "flat": Flat()}, source=Noisy(8, broken=(2, 5)))
    assert "6 images of noise (val)" in report.notes[0]
    assert "2 unreadable images left out: item2, item5" in report.notes
    for broken in (range(8), range(7)):
        with pytest.raises(InputError, match=r"holds [01] readable images; give at least 2"):
            compare({"same": Same()}, source=Noisy(8, broken=tuple(broken)))


def test_grey_and_colour_in_one_table() -> None:
    report = compare({"grey": Same(1), "colour": Same(3)})
    assert [row.scores["PSNR"] for row in report.rows] == [math.inf] * 2
    originals, grey, colour = report.pictures.values()
    assert torch.equal(originals, colour)
    assert grey.shape[1] == 1
    assert "grey: same; grey, seen as [0, 1]" in report.notes
    assert "rows of grey and of colour images do not compare" in report.table().markdown()
    assert side_by_side(report.pictures).mode == "RGB"


def test_mistakes_come_before_any_work() -> None:
    class Untouched(Same):
        def encode(self, images: Tensor) -> Tensor:
            raise AssertionError("the size was to be checked first")

    class Coarse(Flat):
        def grid(self, image_size: ImageSize) -> tuple[int, int]:
            raise InputError("image size 8 does not divide by this tokenizer's stride 16")

    with pytest.raises(InputError, match="stride 16"):
        compare({"fine": Untouched(), "coarse": Coarse()})
    for wrong in ({"count": 1}, {"image_size": 6}, {"batch_size": 0}):
        with pytest.raises(InputError, match="must be at least"):
            Comparison(**wrong)  # type: ignore[arg-type]


def test_a_tokenizer_that_makes_nan() -> None:
    class Broken(Flat):
        level = math.nan

    with pytest.raises(InputError, match="makes NaN"):
        compare({"broken": Broken()})


def test_the_picture_has_a_row_a_title() -> None:
    first = torch.zeros(3, 3, 30, 40, dtype=torch.uint8)
    one = side_by_side({"originals": first})
    two = side_by_side({"originals": first, "a name in 漢字": first[:, :1]})
    assert two.height == 2 * one.height
    assert one.width == two.width >= 640
    long = side_by_side({"x" * 400: first})
    assert long.width > one.width


def test_without_float64_scores_are_made_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.rand(2, 3, 8, 8, generator=keyed_generator("exact"))
    wanted = reconstruction.psnr(images, images.flip(0))
    real, calls = Tensor.double, []

    def refused(values: Tensor) -> Tensor:
        calls.append(values)
        if len(calls) % 2:
            raise TypeError("no float64 here")
        return real(values)

    monkeypatch.setattr(Tensor, "double", refused)
    assert torch.equal(reconstruction.psnr(images, images.flip(0)), wanted)
    assert len(calls) == 2


def test_the_page_has_every_published_tokenizer_and_its_scores() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tokenizers.md").read_text(encoding="utf8")
    for name, entry in {**PUBLISHED, **PUBLISHED}.items():
        assert f"`{name}`" in page
        network: Any = entry.network
        lines = [line for line in page.splitlines() if f"`{name}`" in line]
        assert f"| {network.stride} |" in lines[0]
        width = getattr(network, "codes", None) or network.channels
        assert f"| {width:,} " in lines[0]
        scores = [f"{r.value:.2f}" for r in entry.results if r.setting.endswith("256x256")]
        if len(scores) == 4:
            assert lines[1] == f"| `{name}` | {' | '.join(scores)} |"
