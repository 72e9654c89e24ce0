"""Accuracy of the nearest neighbours: what features are worth without any training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unmask.errors import InputError

CHUNK = 1024  # queries compared at a time


def knn_accuracy(
    known: Tensor,
    known_labels: Tensor,
    queries: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share of queries that their nearest neighbours name rightly (DINO, arXiv 2104.14294).

    Each of the ``k`` known images of largest cosine similarity s votes for its class with weight
    exp(s / temperature).

    Args:
        known: ``(N, D)`` features whose classes may be looked at.
        known_labels: ``(N,)`` int64.
        queries: ``(M, D)`` features of other images.
        labels: ``(M,)`` int64.
        k: neighbours; fewer where there are not as many known images.
        temperature: above 0.

    Raises:
        InputError: no neighbours, or nothing to compare.
    """
    if k < 1 or not len(known) or not len(queries):
        raise InputError(
            f"k={k} neighbours among {len(known)} images for {len(queries)} others: each must be "
            "at least 1"
        )
    known = F.normalize(known.float(), dim=1)
    classes = int(torch.cat([known_labels, labels]).max()) + 1
    right = 0
    for part, truth in zip(queries.split(CHUNK), labels.split(CHUNK), strict=True):
        near = (F.normalize(part.float(), dim=1) @ known.T).topk(min(k, len(known)))  # (m, k)
        votes = torch.zeros(len(part), classes, dtype=near.values.dtype)
        votes.scatter_add_(1, known_labels[near.indices], (near.values / temperature).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(queries)
