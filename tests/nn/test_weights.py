"""How weights begin: which rule fills what, and in which order."""

from __future__ import annotations

import torch
from torch import nn

from unmask.draws import keyed_generator
from unmask.nn.weights import Vectors, fill, normal, xavier


class Part(Vectors):
    """A table whose weight an output layer reads too, a matrix, a norm and a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(1, 400))
        self.table = nn.Embedding(40, 50)
        self.out = nn.Linear(50, 40)
        self.out.weight = self.table.weight
        self.matrix = nn.Linear(50, 60)
        self.norm = nn.LayerNorm(60)


def test_each_kind_of_weight_has_its_rule() -> None:
    part = Part()
    for parameter in part.parameters():
        nn.init.constant_(parameter, 7.0)
    fill(part, keyed_generator("weights"), matrices=xavier)
    assert 0.9 * (6 / 110) ** 0.5 < part.matrix.weight.abs().max() <= (6 / 110) ** 0.5
    assert part.out.weight is part.table.weight
    for drawn in (part.vector, part.table.weight):
        assert 0.018 < drawn.std() < 0.022
    assert not part.matrix.bias.any()
    assert not part.out.bias.any()
    assert part.norm.weight.eq(1).all()
    assert not part.norm.bias.any()


def test_vectors_of_a_part_are_drawn_before_its_inner_parts() -> None:
    part, stream = Part(), keyed_generator("weights")
    fill(part, keyed_generator("weights"), matrices=normal)
    vector = normal(torch.zeros(1, 400), generator=stream)
    assert torch.equal(part.vector, vector)
