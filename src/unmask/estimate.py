"""What a training asks of GPUs, counted on tensors without memory before anything is rented."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_map
from torch.utils.flop_counter import FlopCounterMode

from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.errors import InputError
from unmask.image_size import height_width
from unmask.memory import skeleton
from unmask.nn.block import recompute_blocks
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.train.generator import batches_of, objective_of
from unmask.train.outline import state_bytes
from unmask.types import Canvas, Reading

FEW, MORE = 4, 8  # images of the two micro-batches that are counted; the larger of other batches
SPARE = 0.1  # share of a GPU's memory that is left to the driver, buffers of kernels and gaps


class Gpu(NamedTuple):
    """One kind of GPU, as its maker states it: dense matrix products, without sparsity.

    Args:
        memory: Bytes.
        bf16: FLOP a second in bfloat16 or float16 with float32 sums.
        float32: FLOP a second in float32, without TF32.
    """

    memory: float
    bf16: float
    float32: float


GPUS: Mapping[str, Gpu] = {
    name: Gpu(memory * 1e9, half * 1e12, single * 1e12)
    for name, memory, half, single in (
        ("b200", 180, 2250, 75),
        ("h200", 141, 989, 67),
        ("h100", 80, 989, 67),
        ("a100", 80, 312, 19.5),
        ("a100-40", 40, 312, 19.5),
        ("l40s", 48, 362, 91.6),
        ("v100", 32, 125, 15.7),
        ("rtx-4090", 24, 165, 82.6),
        ("rtx-3090", 24, 71, 35.6),
    )
}


class Activations(NamedTuple):
    """Bytes that are kept between the forward and the backward pass of a micro-batch.

    Args:
        fixed: Whatever its size: weights in the precision of the products.
        each: For every image.
    """

    fixed: float
    each: float

    def of(self, images: int) -> float:
        """Bytes of a micro-batch."""
        return self.fixed + images * self.each


class Pass(NamedTuple):
    """A training pass forward and backward.

    Args:
        activations: Bytes kept in between.
        flop: Floating-point operations of one image: matrix products, convolutions and attention.
    """

    activations: Activations
    flop: float


class Fit(NamedTuple):
    """A way to cut the batch that fits.

    Args:
        recompute: Whether activations must be computed twice (``training.recompute``).
        accumulate: Micro-batches a step on each GPU.
        images: Images of a micro-batch.
        memory: Bytes a GPU.
    """

    recompute: bool
    accumulate: int
    images: int
    memory: float


@dataclass(frozen=True)
class Estimate:
    """Counts of one recipe; all are of the recipe's own batches, masks and precision.

    Args:
        recipe: What is trained.
        parameters: Numbers in the network and its objective.
        held: Bytes a GPU holds from the first step to the last, by what they are for.
        kept: Pass that keeps its activations.
        recomputed: Pass that computes each block's activations twice.
    """

    recipe: Recipe
    parameters: int
    held: dict[str, int]
    kept: Pass
    recomputed: Pass

    def on(self, gpus: int) -> dict[str, float]:
        """Bytes a GPU holds, with the buckets in which several exchange gradients."""
        buckets = {"exchange": float(self.held["gradients"])} if gpus > 1 else {}
        return {**self.held, **buckets}

    def fit(self, gpus: int, memory: float) -> Fit:
        """The fewest micro-batches that fit, first without recomputing.

        Args:
            gpus: that share the batch equally.
            memory: bytes of one.

        Raises:
            InputError: the batch does not divide among the GPUs, or not one image fits.
        """
        batch = self.recipe.training.batch_size
        if batch % gpus:
            raise InputError(
                f"a batch of {batch} does not divide among {gpus} GPUs; choose a multiple of "
                f"{gpus} (--training.batch-size)"
            )
        share, room = batch // gpus, (1 - SPARE) * memory - sum(self.on(gpus).values())
        ways = [
            Fit(recompute, parts, images, sum(self.on(gpus).values()) + found)
            for recompute, counted in ((False, self.kept), (True, self.recomputed))
            for parts in range(1, share + 1)
            for images in [-(-share // parts)]
            for found in [counted.activations.of(images)]
            if found <= room
        ]
        if not ways:
            least = self.recomputed.activations.of(1) + sum(self.on(gpus).values())
            raise InputError(
                f"{self.recipe.name} needs {least / 1e9:.1f} GB for one image a GPU, and "
                f"{(1 - SPARE) * memory / 1e9:.1f} GB are there; choose a larger GPU or network"
            )
        # recomputing costs a third more time, and micro-batches of 8 images or more nearly none
        return min(
            ways, key=lambda way: (way.recompute or way.images < min(8, share), way.accumulate)
        )


def estimate(recipe: Recipe) -> Estimate:
    """Count a recipe's training on tensors without memory.

    Args:
        recipe: what would be trained. Its batches are drawn as in a training, from blank data.

    Raises:
        InputError: a recipe that trains an adapter needs its base, which is not counted.
    """
    with skeleton():  # first, so that tables which are kept for good hold numbers
        objective = objective_of(recipe, recipe.network.build())
    held = state_bytes(objective, recipe.training)
    parameters = sum(weight.numel() for weight in objective.parameters())
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model = recipe.network.build().train()
        objective = objective_of(recipe, model)
    kept = _pass(recipe, objective, mode)
    recompute_blocks(model)
    return Estimate(recipe, parameters, held, kept, _pass(recipe, objective, mode))


def _pass(recipe: Recipe, objective: nn.Module, mode: FakeTensorMode) -> Pass:
    few, more = (_counted(recipe, objective, mode, images) for images in (FEW, MORE))
    each = min((more[0] - few[0]) / (MORE - FEW), more[0] / MORE)
    return Pass(Activations(more[0] - MORE * each, each), more[1] / MORE)


def _counted(
    recipe: Recipe, objective: nn.Module, mode: FakeTensorMode, images: int
) -> tuple[float, float]:
    """Bytes kept and operations of a micro-batch."""
    own = {weight.untyped_storage()._cdata for weight in objective.parameters()}
    found: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        """Note the memory behind what is kept, once."""
        storage = tensor.untyped_storage()
        found[storage._cdata] = storage
        return tensor

    batch = tree_map(
        lambda value: mode.from_tensor(value) if isinstance(value, Tensor) else value,
        _batch(recipe, images),
    )
    half = recipe.training.precision != "no"
    with mode, FlopCounterMode(display=False) as counter, saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = objective(batch)["loss"]
        loss.backward()
    objective.zero_grad(set_to_none=True)
    kept = sum(storage.nbytes() for key, storage in found.items() if key not in own)
    return kept, counter.get_total_flops()


def _batch(recipe: Recipe, images: int) -> Any:
    """The first micro-batch of a training with so many images a step."""
    training = replace(recipe.training, batch_size=images, accumulate=1, micro_batch_size=None)
    cache = _Blank(images, recipe.network.length, getattr(recipe.network, "channels", 0))
    batches = batches_of(replace(recipe, training=training), cache)
    return cast(Any, batches)[0][0]


class _Blank:
    """A cache of images that hold nothing."""

    views = 2

    def __init__(self, images: int, length: int, channels: int) -> None:
        self.labels = torch.zeros(images, dtype=torch.long)
        self.length, self.channels = length, channels

    def __len__(self) -> int:
        return len(self.labels)

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(n, L)`` or ``(n, L, C)``, as a cache has them."""
        return torch.zeros(len(rows), self.length, dtype=torch.long) if noise is None else noise


