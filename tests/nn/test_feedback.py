"""The adapter's second pass: what it sees, what is added to values, and the folded way down."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.nn.feedback import Feedback, FeedbackAdapter, FoldedAdapter
from unmask.nn.model import MaskedModel
from unmask.types import Canvas, Hidden

LENGTH, CODES, CLASSES = 9, 12, 5
SIZES = {"codes": CODES, "width": 16, "depth": 3, "heads": 2, "length": LENGTH}
ADAPTER = Feedback(factor=4)
POST = MaskGITBertNetwork(**SIZES, feed_forward=24, classes=CLASSES, feedback=ADAPTER)
PRE = MaskGITVitNetwork(**SIZES, classes=CLASSES, dropout=0.1, feedback=ADAPTER)
NETWORKS = {
    "post": POST,
    "post, seeing": replace(POST, feedback=replace(ADAPTER, blank=False)),
    "pre": PRE,
    "pre, seeing": replace(PRE, feedback=replace(ADAPTER, blank=False)),
    "unconditional": replace(PRE, classes=0),
}


def built(name: str) -> MaskedModel:
    """With weights large enough that everything matters."""
    model = NETWORKS[name].build()
    generator = keyed_generator("feedback")
    for name, parameter in model.named_parameters():
        noise = 0.2 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + 1 if name.endswith("norm.weight") else noise
    return model.eval()


def first_pass(model: MaskedModel, seed: int = 0) -> tuple[Hidden, Canvas, Tensor | None]:
    generator = keyed_generator("canvas", seed)
    tokens = torch.randint(CODES, (4, LENGTH), generator=generator)
    canvas = Canvas(tokens, torch.rand(4, LENGTH, generator=generator) < 0.5)
    labels = torch.tensor([0, 4, 2, 2]) if model.classes else None
    with torch.no_grad():
        return model.hidden(canvas, labels), canvas, labels


def adapter_of(model: MaskedModel) -> FeedbackAdapter:
    assert isinstance(model.feedback, FeedbackAdapter)
    return model.feedback


def plain(model: MaskedModel, *arguments: object) -> Tensor:
    with torch.no_grad():
        return adapter_of(model).states(model, *arguments)[-1][:, -LENGTH:]


def fast(model: MaskedModel, hidden: Hidden, canvas: Canvas, class_labels: Tensor | None) -> Tensor:
    with torch.inference_mode():
        return FoldedAdapter(model, canvas, class_labels)(hidden, canvas, class_labels)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_folded_equals_plain(name: str) -> None:
    model = built(name)
    _, canvas, labels = first_pass(model)
    with torch.inference_mode():
        folded = FoldedAdapter(model, canvas, labels)
    for seed in (0, 1):  # one folding serves every step
        arguments = first_pass(model, seed)
        with torch.inference_mode():
            made = folded(*arguments)
        torch.testing.assert_close(made, plain(model, *arguments), atol=2e-5, rtol=1e-4)
    hidden, canvas, labels = arguments
    shorter = Canvas(canvas.tokens[:2, :6], canvas.masked[:2, :6])
    less = Hidden(hidden.prefix[:2], hidden.tokens[:2, :6])
    labels = None if labels is None else labels[:2]
    expected = plain(model, less, shorter, labels)[:, -6:]
    torch.testing.assert_close(fast(model, less, shorter, labels), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("part", ["embed", "trunk", "feedback"])
def test_the_next_folding_sees_other_weights(part: str) -> None:
    model = built("post")
    arguments = first_pass(model)
    before = fast(model, *arguments)
    for parameter in model.get_submodule(part).parameters():
        parameter.data.mul_(1.3)
    after = fast(model, *arguments)
    torch.testing.assert_close(after, plain(model, *arguments), atol=2e-5, rtol=1e-4)
    assert not same(after, before)


def test_the_published_way_teaches_every_weight_of_the_adapter() -> None:
    model = built("post").train()
    arguments = first_pass(model)
    assert set(model.state_dict()) == set(built("post").state_dict())
    adapter_of(model).states(model, *arguments)[-1].sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if n.startswith("feedback"))


@pytest.mark.parametrize(("name", "biased"), [("post", True), ("pre", False)])
def test_without_features_a_pass_has_its_value_bias_twice(name: str, biased: bool) -> None:
    model = built(name)
    hidden, canvas, labels = first_pass(model)
    for level in adapter_of(model).levels:
        level.out.weight.data.zero_()
    made = fast(model, hidden, canvas, labels)
    for block in model.trunk.blocks:
        bias = block.attention.qkv.bias
        assert (bias is not None) == biased
        if bias is not None:
            bias.data[2 * 16 :] *= 2
    blank = Canvas(canvas.tokens, torch.ones_like(canvas.masked))
    with torch.no_grad():  # label N is the null class of one network, the mask of the other
        expected = model.hidden(blank, torch.full_like(labels, CLASSES)).tokens
    torch.testing.assert_close(made, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["post", "pre"])
def test_a_blank_second_pass_knows_canvas_and_class_by_the_first_alone(name: str) -> None:
    model = built(name)
    hidden, canvas, labels = first_pass(model)
    states = adapter_of(model).states(model, hidden, canvas, labels)
    assert torch.equal(states[0], states[0][:1].expand_as(states[0]))
    seeing = built(f"{name}, seeing")
    embedded = seeing.embed(canvas, labels)[0]
    assert torch.equal(adapter_of(seeing).states(seeing, hidden, canvas, labels)[0], embedded)


def test_the_anchor_of_no_class_is_the_shared_part() -> None:
    anchor = adapter_of(built("pre")).anchor
    both = anchor(torch.tensor([1, CLASSES]))
    torch.testing.assert_close(both[1:], anchor(None))
    assert not same(both[0], both[1])
    anchor.classes.weight.data[1] = 0
    torch.testing.assert_close(anchor(torch.tensor([1])), anchor(None))
    assert adapter_of(built("unconditional")).anchor.classes is None


def test_the_gate_is_a_cosine_that_is_never_negative() -> None:
    model = built("post")
    adapter, (hidden, _, labels) = adapter_of(model), first_pass(model)
    gate = adapter.gate(hidden, labels)
    assert gate.shape == (4, 1 + LENGTH, 1)
    cosine = torch.cosine_similarity(torch.cat(hidden, 1), adapter.anchor(labels), dim=-1)
    torch.testing.assert_close(gate.squeeze(-1), cosine.clamp(min=0))
    assert (gate == 0).any()
    assert (gate > 0).any()


def test_sizes_that_make_no_adapter_are_refused() -> None:
    with pytest.raises(InputError, match=r"network\.feedback\.factor=0"):
        Feedback(factor=0)
