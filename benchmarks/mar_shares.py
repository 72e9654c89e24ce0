"""What each saving of a system with a diffusion head is worth: operations against the plain form.

    python benchmarks/mar_shares.py [--recipe mar-base] [--report DIR]

Multiplications and additions of matrix products and attention, counted exactly on the meta device
for one image; nothing is timed. Training is forward and backward with the mean number of hidden
tokens of the recipe's masks; sampling is one guided step in the middle of its plan, all steps of
the head included. A row takes one saving away and leaves the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from common import parsed, parser, products, publish
from torch import Tensor

from unmask.decode import Branches, blank_canvas
from unmask.draws import Draws, keyed_generator
from unmask.nn.model import MaskedModel
from unmask.nn.positions import take
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.types import Canvas

DRAWS = 1000  # of masks, for their mean


@dataclass(frozen=True, kw_only=True)
class Without:
    """Savings that are taken away."""

    head_where_masked: bool = False
    condition_once: bool = False
    last_block_where_read: bool = False
    encoder_of_known: bool = False


ROWS = {
    "as it is": Without(),
    "head loss at every token, not at hidden ones": Without(head_where_masked=True),
    "condition projected for each repeat or head step": Without(condition_once=True),
    "last decoder block at every token": Without(last_block_where_read=True),
    "encoder sees every token, not the known ones": Without(encoder_of_known=True),
}


def model_of(recipe: Recipe, without: Without) -> MaskedModel:
    """On the meta device."""
    with torch.device("meta"):
        return replace(recipe.network, drops=not without.encoder_of_known).build().to("meta")


def canvas_of(model: MaskedModel, known: int) -> tuple[Canvas, Tensor]:
    """One image of which the last tokens are hidden, and where these are."""
    length = model.length
    where = torch.arange(length, device="meta").unsqueeze(0)
    canvas = blank_canvas(1, length, "meta", channels=model.channels)
    return canvas._replace(kept=where[:, :known] if model.drops else None), where[:, known:]


def training(recipe: Recipe, without: Without) -> int:
    """Operations of forward and backward."""
    model, repeats = model_of(recipe, without), recipe.training.noise_repeats
    masks = (recipe.masking.draw(1, model.length, keyed_generator("mask", k)) for k in range(DRAWS))
    hidden = sum(int(found.masked.sum()) for found in masks) / DRAWS
    canvas, masked = canvas_of(model, model.length - round(hidden))
    labels = torch.zeros(1, dtype=torch.long, device="meta")

    def step() -> None:
        """As the objective does it, less what is taken away."""
        everywhere = without.last_block_where_read or without.head_where_masked
        features = model.hidden(canvas, labels, None if everywhere else masked).tokens
        if everywhere and not without.head_where_masked:
            features = take(features, masked)
        features = features.flatten(0, 1)  # (M, D)
        rows = len(features)
        if without.condition_once:
            features = features.expand(repeats, -1, -1)  # (R, M, D)
        model.head.loss(
            features,
            torch.zeros(rows, model.head.channels, device="meta"),
            times=torch.zeros(repeats, rows, dtype=torch.long, device="meta"),
            noise=torch.zeros(repeats, rows, model.head.channels, device="meta"),
        ).sum().backward()

    return products(step)


@torch.no_grad()
def sampling(recipe: Recipe, without: Without) -> int:
    """Operations of a guided step in the middle of the plan."""
    model, plan = model_of(recipe, without).eval(), recipe.plan
    start = torch.ones(1, model.length, dtype=torch.bool)
    left = plan.counts.table(plan.steps, 0, start, Draws([0]))[:, 0].tolist()
    before, after = left[plan.steps // 2 - 1 : plan.steps // 2 + 1]
    canvas, masked = canvas_of(model, model.length - before)
    labels, read = torch.zeros(1, dtype=torch.long, device="meta"), masked[:, : before - after]
    every = torch.arange(model.length, device="meta").unsqueeze(0)
    stages = plan.draw.stages()

    def step() -> None:
        """As the decode loop does it, less what is taken away."""
        where = every if without.last_block_where_read else read
        strong, weak = Branches(model, labels)(canvas, ("null",), where)
        parts = [take(p, read) if without.last_block_where_read else p for p in (strong, *weak)]
        features = torch.stack(parts).flatten(1, 2)  # (2, N, D)
        noise = torch.zeros(len(read[0]), 1 + len(stages), model.head.channels, device="meta")
        if without.condition_once:
            for _ in stages:
                model.head.predict_at(
                    noise[:, 0].expand(2, -1, -1), torch.zeros(2, 1, device="meta"), features
                )
            return
        for _ in model.head.denoise(
            features, [torch.ones(len(read[0]), device="meta")], noise=noise, options=plan.draw
        ):
            pass

    return products(step)


def main() -> None:
    """Count and print."""
    words = parser(__doc__)
    words.add_argument("--recipe", default="mar-base")
    options = parsed(words)
    recipe = get(options.recipe)
    rows, ours = [], (0, 0)
    for name, without in ROWS.items():
        found = training(recipe, without), sampling(recipe, without)
        ours = ours if any(ours) else found
        rows.append((
            name, found[0] / 1e9, f"{found[0] / ours[0] - 1:+.1%}",
            found[1] / 1e9, f"{found[1] / ours[1] - 1:+.1%}",
        ))  # fmt: skip
    header = ("what", "training, 10^9 an image", "more", "sampling, 10^9 a step", "more")
    note = (
        f"{recipe.name}: matrix products and attention, on the meta device. MAR's published code "
        "has the encoder of known tokens and, in sampling, the head at revealed tokens alone; the "
        "head loss at hidden tokens alone, the condition once and the last block where it is read "
        "are this library's."
    )
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
