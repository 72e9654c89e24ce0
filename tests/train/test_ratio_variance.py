"""What the mask ratio does to the gradient of fashion-mar, with one ratio a step and with many."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_masked_batches import Moments
from torch import Tensor

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.masking import lowest
from unmask.nn.positions import first_positions
from unmask.objectives.masked import MaskedObjective, locate
from unmask.pipeline import load
from unmask.recipes import get
from unmask.train.masked_batches import MaskedBatches
from unmask.types import MaskedBatch

IMAGES, REPEATS, PAIRS, GROUPS, SIZE = 96, 2, 200, 32, 64


class Many(Moments):
    """As many images as a batch needs; only their number is looked at."""

    length = 49
    labels = torch.zeros(4096, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.labels)


def latents(side: int) -> tuple[Tensor, Tensor]:
    """``(N, L, C)`` of real images, each side's of its own, and their labels."""
    source, tokenizer = open_source("fashion-mnist"), load("fashion-mar").tokenizer
    rows = range(side * IMAGES, (side + 1) * IMAGES)
    crop = Transform(size=28, crop="none", channels=1)
    images = torch.stack([crop(source.image(row)) for row in rows]).float() / 255
    noise = torch.randn(IMAGES, 8, 7, 7, generator=keyed_generator("posterior", side))
    return tokenizer.tokens(tokenizer.encode(images), noise), torch.tensor(
        [source.label(row) for row in rows]
    )


def expected_gradients(side: int, counts: list[int]) -> Tensor:
    """``(counts, parameters)``: the gradient of the mean loss where so many tokens are hidden.

    Images, noise, diffusion steps and the order of the tokens are the same for every count.
    """
    model = load("fashion-mar").model.requires_grad_(True)
    objective, generator = MaskedObjective(model).eval(), keyed_generator("variance", side)
    tokens, labels = latents(side)
    length, channels = tokens.shape[1:]
    score = torch.rand(IMAGES, length, generator=generator)
    times = torch.randint(1000, (REPEATS, IMAGES, length), generator=generator)
    noise = torch.randn(REPEATS, IMAGES, length, channels, generator=generator)
    found = []
    for count in counts:
        masked = lowest(score, torch.full((IMAGES,), count))
        kept = first_positions(~masked, length - count)
        weight = torch.full((IMAGES,), 1 / (IMAGES * count))
        batch = MaskedBatch(tokens, masked, labels, weight, kept)
        objective.zero_grad()
        objective(locate(batch, times=times[:, masked], noise=noise[:, masked]))["loss"].backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return torch.stack(found)


def shares(group: int | None, counts: list[int]) -> Tensor:
    """``(PAIRS, counts)``: how much of a step's loss falls to groups that hide so many tokens."""
    recipe = get("fashion-mar")
    masking, training = (
        replace(recipe.masking, group=group),
        replace(recipe.training, batch_size=SIZE),
    )
    batches = MaskedBatches(Many(), masking, training=training, classes=10)
    table = torch.zeros(PAIRS, len(counts))
    for step in range(PAIRS):
        masks = batches.masks(step)
        hidden = masks.masked.sum(1)
        table[step].index_add_(0, hidden - counts[0], masks.weight * hidden)
    assert table.sum(1).tolist() == pytest.approx([1] * PAIRS, rel=1e-4)
    return table


@pytest.mark.slow  # half a minute of one core
def test_the_ratios_part_of_the_gradients_variance_falls_with_their_number() -> None:
    """It is the covariance of the gradients of two independent batches that share their ratios.

    Each batch enters by its expected gradient at the ratios that were drawn for it, estimated on
    images of its own; so what is not the ratio's does not cover it up.
    """
    counts = list(range(35, 50))  # ceil(0.7 x 49) to 49
    one, other = (expected_gradients(side, counts) for side in (0, 1))
    products = one.double() @ other.double().T  # (counts, counts)

    def ratios_part(group: int | None) -> float:
        centred = shares(group, counts).double()
        centred = centred - centred.mean(0)
        return float((centred @ products * centred).sum() / (PAIRS - 1))

    single, many = ratios_part(None), ratios_part(SIZE // GROUPS)
    assert single > 5e-5, "1.4e-4 here: too few images would leave noise alone"
    assert many * GROUPS / single == pytest.approx(1, rel=0.3)
