"""The masked loss against cross entropy over everything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from unmask.nn.positions import take
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.types import Canvas, Hidden, MaskedBatch

CODES, LENGTH, WIDTH = 7, 5, 4


class LinearHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(WIDTH, CODES)
        self.rows = 0

    def loss(self, features: Tensor, targets: Tensor, *, label_smoothing: float) -> Tensor:
        self.rows = len(features)
        return nn.functional.cross_entropy(
            self.out(features), targets, reduction="none", label_smoothing=label_smoothing
        )


class TinyModel(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(CODES + 1, WIDTH)
        self.classes = nn.Embedding(3, WIDTH)
        self.head = LinearHead()

    def hidden(
        self, canvas: Canvas, class_labels: Tensor | None, read: Tensor | None = None
    ) -> Hidden:
        x = self.table(canvas.tokens.masked_fill(canvas.masked, CODES))
        x = x.cumsum(1) + self.classes(class_labels)[:, None]
        return Hidden(x[:, :0], x if read is None else take(x, read))


@pytest.fixture(params=["unequal", "equal"])
def examples(request: pytest.FixtureRequest) -> MaskedBatch:
    stream = torch.Generator().manual_seed(1)
    tokens = torch.randint(CODES, (3, LENGTH), generator=stream)
    score = torch.rand(3, LENGTH, generator=stream)
    masked = score < 0.5 if request.param == "unequal" else score.argsort(1) < 3
    return MaskedBatch(tokens, masked, torch.tensor([0, 2, 1]), 1 / masked.sum().float())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_the_mean_cross_entropy_of_masked_tokens(
    examples: MaskedBatch, smoothing: float
) -> None:
    model = TinyModel()
    objective = MaskedObjective(model, label_smoothing=smoothing)
    hidden = model.hidden(Canvas(examples.tokens, examples.masked), examples.class_labels)
    expected = nn.functional.cross_entropy(
        model.head.out(hidden.tokens).flatten(0, 1),
        examples.tokens.masked_fill(~examples.masked, -100).flatten(),
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(objective(examples)["loss"], expected)
    wanted = torch.autograd.grad(expected, model.parameters())
    given = torch.autograd.grad(objective(locate(examples))["loss"], model.parameters())
    torch.testing.assert_close(given, wanted)


def test_the_head_sees_masked_positions_only(examples: MaskedBatch) -> None:
    objective = MaskedObjective(TinyModel())
    objective(examples)
    assert objective.averaged.head.rows == examples.masked.sum()


def test_hidden_truth_does_not_leak_into_the_input(examples: MaskedBatch) -> None:
    model = TinyModel()
    other = torch.where(examples.masked, (examples.tokens + 1) % CODES, examples.tokens)
    for one, two in zip(
        model.hidden(Canvas(examples.tokens, examples.masked), examples.class_labels),
        model.hidden(Canvas(other, examples.masked), examples.class_labels),
        strict=True,
    ):
        assert torch.equal(one, two)
    assert MaskedObjective(model)(examples) != MaskedObjective(model)(
        examples._replace(tokens=other)
    )


def test_given_positions_are_used_as_they_are(examples: MaskedBatch) -> None:
    objective = MaskedObjective(TinyModel())
    one = LocatedBatch(examples, examples.masked.flatten().nonzero()[:1, 0], None)
    objective(one)
    assert objective.averaged.head.rows == 1


def test_parts_add_up(examples: MaskedBatch) -> None:
    objective = MaskedObjective(TinyModel())
    parts = [
        MaskedBatch(
            examples.tokens[i : i + 1],
            examples.masked[i : i + 1],
            examples.class_labels[i : i + 1],
            examples.weight,
        )
        for i in range(3)
    ]
    total = sum(objective(p)["loss"] for p in parts)
    torch.testing.assert_close(total, objective(examples)["loss"])
