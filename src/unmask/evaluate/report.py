"""What an evaluation found, with everything needed to read it rightly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unmask.errors import InputError

FID_IMAGES = 50_000


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one set of images against the reference."""

    name: str
    """"generated", "reconstruction floor" or "real floor"."""
    images: int
    """How many images were scored."""
    fd: float
    """Fréchet distance of features, squared feature units; lower is better."""
    inception_score: float
    """In [1, classes of the extractor]; higher is better."""
    precision: float
    """Share of these images within the reference's manifold."""
    recall: float
    """Share of the reference within the manifold of these images."""
    class_accuracy: float | None = None
    """Share that the classifier names by their label; None without classifier or labels."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """Rows and the circumstances under which they hold."""

    rows: tuple[Row, ...]
    """Generated images first, then the floors."""
    extractor: str
    """Its short name."""
    identity: str
    """Its name, weights and resize: only scores of equal identity compare."""
    reference_images: int
    """Size of the set that every row is compared with."""
    image_shape: tuple[int, int, int]
    """Channels, height, width of the images before the extractor resizes them."""
    neighbours: int
    """k of precision and recall."""
    seeds: str | None = None
    """Seeds of the generated images."""
    classifier: str | None = None
    """Who judged the classes, and how well it does on real images."""
    statistics: str | None = None
    """File of reference statistics that fd compares with; None means the reference set's own."""
    inception: bool = False
    """Whether the features are those of the published 2015 Inception network."""
    notes: tuple[str, ...] = ()
    """What a reader must know before comparing."""

    @property
    def score_name(self) -> str:
        """The Fréchet distance by its full name.

        It is FID, comparable with published numbers, only when 50,000 images or more are judged by
        the published Inception weights against a stated reference.
        """
        images = self.rows[0].images
        comparable = self.inception and self.statistics is not None and images >= FID_IMAGES
        return f"{'FID' if comparable else 'fd'} ({self.extractor}, {images:,} images)"

    def table(self) -> str:
        """Plain text for a terminal or a file."""
        head = ("set", "images", "fd", "is", "precision", "recall", "class acc.")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        body = [
            "  ".join(
                cell.rjust(width) if column else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in lines
        ]
        body.insert(1, "  ".join("-" * width for width in widths))
        channels, height, width = self.image_shape
        facts = [
            f"fd is {self.score_name}: {self.identity}",
            f"images {height}x{width}, {channels} channels; "
            f"reference of {self.reference_images:,}; precision and recall with "
            f"k={self.neighbours}",
        ]
        facts += [f"fd against the statistics {self.statistics}"] if self.statistics else []
        facts += [f"seeds {self.seeds}"] if self.seeds else []
        facts += [f"class accuracy by {self.classifier}"] if self.classifier else []
        return "\n".join([*body, "", *facts, *(f"note: {note}" for note in self.notes)])

    def noted(self, *notes: str) -> Report:
        """The same report with more notes; empty ones are left out."""
        return replace(self, notes=(*self.notes, *filter(None, notes)))

    def to_json(self) -> str:
        """Every field and the score's full name as indented JSON."""
        return json.dumps({"score_name": self.score_name, **asdict(self)}, indent=2)

    def write(self, path: Path | str) -> None:
        """Write JSON to a path that ends in ``.json``, else the table.

        Raises:
            InputError: when the folder does not exist.
        """
        path = Path(path)
        if not path.parent.is_dir():
            raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it")
        path.write_text((self.to_json() if path.suffix == ".json" else self.table()) + "\n")


def _cells(row: Row) -> tuple[str, ...]:
    accuracy = "-" if row.class_accuracy is None else f"{row.class_accuracy:.4f}"
    scores = (f"{row.fd:.3f}", f"{row.inception_score:.3f}")
    shares = (f"{row.precision:.3f}", f"{row.recall:.3f}")
    return row.name, f"{row.images:,}", *scores, *shares, accuracy
