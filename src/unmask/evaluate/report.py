"""What an evaluation found, with everything needed to read it rightly."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from unmask.files.durable import output
from unmask.show import Table

FID_IMAGES = 50_000
SCORES = ("fd", "sfd", "inception_score", "precision", "recall", "class_accuracy")
TITLES = ("fd", "sfd", "is", "precision", "recall", "class acc.")
DIGITS = (3, 3, 3, 3, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Row:
    """Scores of one set of images against the reference; None where one cannot be had.

    Args:
        name: "generated", "reconstruction floor" or "real floor".
        images: Number of images scored.
        fd: Fréchet distance of features, squared feature units; lower is better.
        sfd: Fréchet distance of spatial features; None where the network gives none.
        inception_score: In [1, classes of the extractor], the mean over splits; higher is better.
        inception_deviation: Standard deviation of the inception score over the splits of one set.
        precision: Share of these images within the reference's manifold.
        recall: Share of the reference within the manifold of these images.
        class_accuracy: Share that the classifier names by their label; None without classifier or
            labels.
        spread: Standard deviation of each score over repeats with other seeds; the scores are means
            then.
    """

    name: str
    images: int
    fd: float
    sfd: float | None = None
    inception_score: float | None = None
    inception_deviation: float | None = None
    precision: float | None = None
    recall: float | None = None
    class_accuracy: float | None = None
    spread: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an evaluation found: rows of scores, and the circumstances under which they hold.

    Args:
        rows: Generated images first, then the floors.
        extractor: Short name of the feature network.
        identity: Name, weights and resize of the feature network: only scores of equal identity
            compare.
        reference_images: Size of the set that every row is compared with.
        image_shape: Channels, height, width of the images before the extractor resizes them.
        manifold_images: At most how many images of a row and of the reference precision and recall
            use.
        repeats: The rows that the first one is the mean of, if it is.
        classifier: Network that judged the classes, and its accuracy on real images; None without
            one.
        statistics: File that fd compares with; None means real images beside, which are no
            published set.
        inception: Whether the features are those of the published 2015 Inception network.
        neighbours: Neighbour whose distance is a ball's radius in precision and recall.
        inception_split: Images whose inception score is taken together.
        seeds: Seeds of the generated images, if known.
        quantisation: How generated pixels became bytes, if known.
        notes: Remarks that a reader must know before comparing.
    """

    rows: tuple[Row, ...]
    extractor: str
    identity: str
    reference_images: int
    image_shape: tuple[int, int, int]
    manifold_images: tuple[int, int] = (50_000, 10_000)
    repeats: tuple[Row, ...] = ()
    classifier: str | None = None
    statistics: str | None = None
    inception: bool = False
    neighbours: int = 3
    inception_split: int = 5000
    seeds: str | None = None
    quantisation: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def not_fid(self) -> str:
        """Why the distances are not FID and sFID, comparable with published ones; "" if they are.

        They are only when exactly 50,000 images, whose number biases them, are judged by the
        published Inception weights against a stated reference.
        """
        reasons = {
            "the network is not the published Inception": not self.inception,
            "no reference file is stated": self.statistics is None,
            f"{self.rows[0].images:,} images, not {FID_IMAGES:,}": self.rows[0].images
            != FID_IMAGES,
        }
        return "; ".join(reason for reason, holds in reasons.items() if holds)

    @property
    def score_name(self) -> str:
        """The Fréchet distance by its full name, FID only where nothing forbids it."""
        name = "fd" if self.not_fid else "FID"
        return f"{name} ({self.extractor}, {self.rows[0].images:,} images)"

    def table(self) -> Table:
        """The scores, and every choice that moves a number."""
        named = [replace(row, name=f"repeat {k}") for k, row in enumerate(self.repeats, 1)]
        return Table(
            titles=("set", "images", *TITLES),
            rows=[*map(_cells, (*self.rows, *named))],
            notes=[*self._facts(), *(f"note: {note}" for note in self.notes)],
        )

    def _facts(self) -> list[str]:
        """Every choice that moves a number, a line each."""
        channels, height, width = self.image_shape
        row, reference = self.manifold_images
        splits = ""
        if self.rows[0].inception_deviation is not None:
            splits = (
                f"is by the same network, mean over random splits of {self.inception_split:,} "
                "images; "
                f"deviation over them {self.rows[0].inception_deviation:.3f}"
            )
        repeats = f"generated: mean ± standard deviation of {len(self.repeats)} runs of other seeds"
        facts = [
            f"fd is {self.score_name}: {self.identity}",
            f"not FID: {self.not_fid}" if self.not_fid else "",
            f"images {height}x{width}, {channels} channels; "
            f"reference of {self.reference_images:,}; precision and recall with "
            f"k={self.neighbours} of up to {row:,} images and {reference:,} of the reference",
            splits,
            repeats if self.repeats else "",
            f"fd against the statistics {self.statistics}" if self.statistics else "",
            f"pixels to bytes: {self.quantisation}" if self.quantisation else "",
            f"seeds {self.seeds}" if self.seeds else "",
            f"class accuracy by {self.classifier}" if self.classifier else "",
        ]
        return [fact for fact in facts if fact]

    def to_json(self) -> str:
        """Every field and the score's full name as indented JSON."""
        return json.dumps({"score_name": self.score_name, **asdict(self)}, indent=2)

    def write(self, path: Path | str) -> None:
        """Write JSON to a path that ends in ``.json``, else the table.

        Raises:
            InputError: if the disk is full or refuses.
        """
        path = Path(path)
        text = (self.to_json() if path.suffix == ".json" else str(self.table())) + "\n"
        with output(path) as aside:
            aside.write_text(text, encoding="utf8")


def _cells(row: Row) -> tuple[str, ...]:
    cells = [row.name, f"{row.images:,}"]
    for score, digits in zip(SCORES, DIGITS, strict=True):
        value, spread = getattr(row, score), (row.spread or {}).get(score)
        cell = "-" if value is None else f"{value:.{digits}f}"
        cells.append(cell if spread is None else f"{cell} ± {spread:.{digits}f}")
    return tuple(cells)
