"""What a comparison of tokenizers found: a table, its circumstances, and a picture of all."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from unmask.durable import outputs
from unmask.pictures import sheet
from unmask.recipes.recipe import Result

COLUMNS = (
    *("PSNR", "SSIM", "LPIPS", "FD", "rFID", "FD (other Inception)"),
    *("codes used", "perplexity", "latent std", "least channel", "most channel"),
    *("encode/s", "decode/s"),
)
FILES = ("table.md", "scores.json", "pictures.png")
LEAST_WIDTH = 640  # pixels of the picture; smaller images are magnified
LABEL = 16  # pixels of a row's title


@dataclass(frozen=True, kw_only=True)
class TokenizerRow:
    """Scores of one tokenizer."""

    name: str
    """As it was given."""
    identity: str
    """Hash of its sizes and weights."""
    tokens: str
    """How many an image has, and of what."""
    scores: dict[str, float]
    """By title, see :data:`COLUMNS`; what does not apply is left out."""
    published: tuple[Result, ...] = ()
    """What others report of these weights."""

    def cell(self, title: str) -> str:
        """What stands under a title: the score, and in brackets the published one."""
        score = self.scores.get(title)
        own = "-" if score is None else f"{score:{',.0f' if score >= 1000 else '.4g'}}"
        return " ".join([own, *(f"({r.value:g})" for r in self.published if r.metric == title)])


@dataclass(frozen=True, kw_only=True)
class TokenizerReport:
    """Rows, and the circumstances under which they hold."""

    rows: tuple[TokenizerRow, ...]
    """In the order asked for."""
    notes: tuple[str, ...]
    """Every choice that moves a number."""
    pictures: Mapping[str, Tensor]
    """By title, ``(N, C, H, W)`` uint8 of the same images: originals, then each tokenizer's."""

    def table(self) -> list[list[str]]:
        """Titles, then a line a tokenizer; columns that nobody fills are left out."""
        titles = [t for t in COLUMNS if any(row.cell(t) != "-" for row in self.rows)]
        lines = [[row.name, row.tokens, *map(row.cell, titles)] for row in self.rows]
        return [["tokenizer", "tokens", *titles], *lines]

    def markdown(self) -> str:
        """The table, and the notes as a list."""
        head, *lines = self.table()
        rule = ["---", "---", *["---:"] * (len(head) - 2)]
        table = [f"| {' | '.join(line)} |" for line in (head, rule, *lines)]
        return "\n".join([*table, "", *(f"* {note}" for note in self.notes)]) + "\n"

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
            table.write_text(self.markdown(), encoding="utf8")
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
