"""Scores of sets that can be computed by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.classifier import ClassifierTraining, train_classifier
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.features import Features
from unmask.evaluate.generated import Generated
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.report import Report, Row


class Corners:
    """Features that can be computed by hand: four pixels; classes by the first one."""

    name = "corners"
    identity = "corners, no weights"
    width = 4
    classes = 2

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, images: Tensor) -> Features:
        self.calls += 1
        pooled = images[:, 0, ::3, ::3].flatten(1).float()  # (B, 4)
        bright = (pooled[:, 0] > 127).long()
        return Features(pooled, torch.eye(2)[bright])


def images(count: int, key: str = "a", size: int = 4) -> Tensor:
    shape = (count, 1, size, size)
    return torch.randint(0, 256, shape, generator=keyed_generator(0, key), dtype=torch.uint8)


def rows(report: Report) -> dict[str, Row]:
    return {row.name: row for row in report.rows}


def test_a_set_against_itself() -> None:
    x = images(50)
    found = rows(evaluate([x], [x], extractor=Corners()))["generated"]
    assert found.fd == pytest.approx(0, abs=1e-6)
    assert (found.precision, found.recall) == (1, 1)
    assert found.images == 50
    assert found.class_accuracy is None


def test_a_constant_shift_moves_the_mean_alone() -> None:
    x = images(60) // 2
    report = evaluate([x + 10], [x], extractor=Corners())
    assert report.rows[0].fd == pytest.approx(4 * 10**2, rel=1e-6)


def test_batches_and_streams_do_not_matter() -> None:
    x, y = images(50), images(40, "b")
    whole = evaluate([x], [y], extractor=Corners())
    parts = evaluate(iter(x.split(7)), (part for part in y.split(9)), extractor=Corners())
    for one, other in zip(whole.rows, parts.rows, strict=True):
        assert one.fd == pytest.approx(other.fd, rel=1e-9)
        assert one.inception_score == pytest.approx(other.inception_score)
        assert (one.precision, one.recall) == (other.precision, other.recall)


def test_floors_stop_at_the_number_of_generated_images() -> None:
    report = evaluate(
        [images(20)],
        [images(90, "b")],
        extractor=Corners(),
        floors={
            "reconstruction floor": images(50, "c").split(8),
            "real floor": [images(12, "d")],
        },
    )
    assert {name: row.images for name, row in rows(report).items()} == {
        "generated": 20,
        "reconstruction floor": 20,
        "real floor": 12,
    }
    assert any("real floor has 12 images, fewer than the 20" in note for note in report.notes)


def test_few_images_are_warned_about() -> None:
    few = evaluate([images(4)], [images(50, "b")], extractor=Corners())
    assert "biased upward" in few.notes[0]
    assert "generated 4" in few.notes[0]
    enough = evaluate([images(5)], [images(50, "b")], extractor=Corners())
    assert enough.notes == ()


def test_precision_and_recall_keep_images_by_chance_and_not_the_first() -> None:
    dark = images(300) // 4
    half = torch.cat([dark[:150], dark[150:] + 190])
    options = EvaluationOptions(manifold_images=60)
    report = evaluate(half.split(7), [dark], extractor=Corners(), options=options)
    assert 0.35 < (report.rows[0].precision or 0) < 0.65, "the first 60 are dark, all of them"
    assert "of up to 60 images and 10,000 of the reference" in str(report.table())
    options = EvaluationOptions(manifold_reference=60)
    report = evaluate([dark], half.split(7), extractor=Corners(), options=options)
    assert 0.35 < (report.rows[0].recall or 0) < 0.65


def test_class_accuracy_of_labelled_rows() -> None:
    labels = torch.arange(40) % 2
    x = images(40) // 4 + 190 * labels[:, None, None, None].to(torch.uint8)
    judge = train_classifier(
        x, labels, classes=2, options=ClassifierTraining(epochs=30, batch_size=8, shift=0)
    )
    wrong = labels.clone()
    wrong[:10] = 1 - wrong[:10]
    report = evaluate(
        [ImageBatch(x[:16], wrong[:16]), ImageBatch(x[16:], wrong[16:])],
        [x],
        extractor=Corners(),
        floors={"reconstruction floor": [x], "real floor": [ImageBatch(x, labels)]},
        classifier=judge,
    )
    found = {name: row.class_accuracy for name, row in rows(report).items()}
    assert found == {"generated": 0.75, "reconstruction floor": None, "real floor": 1}
    assert report.classifier == judge.describe()


def test_shapes_are_checked_before_any_feature() -> None:
    extractor = Corners()
    with pytest.raises(InputError, match=r"'real floor' has images of shape \(1, 5, 5\)"):
        evaluate(
            [images(9)],
            [images(9)],
            extractor=extractor,
            floors={"real floor": [images(9, size=5)]},
        )
    with pytest.raises(InputError, match=r"'reference' has images of shape \(1, 4, 4\)"):
        evaluate([images(9).expand(-1, 3, -1, -1)], [images(9)], extractor=extractor)
    with pytest.raises(InputError, match="'generated' holds no images"):
        evaluate([], [images(9)], extractor=extractor)
    assert extractor.calls == 0


def test_sets_that_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="holds 3 images, the scores need at least 4"):
        evaluate([images(3)], [images(9)], extractor=Corners())
    with pytest.raises(InputError, match=r"wanted is .* throughout"):
        evaluate([images(5), images(5, size=5)], [images(9)], extractor=Corners())
    with pytest.raises(InputError, match="uint8"):
        evaluate([images(5).float()], [images(9)], extractor=Corners())


def test_features_with_nan_are_refused() -> None:
    class Broken(Corners):
        def __call__(self, images: Tensor) -> Features:
            pooled, probs, _ = super().__call__(images)
            return Features(pooled * float("nan"), probs)

    with pytest.raises(InputError, match="NaN"):
        evaluate([images(9)], [images(9)], extractor=Broken())


def test_neighbours_must_fit() -> None:
    with pytest.raises(InputError, match="neighbours=0"):
        EvaluationOptions(neighbours=0)


def test_reports_say_what_they_compare(tmp_path: Path) -> None:
    made = Generated.of_batches([images(30)])
    made = replace(made, seeds="0 to 29", notes=("a demo",))
    report = evaluate(made, [images(40, "b")], extractor=Corners())
    table = str(report.table())
    assert "fd (corners, 30 images): corners, no weights" in table
    assert "not FID: the network is not the published Inception; no reference" in table
    assert "reference of 40" in table
    assert "seeds 0 to 29" in table
    assert table.endswith("note: a demo")
    lines = table.splitlines()
    assert len({len(line) for line in lines[:3]}) == 1
    report.write(tmp_path / "report.json")
    facts = json.loads((tmp_path / "report.json").read_text())
    assert facts["rows"][0]["fd"] == report.rows[0].fd
    assert facts["score_name"] == "fd (corners, 30 images)"
    report.write(tmp_path / "report.txt")
    assert (tmp_path / "report.txt").read_text() == table + "\n"
    report.write(tmp_path / "new" / "report.json")
    assert (tmp_path / "new" / "report.json").exists()
    with pytest.raises(InputError, match="cannot write"):
        report.write(tmp_path / "report.txt" / "report.json")
