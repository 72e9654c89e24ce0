"""Inception score, precision and recall, class accuracy, by their definitions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.scores import (
    InceptionScore,
    Manifold,
    PrecisionRecall,
    class_accuracy,
    inception_score,
    manifold_overlap,
)


def precision_recall(real: Tensor, fake: Tensor, **options: Any) -> PrecisionRecall:
    return manifold_overlap(Manifold(real, **options), Manifold(fake, **options))


def normal(key: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=keyed_generator(0, key))


def test_inception_score_of_uniform_predictions_is_one() -> None:
    assert inception_score(torch.full((20, 5), 0.2)) == pytest.approx(1, rel=1e-6)


def test_inception_score_of_sure_and_spread_predictions_is_the_number_of_classes() -> None:
    assert inception_score(torch.eye(7).repeat(3, 1)) == pytest.approx(7, rel=1e-9)


def test_inception_score_of_one_class_only_is_one() -> None:
    assert inception_score(torch.eye(7)[torch.zeros(9, dtype=torch.long)]) == pytest.approx(1)


def test_inception_score_follows_its_definition() -> None:
    p = normal("is", 30, 6).double().softmax(1)
    divergence = (p * (p.log() - p.mean(0).log())).sum(1).mean()
    assert inception_score(p) == pytest.approx(math.exp(divergence), rel=1e-9)


@pytest.mark.parametrize("batch", [3, 8, 31])
def test_inception_score_by_splits_of_a_fixed_number_whatever_the_batches(batch: int) -> None:
    p = normal("is", 31, 6).softmax(1)
    score = InceptionScore(split=8)
    for part in p.split(batch):
        score.update(part)
    order = torch.randperm(31, generator=keyed_generator("inception score", 31))
    parts = [inception_score(p[rows]) for rows in order.split(8)]  # the last one has 7
    assert score.values() == pytest.approx(parts, rel=1e-12)
    assert score.value() == pytest.approx(sum(parts) / 4)


def posteriors(classes: int, each: int, sure: float) -> Tensor:
    """Predictions in class order; the share ``sure`` of each lies on its class."""
    noise = normal("posterior", classes * each, classes).softmax(1)
    return sure * torch.eye(classes).repeat_interleave(each, 0) + (1 - sure) * noise


@pytest.mark.parametrize("sure", [0.7, 0.99])
def test_inception_score_does_not_depend_on_the_order_of_the_images(sure: float) -> None:
    p, split = posteriors(100, 40, sure), 400
    order = torch.randperm(len(p), generator=keyed_generator(1, "order"))
    found = []
    for given in (p, p[order], p.view(100, 40, -1).transpose(0, 1).flatten(0, 1)):
        score = InceptionScore(split)
        for part in given.split(90):
            score.update(part)
        assert len(score.values()) == 10
        found.append(score.value())
    assert found[1:] == pytest.approx([found[0]] * 2, rel=0.02)
    consecutive = sum(map(inception_score, p.split(split))) / 10
    assert consecutive < 0.5 * found[0], "consecutive splits hold ten classes each"


def test_a_single_split_keeps_its_order_and_number() -> None:
    p = normal("is", 31, 6).softmax(1)
    for split in (None, 31, 40):
        score = InceptionScore(split)
        score.update(p)
        assert score.values() == [inception_score(p)]


def test_scores_of_any_order_refuse_logits_and_no_images() -> None:
    with pytest.raises(InputError, match="softmax"):
        InceptionScore().update(normal("logits", 4, 3))
    with pytest.raises(InputError, match="0 images"):
        InceptionScore().value()


def covered_by_hand(points: Tensor, others: Tensor, k: int) -> list[bool]:
    """Definition, one pair at a time in float64."""
    points, others = points.double(), others.double()
    radii = [sorted((p - q).norm().item() for q in points)[k] for p in points]
    return [any((x - p).norm() <= r for p, r in zip(points, radii, strict=True)) for x in others]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("block", [4, 1024])
def test_precision_and_recall_follow_their_definition(k: int, block: int) -> None:
    real, fake = normal("real", 30, 3), normal("fake", 23, 3) * 1.3 + 0.4
    found = precision_recall(real, fake, k=k, block=block)
    inside = covered_by_hand(real, fake, k)
    reached = covered_by_hand(fake, real, k)
    assert 0 < sum(inside) < 23
    assert 0 < sum(reached) < 30
    assert found.precision == pytest.approx(sum(inside) / 23)
    assert found.recall == pytest.approx(sum(reached) / 30)


def test_constructed_sets() -> None:
    real = normal("real", 40, 4)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)
    # A sampler that knows one of two far clusters: all of it is real, half of reality is reached.
    two = torch.cat([real, real + 100])
    assert precision_recall(two, real) == (1, 0.5)
    assert precision_recall(real, two) == (0.5, 1)


def test_distances_survive_a_large_offset() -> None:
    real, fake = normal("real", 30, 3).double(), normal("fake", 30, 3).double()
    assert precision_recall(real + 1e6, fake + 1e6) == precision_recall(real, fake)


def test_manifolds_need_neighbours_and_numbers() -> None:
    with pytest.raises(InputError, match="k=3"):
        Manifold(normal("real", 3, 2))
    with pytest.raises(InputError, match="NaN"):
        Manifold(normal("real", 9, 2) * float("nan"))


def test_class_accuracy_counts() -> None:
    logits = torch.eye(4)
    assert class_accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize("labels", [[0, 1, 2, 4], [-1, 1, 2, 3], [0, 1]])
def test_class_accuracy_refuses_labels_that_do_not_fit(labels: list[int]) -> None:
    with pytest.raises(InputError, match="labels"):
        class_accuracy(torch.eye(4), torch.tensor(labels))
