"""Batches of images that are to be judged."""

from __future__ import annotations

import pytest
import torch
from toy_system import toy_pipeline

from unmask.evaluate.generated import generated_batches
from unmask.evaluate.image_batch import ImageBatch, gather, regrouped
from unmask.evaluate.options import EvaluationOptions
from unmask.tokenizers.conv_stack import ConvVQTokenizer


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("sizes", [[5], [1] * 9, [4, 4, 1], [3, 9, 2, 2], [8]])
def test_images_keep_their_order_in_batches_of_another_size(
    sizes: list[int], labelled: bool
) -> None:
    images = torch.arange(sum(sizes), dtype=torch.uint8).view(-1, 1, 1, 1)
    labels = torch.arange(sum(sizes)) if labelled else None
    parts = images.split(sizes)
    marks = labels.split(sizes) if labels is not None else [None] * len(sizes)
    made = list(regrouped(map(ImageBatch, parts, marks), 4))
    whole, rest = divmod(sum(sizes), 4)
    assert [len(batch.images) for batch in made] == [4] * whole + [rest] * (rest > 0)
    found = gather(made)
    assert torch.equal(found.images, images)
    assert found.labels is None if labels is None else torch.equal(found.labels, labels)


def test_an_evaluation_measures_alike_whatever_memory_held(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pipeline, wanted = toy_pipeline(), EvaluationOptions(count=70)
    found = list(generated_batches(pipeline, wanted))
    decode, tried = ConvVQTokenizer.decode, list[int]()

    def small(self: ConvVQTokenizer, tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        tried.append(len(tokens))
        if len(tried) in (3, 4):
            raise torch.OutOfMemoryError("no more")
        return decode(self, tokens, grid)

    monkeypatch.setattr(ConvVQTokenizer, "decode", small)
    again = list(generated_batches(pipeline, EvaluationOptions(count=70, batch_size="auto")))
    assert [len(batch.images) for batch in again] == [64, 6]
    for one, other in zip(found, again, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)
