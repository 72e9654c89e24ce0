"""Which row of which table a position reads."""

from __future__ import annotations

import pytest
import torch

from unmask.nn.embed import IdEmbed, JointEmbed
from unmask.types import Canvas

CANVAS = Canvas(torch.tensor([[3, 0, 2, 1]]), torch.tensor([[False, True, False, False]]))


def id_embed(classes: int = 7, dropout: float = 0.0) -> IdEmbed:
    embed = IdEmbed(5, 6, length=4, classes=classes, dropout=dropout)
    torch.nn.init.normal_(embed.positions, generator=torch.Generator().manual_seed(0))
    return embed


def joint_embed(dropout: float = 0.0) -> JointEmbed:
    return JointEmbed(5, 6, length=4, classes=7, dropout=dropout)


def test_masked_ids_read_the_last_row_and_every_token_its_position() -> None:
    embed = id_embed()
    x, prefix = embed(CANVAS, None)
    assert prefix == 0
    rows = embed.tokens.weight[torch.tensor([3, 5, 2, 1])]
    torch.testing.assert_close(x[0], rows + embed.positions[0])


def test_the_class_row_stands_in_front_without_position() -> None:
    embed = id_embed()
    for label in (2, embed.null_class):
        x, prefix = embed(CANVAS, torch.tensor([label]))
        assert prefix == 1
        assert torch.equal(x[0, 0], embed.classes.weight[label])
        assert torch.equal(x[:, 1:], embed(CANVAS, None)[0])


def test_the_class_row_is_never_dropped() -> None:
    embed = id_embed(dropout=1.0).train()
    x, _ = embed(CANVAS, torch.tensor([2]))
    assert torch.equal(x[0, 0], embed.classes.weight[2])
    assert not x[0, 1:].any()


def test_an_unconditional_embed_has_no_class_table_and_no_null_class() -> None:
    embed = id_embed(classes=0)
    assert embed.null_class is None
    assert not hasattr(embed, "classes")


@pytest.mark.parametrize("make", [id_embed, joint_embed])
def test_what_stands_under_the_mask_does_not_matter(make: type) -> None:
    embed = make()
    other = Canvas(CANVAS.tokens.masked_fill(CANVAS.masked, 4), CANVAS.masked)
    label = torch.tensor([1])
    assert torch.equal(embed(CANVAS, label)[0], embed(other, label)[0])


def test_the_joint_table_holds_codes_then_classes_then_the_mask() -> None:
    embed = joint_embed()
    x, prefix = embed(CANVAS, torch.tensor([2]))
    assert prefix == 1
    rows = embed.tokens.weight[torch.tensor([5 + 2, 3, 5 + 7, 2, 1])]
    summed = rows + embed.positions.weight
    wanted = torch.nn.functional.layer_norm(summed, (6,), eps=1e-12)
    torch.testing.assert_close(x[0], wanted)
    assert not joint_embed(dropout=1.0).train()(CANVAS, torch.tensor([2]))[0].any()


def test_the_joint_embed_has_no_null_class_and_needs_a_label() -> None:
    assert joint_embed().null_class is None
    with pytest.raises(AssertionError, match="needs class labels"):
        joint_embed()(CANVAS, None)