def sampling_flop(recipe: Recipe, plan: Plan) -> float:
    """Operations of one image that a plan decodes; of its pixels none.

    Where an encoder sees known tokens alone, one number of them stands for up to eight.

    Args:
        recipe: with the network.
        plan: any that fits it.
    """
    with skeleton():
        recipe.network.build()
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = recipe.network.build().eval().requires_grad_(False)
    again: list[float] = []

    def hidden_shape(canvas: Canvas, labels: Tensor | None, read: Tensor | None = None) -> Hashable:
        """What decides the operations of the network."""
        seen = None if canvas.kept is None else canvas.kept.shape[1] // MORE
        return len(canvas.masked), seen, None if read is None else read.shape

    def read_shape(reading: Reading, *others: object) -> Hashable:
        """What decides the operations of the head."""
        return reading.strong.shape, len(reading.weak)

    for part, name, shape in ((model, "hidden", hidden_shape), (model.head, "draw", read_shape)):
        setattr(part, name, _counted_once(getattr(part, name), shape, again))
    labels = torch.zeros(MORE, dtype=torch.long) if recipe.network.classes else None
    canvas = blank_canvas(MORE, model.length, channels=model.channels)
    draws = Draws(range(MORE), device=canvas.masked.device)
    with FlopCounterMode(display=False) as counter:
        for _ in decode(model, labels, plan, draws, canvas):
            pass
    return (counter.get_total_flops() + sum(again)) / MORE


def _counted_once(
    call: Callable[..., Any], shape: Callable[..., Hashable], again: list[float]
) -> Callable[..., Any]:
    """The call, which computes once for each shape; ``again`` gets what later ones would cost."""
    known: dict[Hashable, tuple[float, Any]] = {}

    def counted(*arguments: Any) -> Any:
        """The result for arguments of this shape."""
        key = shape(*arguments)
        if key in known:
            again.append(known[key][0])
        else:
            with FlopCounterMode(display=False) as counter:
                result = call(*arguments)
            known[key] = counter.get_total_flops(), result
        return known[key][1]

    return counted


class EncodedView(NamedTuple):
    """What a tokenizer makes of one view of an image."""

    bytes: int
    """Bytes in a latent cache."""
    flop: float
    """Operations."""


def encoding(recipe: Recipe, build: Callable[[], ImageTokenizer]) -> EncodedView:
    """Count the encoding of the recipe's images.

    Args:
        recipe: with the size of the images.
        build: makes its tokenizer; it is called where nothing is allocated.
    """
    with skeleton(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        tokenizer = build().eval()
        size = height_width(recipe.image_size)
        stored = tokenizer.infer(torch.zeros(MORE, tokenizer.image_channels, *size))
    codes = not stored.is_floating_point()  # two bytes each in a cache
    each = stored.numel() * (2 if codes else stored.element_size()) // MORE
    return EncodedView(each, counter.get_total_flops() / MORE)
