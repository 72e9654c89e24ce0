"""LARS and layer decay by their formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_mage import toy_classifier

from unmask.probe.finetune import layer_decay_groups
from unmask.probe.linear import LARS
from unmask.recipes.training import Training
from unmask.train.optim import adamw, set_learning_rate


def stepped(start: torch.Tensor, gradients: list[torch.Tensor], **options: float) -> torch.Tensor:
    weight = nn.Parameter(start.clone())
    optimizer = LARS([weight], **options)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
        assert torch.equal(weight.grad, gradient), "the gradient is only read"
    return weight.detach()


def test_a_matrix_moves_by_a_share_of_its_norm() -> None:
    start, gradient = torch.full((2, 2), 3.0), torch.tensor([[0.0, 5.0], [0.0, 0.0]])
    for factor in (1e-6, 1.0, 1e6):
        moved = start - stepped(start, [gradient * factor], lr=0.5)
        torch.testing.assert_close(moved, torch.tensor([[0.0, 0.5 * 0.001 * 6.0], [0.0, 0.0]]))


def test_momentum_and_decay() -> None:
    start, gradient = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    once = stepped(start, [gradient], lr=1.0, weight_decay=1.0, trust=0.1)
    torch.testing.assert_close(once, start - torch.tensor([[4.0, 3.0]]) * 0.1 * 4 / 5)
    vector = torch.tensor([1.0])
    gradients = [torch.tensor([2.0])] * 3
    plain = stepped(vector, gradients, lr=0.1, weight_decay=9.0, momentum=0.9)
    torch.testing.assert_close(plain, vector - 0.1 * 2 * (1 + 1.9 + 2.71))


@pytest.mark.parametrize(("start", "gradient"), [(0.0, 2.0), (2.0, 0.0)])
def test_a_norm_of_zero_leaves_the_factor_out(start: float, gradient: float) -> None:
    ended = stepped(torch.full((1, 2), start), [torch.full((1, 2), gradient)], lr=0.5)
    torch.testing.assert_close(ended, torch.full((1, 2), start - 0.5 * gradient))


def test_layer_decay_covers_every_parameter_once() -> None:
    model = toy_classifier(classes=2).model.requires_grad_(True)
    groups = layer_decay_groups(model, layer_decay=0.5, weight_decay=0.1)
    found = [p for group in groups for p in group["params"]]
    assert sorted(map(id, found)) == sorted(map(id, model.parameters()))
    by_parameter = {p: group for group in groups for p in group["params"]}
    for parameter, scale in (
        (model.encoder.embed.positions.weight, 0.125),
        (model.encoder.blocks[0].attention.qkv.weight, 0.25),
        (model.encoder.blocks[1].attention_norm.bias, 0.5),
        (model.encoder.norm.weight, 1.0),
        (model.head.bias, 1.0),
    ):
        assert by_parameter[parameter]["lr_scale"] == scale
        assert by_parameter[parameter]["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_rates_of_groups_follow_the_schedule() -> None:
    model = toy_classifier(classes=2).model.requires_grad_(True)
    groups = layer_decay_groups(model, layer_decay=0.5, weight_decay=0.1)
    optimizer = adamw(groups, Training(steps=1))
    for rate in (1.0, 0.25):
        set_learning_rate(optimizer, rate)
        assert {group["lr"] for group in optimizer.param_groups} == {
            rate * share for share in (0.125, 0.25, 0.5, 1.0)
        }
