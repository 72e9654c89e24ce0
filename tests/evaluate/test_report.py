"""When a distance may be called FID, and evaluation against a file of statistics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.features import Features
from unmask.evaluate.generated import Generated
from unmask.evaluate.inception import FILE
from unmask.evaluate.numbered_set import NumberedSet
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages
from unmask.evaluate.reference import Moments, Reference, ReferenceStatistics
from unmask.evaluate.report import Report, Row


class Means:
    """Two features that can be computed by hand."""

    name = "means"
    identity = "means, no weights"
    width = 2
    classes = 2

    def __call__(self, images: Tensor) -> Features:
        return Features(images.float().mean((1, 3)), torch.full((len(images), 2), 0.5))


def images(count: int) -> Tensor:
    generator = keyed_generator(0, "images")
    return torch.randint(0, 256, (count, 1, 2, 6), generator=generator, dtype=torch.uint8)


def statistics(x: Tensor, shift: float = 0.0) -> ReferenceStatistics:
    rows = x.double().mean((1, 3))
    moments = Moments(mean=rows.mean(0) + shift, covariance=rows.T.cov())
    return ReferenceStatistics(source="stats.npz", pooled=moments)


def report(count: int = 50_000, **options: Any) -> Report:
    row = Row(name="generated", images=count, fd=1, inception_score=1, precision=1, recall=1)
    return Report(
        rows=(row,),
        extractor="net",
        identity="net, weights 0",
        reference_images=9,
        image_shape=(3, 8, 8),
        neighbours=3,
        **options,
    )


def test_fid_needs_the_network_a_reference_and_50000_images() -> None:
    full: dict[str, Any] = {"inception": True, "statistics": "stats.npz"}
    assert report(**full).score_name == "FID (net, 50,000 images)"
    for other in (49_999, 50_001):
        assert report(other, **full).score_name == f"fd (net, {other:,} images)"
        assert f"not FID: {other:,} images, not 50,000\n" in str(report(other, **full).table())
    assert report(inception=True).score_name.startswith("fd ")
    assert report(statistics="stats.npz").score_name.startswith("fd ")
    assert "statistics stats.npz" in str(report(**full).table())
    assert json.loads(report(**full).to_json())["statistics"] == "stats.npz"


def test_rows_compare_with_the_statistics_instead_of_the_reference_set() -> None:
    x = images(50)
    reference = Reference(statistics(x, shift=3), [255 - x])
    found = evaluate([x], reference, extractor=Means(), floors={"real floor": [x]})
    assert [row.fd for row in found.rows] == pytest.approx([2 * 3**2] * 2)
    assert found.statistics == "stats.npz"
    assert not found.inception
    without = evaluate([x], [x], extractor=Means())
    assert (without.statistics, without.rows[0].fd) == (None, pytest.approx(0, abs=1e-6))


def test_a_small_reference_set_does_not_bias_a_distance_to_statistics() -> None:
    class Five(Means):
        width = 5

        def __call__(self, images: Tensor) -> Features:
            pooled, probs, _ = super().__call__(images)
            return Features(pooled[:, [0, 1, 0, 1, 0]], probs)

    def is_warned(statistics: ReferenceStatistics | None) -> bool:
        found = evaluate([images(60)], Reference(statistics, [images(4)]), extractor=Five())
        return any("covariances are singular" in note for note in found.notes)

    mean, covariance = torch.zeros(5).double(), torch.eye(5).double()
    known = Moments(mean=mean, covariance=covariance)
    assert is_warned(None)
    assert not is_warned(ReferenceStatistics(source="s", pooled=known))


def test_statistics_of_another_width_are_refused_before_any_image_is_read() -> None:
    class Narrow(Means):
        width = 3

    def untouched() -> Iterator[Tensor]:
        raise AssertionError("an image was read")
        yield

    reference = Reference(statistics(images(9)), untouched())
    with pytest.raises(InputError, match=r"stats\.npz holds statistics of width 2, means gives 3"):
        evaluate(untouched(), reference, extractor=Narrow())


def test_absent_weights_are_named_before_any_image_is_generated(tmp_path: Path) -> None:
    def untouched(start: int, stop: int) -> Iterator[Tensor]:
        raise AssertionError("an image was generated")

    data, transform = "fashion-mnist", Transform(size=28, crop="none", channels=1)
    real = RealImages(open_source(data), open_source(data, split="val"), transform)
    images = NumberedSet(name="generated", between=untouched, positions=2000)
    made = Generated(sets=[images], shape=(1, 28, 28), identity="none")
    with pytest.raises(InputError, match=rf"absent\.pth: download {FILE}"):
        evaluate(made, real, options=EvaluationOptions(inception=tmp_path / "absent.pth"))
