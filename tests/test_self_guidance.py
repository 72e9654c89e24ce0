"""Decoding with self-guidance: its law, alone and beside guidance by class."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from unmask.decode import Branches, Plan, blank_canvas, decode
from unmask.draws import Draws, keyed_generator
from unmask.errors import InputError
from unmask.generation import check_request
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.nn.feedback import Feedback
from unmask.nn.model import MaskedModel
from unmask.types import Canvas, Reading

LENGTH, CODES, CLASSES = 16, 11, 3
LABELS = torch.tensor([0, 1, 2, 0])
NETWORK = MaskGITVitNetwork(
    codes=CODES,
    width=16,
    depth=2,
    heads=2,
    length=LENGTH,
    classes=CLASSES,
    feedback=Feedback(factor=4),
)


def built(network: MaskGITVitNetwork = NETWORK) -> MaskedModel:
    model = network.build()
    generator = keyed_generator("self-guidance")
    for name, parameter in model.named_parameters():
        noise = 0.3 * torch.randn(parameter.shape, generator=generator)
        parameter.data = noise + 1 if name.endswith("norm.weight") else noise
    return model.eval()


MODEL = built()


@torch.inference_mode()
def sampled(guidance: Guidance, seeds: list[int], labels: Tensor = LABELS) -> Tensor:
    plan = Plan(steps=5, guidance=guidance)
    canvas = blank_canvas(len(seeds), LENGTH)
    return list(decode(MODEL, labels, plan, Draws(seeds), canvas))[-1].tokens


def test_scale_one_is_no_guidance_exactly() -> None:
    seeds = [1, 2, 3, 4]
    plain = sampled(Guidance(), seeds)
    assert torch.equal(sampled(Guidance(weak="self", scale=1.0), seeds), plain)
    assert not torch.equal(sampled(Guidance(weak="self", scale=3.0), seeds), plain)
    by_class = sampled(Guidance(scale=2.0), seeds)
    assert torch.equal(sampled(Guidance(scale=2.0, self_scale=1.0), seeds), by_class)
    assert not torch.equal(sampled(Guidance(scale=2.0, self_scale=2.0), seeds), by_class)


@torch.inference_mode()
def test_both_guidances_add_up() -> None:
    generator = keyed_generator("canvas")
    tokens = torch.randint(CODES, (4, LENGTH), generator=generator)
    canvas = Canvas(tokens, torch.rand(4, LENGTH, generator=generator) < 0.6)
    read = torch.tensor([[0, 5, 9], [1, 2, 3], [15, 14, 0], [7, 8, 9]])
    a, b = 2.5, 1.7
    branches = Branches(MODEL, LABELS)
    strong, weak = branches(canvas, ("null", "self"), read)
    scales = [torch.full((4,), scale) for scale in (a, b)]
    made = MODEL.head.guided_logits(Reading(strong, read, LENGTH, 0, weak, scales))
    strong, weak = branches(canvas, ("self",), read)
    self_alone = MODEL.head.guided_logits(Reading(strong, read, LENGTH, 0, weak, scales[1:]))
    first = MODEL.hidden(canvas, LABELS)
    null = MODEL.hidden(canvas, torch.full_like(LABELS, CLASSES)).tokens
    second = MODEL.feedback.states(MODEL, first, canvas, LABELS)[-1][:, 1:]
    at = read.unsqueeze(-1).expand(-1, -1, CODES)
    log = {
        name: MODEL.head.code_logits(hidden).gather(1, at)
        for name, hidden in (("strong", first.tokens), ("null", null), ("self", second))
    }
    expected = log["null"] + a * (log["strong"] - log["null"])
    expected = expected + (b - 1) * (log["strong"] - log["self"])
    torch.testing.assert_close(made, expected, atol=1e-4, rtol=1e-4)
    expected = log["self"] + b * (log["strong"] - log["self"])
    torch.testing.assert_close(self_alone, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("guidance", [Guidance(weak="self", scale=2.0), Guidance(self_scale=2.0)])
def test_an_image_does_not_depend_on_its_batch(guidance: Guidance) -> None:
    whole = sampled(guidance, [1, 2, 3, 4])
    order = [2, 0, 3, 1]
    shuffled = sampled(guidance, [[1, 2, 3, 4][i] for i in order], LABELS[order])
    assert torch.equal(shuffled, whole[order])
    assert torch.equal(sampled(guidance, [3], LABELS[2:3]), whole[2:3])


def test_both_scales_alone_ask_for_the_same() -> None:
    seeds = [5, 6, 7, 8]
    alone = sampled(Guidance(weak="self", scale=2.0), seeds)
    assert torch.equal(sampled(Guidance(self_scale=2.0), seeds), alone)


def test_an_unconditional_network_can_guide_itself_too() -> None:
    model = built(MaskGITVitNetwork(**{**vars(NETWORK), "classes": 0}))
    plan = Plan(steps=4, guidance=Guidance(weak="self", scale=2.0))
    check_request(model, plan, None, [1, 2])
    *_, last = decode(model, None, plan, Draws([1, 2]), blank_canvas(2, LENGTH))
    assert not last.masked.any()


def test_guidance_without_an_adapter_and_foreign_classes_are_refused() -> None:
    plan = Plan(steps=4, guidance=Guidance(weak="self", scale=2.0))
    bare = MaskGITVitNetwork(**{**vars(NETWORK), "feedback": None}).build()
    with pytest.raises(InputError, match="needs a feedback adapter"):
        check_request(bare, plan, [0], [1])
    with pytest.raises(InputError, match=r"class label 4 is outside 0\.\.2"):
        check_request(MODEL, plan, [4], [1])
