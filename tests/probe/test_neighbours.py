"""Nearest neighbours where the answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.extract import knn_accuracy


def on_circle(*degrees: float) -> torch.Tensor:
    angles = [math.radians(d) for d in degrees]
    return torch.tensor([[math.cos(a), math.sin(a)] for a in angles]) * 3


def test_length_does_not_count_and_the_nearest_decides() -> None:
    known, labels = on_circle(0, 90), torch.tensor([0, 1])
    queries = on_circle(30, 60, 80) * torch.tensor([[9.0], [0.1], [1.0]])
    assert knn_accuracy(known, labels, queries, torch.tensor([0, 1, 1]), k=1) == 1
    assert knn_accuracy(known, labels, queries, torch.tensor([1, 1, 1]), k=1) == pytest.approx(
        2 / 3
    )


def test_votes_are_weighted_by_similarity() -> None:
    known, labels = on_circle(0, 60, 61), torch.tensor([0, 1, 1])
    query, truth = on_circle(10), torch.tensor([0])
    assert knn_accuracy(known, labels, query, truth, k=3) == 1  # exp(0.98 / 0.07) beats two
    assert knn_accuracy(known, labels, query, truth, k=3, temperature=100) == 0


def test_it_equals_a_plain_loop() -> None:
    stream = keyed_generator("neighbours")
    known, queries = (torch.randn(n, 5, generator=stream) for n in (70, 30))
    labels, truth = (torch.randint(4, (n,), generator=stream) for n in (70, 30))
    right = 0
    for query, wanted in zip(queries, truth, strict=True):
        near = torch.cosine_similarity(known, query[None])
        votes = [0.0] * 4
        for index in near.argsort(descending=True)[:20].tolist():
            votes[int(labels[index])] += math.exp(float(near[index]) / 0.07)
        right += votes.index(max(votes)) == int(wanted)
    assert knn_accuracy(known, labels, queries, truth) == right / 30


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(InputError, match="k=0 neighbours among 1 images"):
        knn_accuracy(on_circle(0), torch.tensor([0]), on_circle(0), torch.tensor([0]), k=0)
