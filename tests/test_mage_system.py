"""MAGE end to end in toy size: images without labels, holes, initial weights, memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from toy_mage import toy_generator

from unmask.draws import keyed_generator
from unmask.edit import inpaint, masked_tokens
from unmask.errors import InputError
from unmask.generation import Images, generate
from unmask.networks.mage import MageNetwork
from unmask.nn.embed import CLASS_ROWS, SLOT
from unmask.nn.model import initialize
from unmask.pipeline import Pipeline
from unmask.recipes import get
from unmask.types import Canvas


def drawn(deviation: float = 0.3) -> Pipeline:
    """With weights that prefer some codes clearly."""
    pipeline = toy_generator()
    initialize(pipeline.model, keyed_generator("mage"))
    stream = keyed_generator("table")
    table = pipeline.model.embed.tokens.weight
    table.data = torch.randn(table.shape, generator=stream) * deviation
    return pipeline


def test_an_image_depends_on_its_seed_alone() -> None:
    pipeline = drawn()
    one = pipeline(seeds=[3, 5, 8], batch_size=3)
    two = pipeline(seeds=[8, 3], batch_size=1)
    assert torch.equal(one.tokens[[2, 0]], two.tokens)
    assert not torch.equal(one.tokens[0], one.tokens[1])
    with pytest.raises(InputError, match="leave out the class labels"):
        generate(pipeline, [0], seeds=[1])


def hole(top: int, left: int, bottom: int, right: int) -> Tensor:
    made = torch.zeros(16, 16, dtype=torch.bool)
    made[top:bottom, left:right] = True
    return made


@pytest.mark.parametrize("ring", [0, 1])
@pytest.mark.parametrize("where", [(5, 5, 11, 11), (0, 0, 4, 4), (3, 12, 16, 16), (0, 0, 16, 16)])
def test_a_hole_is_drawn_anew_and_all_else_kept(where: tuple, ring: int) -> None:
    pipeline = drawn()
    images = torch.rand(2, 3, 16, 16, generator=keyed_generator("edit"))
    known = pipeline.tokenizer.encode(images)
    masked = masked_tokens(hole(*where)[None], 4, ring=ring).expand(2, -1)
    asked: list[Tensor] = []
    hidden = pipeline.model.forward

    def watched(canvas: Canvas, labels: None, read: Tensor | None = None) -> object:
        asked.append(canvas.masked.clone())
        seen = ~masked[: len(canvas.tokens)]  # one row, where both know nothing
        assert torch.equal(canvas.tokens[seen], known[: len(seen)][seen])
        return hidden(canvas, labels, read)

    pipeline.model.forward = watched  # type: ignore[method-assign]
    changed = torch.zeros_like(masked)
    for seed in range(12):
        made = inpaint(pipeline, images, hole(*where), seeds=[seed, seed + 50], ring=ring)
        assert torch.equal(made.tokens[~masked], known[~masked])
        changed |= made.tokens != known
    assert torch.equal(asked[0], masked[: len(asked[0])])  # every touched token begins unknown
    assert torch.equal(changed, masked)


class Counted:
    """Batches as they come, and how many of them are still held somewhere."""

    def __init__(self, batches: Iterator[Images]) -> None:
        self.batches, self.alive, self.most = batches, weakref.WeakSet[Tensor](), 0

    def __iter__(self) -> Iterator[Images]:
        for batch in self.batches:
            self.alive.add(batch.pixels)
            gc.collect()
            self.most = max(self.most, len(self.alive))
            yield batch


def test_many_images_are_a_stream() -> None:
    pipeline = replace_steps(drawn(), 2)
    counted = Counted(generate(pipeline, seeds=range(48), batch_size=4))
    assert sum(len(batch.seeds) for batch in counted) == 48
    assert counted.most <= 2  # the batch at hand, and the one before it

    held = Counted(generate(pipeline, seeds=range(48), batch_size=4))
    everything = list(held)
    assert (held.most, len(everything)) == (12, 12)  # the counter sees what is kept


def replace_steps(pipeline: Pipeline, steps: int) -> Pipeline:
    pipeline.plan = replace(pipeline.plan, steps=steps)
    return pipeline


def test_initial_weights_are_the_published_ones() -> None:
    network = replace(get("mage-base").network, width=96, heads=12, depth=2, decoder_depth=2,
                      decoder_width=64)  # fmt: skip
    model = network.build()
    initialize(model, keyed_generator("weights"))
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any(), name
        elif "norm" in name:
            assert (p == 1).all(), name
        elif p.ndim == 3 or name.startswith("embed."):
            assert float(p.detach().std()) == pytest.approx(0.02, rel=0.05), name
        else:
            limit = (6 / sum(p.shape)) ** 0.5
            assert 0.97 * limit < float(p.detach().abs().max()) <= limit, name
            assert float(p.detach().std()) == pytest.approx(limit / 3**0.5, rel=0.05), name
    assert model.head.out.weight is model.embed.tokens.weight


def test_the_class_slot_and_the_mask_have_their_published_rows() -> None:
    model = toy_generator().model
    tokens = torch.zeros(1, 16, dtype=torch.long)
    masked = torch.arange(16)[None] < 8
    loss = model.embed(Canvas(tokens, masked), None)[0].square().sum()
    loss.backward()
    rows = model.embed.tokens.weight.grad.abs().sum(1).nonzero().flatten().tolist()
    assert rows == [0, 16 + SLOT, 16 + CLASS_ROWS]
    base = get("mage-base").network
    assert (base.codes + SLOT, base.codes + CLASS_ROWS) == (1100, 2024)


def test_the_head_does_not_teach_the_table() -> None:
    model = toy_generator().model
    features = torch.randn(5, 12, generator=keyed_generator("features"))
    model.head.loss(features, torch.arange(5), label_smoothing=0.1).sum().backward()
    assert model.embed.tokens.weight.grad is None
    bias = model.head.out.bias.grad
    assert bias[:16].abs().min() > 0
    assert not bias[16:].any()  # the softmax is over the codes alone


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 5}, "width=24 does not divide by heads=5"),
        ({"decoder_heads": 5}, "width=12 does not divide by decoder_heads=5"),
        ({"decoder_depth": 0}, "depth=0 must be at least 1"),
        ({"length": 15}, "network.length=15 is not a 3x3 grid"),
    ],
)
def test_sizes_that_make_no_network(sizes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(toy_generator().recipe.network, **sizes)


def test_a_contrastive_loss_wants_an_encoder() -> None:
    contrastive = get("mage-c-base").contrastive
    with pytest.raises(InputError, match="contrastive is for the encoder of MAGE, and MaskGITVit"):
        replace(get("fashion-maskgit"), contrastive=contrastive)
    assert isinstance(get("mage-c-base").network, MageNetwork)
