"""``unmask estimate``: memory, operations and hours of a training, before GPUs are rented."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import tyro

from unmask.commands.recipe_arguments import parse_with_recipe
from unmask.errors import InputError
from unmask.estimate import GPUS, SPARE, Estimate, Pass, encoding, estimate, sampling_flop
from unmask.ranges import Between, Length, Ranged
from unmask.recipes import RECIPES, get
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import IMAGENET, in_steps
from unmask.show import Table, aligned
from unmask.text import say
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.published import PUBLISHED, published_name
from unmask.train.outline import PRECISIONS

USUAL = 8  # images of a micro-batch, of which the activations are stated
GpuName = Literal["b200", "h200", "h100", "a100", "a100-40", "l40s", "v100", "rtx-4090", "rtx-3090"]


@dataclass(frozen=True, kw_only=True)
class Arguments(Ranged):
    """Count what a training needs, on tensors without memory: nothing is trained or downloaded.

    Counted are matrix products, convolutions and attention, and every tensor that is kept for the
    backward pass. Hours follow from the utilisation, which depends on the machine.
    """

    recipe: Annotated[Recipe, tyro.conf.arg(name="")]
    """Recipe whose training is counted; every field of it is an option, as of unmask train."""
    gpus: Annotated[int, Between(1, 10**5)] = 8
    """Number of GPUs that share each batch."""
    gpu: GpuName = "h100"
    """Kind of GPU, which decides memory and peak speed."""
    images: Annotated[int, Between(1, 10**12)] = IMAGENET
    """Images that are trained on, for the size of the cache and epochs; ImageNet's unless given."""
    utilisation: Annotated[tuple[float, ...], Between(above=0, at_most=1), Length(1, 10)] = (
        0.15,
        0.3,
        0.45,
    )
    """Shares of the peak speed that the network reaches; a line of hours for each."""
    samples: Annotated[int, Between(0, 10**9)] = 0
    """Images to generate by the recipe's plan, whose operations are counted too; 0 counts none. A
    plan of many steps takes a minute to count."""


def main(words: Sequence[str]) -> None:
    """Run the command."""
    arguments = parse_with_recipe(Arguments, words, command="estimate", known=RECIPES, find=get)
    training = in_steps(arguments.recipe.training, arguments.images)
    recipe = replace(arguments.recipe, training=training)
    gpus, gpu = arguments.gpus, GPUS[arguments.gpu]
    counted = estimate(recipe)
    fit = counted.fit(gpus, gpu.memory)
    flop = recipe.training.batch_size * (counted.recomputed if fit.recompute else counted.kept).flop
    samples = arguments.samples and arguments.samples * sampling_flop(recipe, recipe.plan)
    facts = {
        "training": _training(recipe, arguments.images),
        "parameters": f"{counted.parameters:,}",
        "GPU": _held(counted, gpus),
        "activations": f"{_megabytes(counted.kept)} MB an image, {_megabytes(counted.recomputed)} "
        "with --training.recompute",
        "batch": f"{fit.images} images in GPU memory at once, with --training.accumulate "
        f"{fit.accumulate}{' --training.recompute' * fit.recompute}: {fit.memory / 1e9:.1f} of "
        f"{gpu.memory / 1e9:.0f} GB",
        "step": f"{_operations(flop)}; {_operations(recipe.training.steps * flop)} in all",
        "cache": _cache(recipe, arguments.images),
    }
    if samples:
        facts["samples"] = f"{_operations(samples)} for {arguments.samples:,} images"
    peak = gpu.float32 if recipe.training.precision == "no" else gpu.bf16
    numbers = PRECISIONS[recipe.training.precision]
    say(
        f"{recipe.name} on {gpus} x {arguments.gpu}, {peak / 1e12:.4g} TFLOP/s each in {numbers}",
        *aligned(facts),
    )
    hours = _hours(replace(arguments, recipe=recipe), flop, samples, peak)
    say(*str(hours).splitlines())


def _operations(flop: float) -> str:
    """Floating-point operations in the unit that leaves one to three digits before the point."""
    unit = min(6, max(2, int(math.log10(max(flop, 1)) / 3)))
    return f"{flop / 1000**unit:.4g} {'..MGTPE'[unit]}FLOP"


def _training(recipe: Recipe, images: int) -> str:
    steps, batch = recipe.training.steps, recipe.training.batch_size
    epochs = steps / max(1, images // batch)
    return f"{steps:,} steps of {batch:,} images: {epochs:.4g} epochs of {images:,} images"


def _held(counted: Estimate, gpus: int) -> str:
    parts = counted.on(gpus)
    told = ", ".join(f"{name} {size / 1e9:.2f}" for name, size in parts.items())
    return f"{sum(parts.values()) / 1e9:.1f} GB besides activations: {told}"


def _megabytes(counted: Pass) -> str:
    """Megabytes an image of a usual micro-batch."""
    return f"{counted.activations.of(USUAL) / USUAL / 1e6:,.0f}"


def _cache(recipe: Recipe, images: int) -> str:
    """Size of the latent cache and the work of making it."""
    known = PUBLISHED.get(published_name(recipe.tokenizer))
    try:
        found = encoding(recipe, known.network.build if known else _loaded(recipe.tokenizer))
    except InputError:
        return f"not counted, as {recipe.tokenizer} is not there"
    views = images * (2 if recipe.flip else 1)
    size, work = views * found.bytes / 1e9, _operations(views * found.flop)
    return f"{size:,.4g} GB of {views:,} views; {work} to encode them in float32"


def _loaded(tokenizer: str) -> Callable[[], ImageTokenizer]:
    """Builds a tokenizer like the one that is saved under a name."""
    return load_tokenizer(tokenizer).config.build


def _hours(arguments: Arguments, flop: float, samples: float, peak: float) -> Table:
    """Times at each utilisation."""
    training, gpus = arguments.recipe.training, arguments.gpus
    titles = ["utilisation", "s a step", "images a second", "hours", "GPU hours"]
    rows = []
    for share in arguments.utilisation:
        step = flop / (share * peak * gpus)
        hours = training.steps * step / 3600
        row: list[object] = [f"{share:.0%}", step, training.batch_size / step, hours, hours * gpus]
        rows.append([*row, samples / (share * peak) / 3600] if samples else row)
    notes = (
        "counted: matrix products, convolutions and attention; what is kept for the backward pass",
        "utilisation is the share of the peak speed, which the maker states for dense products",
        f"{SPARE:.0%} of the memory is left to the driver, to buffers of kernels and to gaps",
    )
    return Table(titles=titles + ["GPU hours to sample"] * bool(samples), rows=rows, notes=notes)
