"""Inception score, precision and recall, class accuracy, by their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.scores import (
    InceptionScore,
    class_accuracy,
    inception_score,
)


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


def test_class_accuracy_counts() -> None:
    logits = torch.eye(4)
    assert class_accuracy(logits, torch.tensor([0, 1, 2, 0])) == 0.75


@pytest.mark.parametrize("labels", [[0, 1, 2, 4], [-1, 1, 2, 3], [0, 1]])
def test_class_accuracy_refuses_labels_that_do_not_fit(labels: list[int]) -> None:
    with pytest.raises(InputError, match="labels"):
        class_accuracy(torch.eye(4), torch.tensor(labels))
