"""From seeds to images: batches, canvases and the tokenizer around the decode loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, TypedDict, TypeVar, Unpack

import torch
from torch import Tensor

from unmask.decode import Plan, blank_canvas, check_head, decode
from unmask.draws import Draws, Seeds, as_seeds, sent
from unmask.errors import InputError
from unmask.labels import Classes
from unmask.labels import class_labels as labels_of
from unmask.memory import fitting
from unmask.nn.model import MaskedModel
from unmask.tokenizers.tokenizer import Tokenizer
from unmask.types import Canvas, Step

if TYPE_CHECKING:
    from unmask.machine.compute import Compute, Precision

T = TypeVar("T")


class System(Protocol):
    """What generation needs: a network, its tokenizer and a default plan."""

    @property
    def model(self) -> MaskedModel:
        """The network, in evaluation mode."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Turns tokens into images; an InputError where there is none."""

    @property
    def plan(self) -> Plan:
        """The way to sample where none is given."""


class Options(TypedDict, total=False):
    """How to generate, beside the classes and seeds."""

    plan: Plan | None
    """Steps, order, guidance and draw; None means the system's own plan."""
    batch_size: int | Literal["auto"]
    """Images decoded at once, at least 1; 32 unless given. On a CPU it does not change them.
    "auto" takes what the device's memory holds, and fewer where that was too many."""
    run_seed: int
    """Seed of what all rows share (random counts); 0 unless given."""
    canvas: Canvas | None
    """``(len(seeds), L)``, partly known images to complete; None starts from nothing."""
    observe: Callable[[Step], None] | None
    """Called with every decoding step of every batch; None calls nothing."""
    compute: Precision | None
    """Arithmetic of the network: "float32", "tf32", "bf16" or "fp16". None takes the system's own
    (``Pipeline.compute``), and without one bf16 on a GPU that has it natively and else float32."""


class Tokens(NamedTuple):
    """Finished images as tokens.

    Args:
        tokens: ``(B, L)`` int64 ids, or ``(B, L, C)`` latents.
        class_labels: ``(B,)`` int64; None of an unconditional model.
        seeds: Seed of each image.
    """

    tokens: Tensor
    class_labels: Tensor | None
    seeds: list[int]


class Images(NamedTuple):
    """Finished images.

    Args:
        pixels: ``(B, C, H, W)`` float32 in [0, 1].
        tokens: ``(B, L)`` int64 ids, or ``(B, L, C)`` latents.
        class_labels: ``(B,)`` int64; None of an unconditional model.
        seeds: Seed of each image.
    """

    pixels: Tensor
    tokens: Tensor
    class_labels: Tensor | None
    seeds: list[int]


def generate(
    system: System, class_labels: Classes | None = None, *, seeds: Seeds, **options: Unpack[Options]
) -> Iterator[Images]:
    """Generate images, a batch at a time.

    An image depends on the weights, the plan, its class and its own seed. On a CPU neither
    ``batch_size`` nor its neighbours change a bit of it; kernels of other devices may round
    otherwise in a batch of another size.

    Args:
        system: network, tokenizer and default plan, for example a ``Pipeline``.
        class_labels: one an image, integers in [0, classes) or names; None for an unconditional
            model.
        seeds: integers, one an image, or the first of consecutive ones.
        **options: see :class:`Options`.

    Returns:
        Batches in the order of ``seeds``; the work is done as they are asked for.

    Raises:
        InputError: at once, see :func:`check_request`; a batch size below 1; a canvas of another
            shape; a system without a tokenizer. While the work is done: logits that are not
            finite, or a batch that memory does not hold.
    """
    tokenizer, grid = system.tokenizer, system.model.grid

    def pictured(batch: Tokens) -> Images:
        """The batch with its pixels."""
        return Images(decoded(tokenizer, batch.tokens, grid), *batch)

    return _batches(system, class_labels, pictured, seeds=seeds, **options)


def generate_tokens(
    system: System, class_labels: Classes | None = None, *, seeds: Seeds, **options: Unpack[Options]
) -> Iterator[Tokens]:
    """Generate tokens, a batch at a time; the system's tokenizer is not asked for.

    Arguments and errors are those of :func:`generate` and :class:`Options`.
    """
    return _batches(system, class_labels, lambda batch: batch, seeds=seeds, **options)


def _batches(
    system: System,
    class_labels: Classes | None,
    finished: Callable[[Tokens], T],
    *,
    seeds: Seeds,
    **options: Unpack[Options],
) -> Iterator[T]:
    """Finished batches, after a look at what is asked for."""
    plan, model, canvas = options.get("plan") or system.plan, system.model, options.get("canvas")
    chosen = None if class_labels is None else _labels(system, class_labels)
    asked = as_seeds(seeds, 1 if chosen is None else len(chosen))
    check_request(model, plan, chosen, asked)
    batch_size = options.get("batch_size", 32)
    if batch_size != "auto" and batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be at least 1")
    wanted = (len(asked), model.length)
    if canvas is not None and tuple(canvas.masked.shape) != wanted:
        raise InputError(
            f"the canvas is {tuple(canvas.masked.shape)}, wanted is {wanted}: a row a seed, "
            "a column a token"
        )
    device, compute = next(model.parameters()).device, compute_of(system, options.get("compute"))
    network = compute.twin(model)

    def made(rows: slice) -> T:
        """Some of the images."""
        batch = list(asked[rows])
        labels = None if chosen is None else sent(torch.tensor(chosen[rows]), device)  # (B,)
        if canvas is None:
            begun = blank_canvas(len(batch), model.length, device, channels=model.channels)
        else:
            begun = Canvas(canvas.tokens[rows].to(device), canvas.masked[rows].to(device))
        draws = Draws(batch, run_seed=options.get("run_seed", 0), device=device)
        observe = options.get("observe") or (lambda step: None)
        for step in _within(compute, decode(network, labels, plan, draws, begun)):
            observe(step)
        if step.unsound:  # looked at once, when the tokens are wanted anyway
            raise nonfinite_logits(model, plan.guidance.scales, compute.precision)
        return finished(Tokens(step.tokens, labels, batch))

    return fitting(made, len(asked), batch_size, each=_memory_of_one(model, plan), device=device)


def compute_of(system: System, wanted: Precision | None = None) -> Compute:
    """The arithmetic of a system's network.

    Args:
        system: whose attribute ``compute``, if it has one, says what is meant by None.
        wanted: see :class:`Options`.

    Raises:
        InputError: the device cannot compute so, or the weights are less precise.
    """
    from unmask.machine.compute import Compute

    return Compute.of(system.model, wanted or getattr(system, "compute", None))


def _within(compute: Compute, steps: Iterator[Step]) -> Iterator[Step]:
    """The steps, each in its arithmetic, which whoever takes them is not left in."""
    while True:
        with compute.region():
            step = next(steps, None)
        if step is None:
            return
        yield step


def _memory_of_one(model: MaskedModel, plan: Plan) -> int:
    """Bytes that an image takes while it is made, by its widest activation in eight copies."""
    widest = max(weight.shape[0] for weight in model.parameters() if weight.ndim > 1)
    branches = 1 + len(plan.guidance.scales)
    return 8 * 4 * model.length * widest * branches


def decoded(tokenizer: Tokenizer, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """``(B, C, H, W)`` pixels of finished tokens, the same for an image whatever B is.

    On CPUs torch chooses between ways to convolve by the number of images, and they round
    otherwise; so images are decoded two by two there, a last one alone twice.
    """
    if tokens.device.type != "cpu":
        return tokenizer.decode(tokens, grid)
    count = len(tokens)
    even = torch.cat([tokens, tokens[-1:]]) if count % 2 else tokens
    return torch.cat([tokenizer.decode(pair, grid) for pair in even.split(2)])[:count]


def check_request(
    model: MaskedModel, plan: Plan, class_labels: Sequence[int] | None, seeds: Sequence[int]
) -> None:
    """Refuse what cannot be generated, before any work.

    Raises:
        InputError: no seeds, steps above the token count, a plan for another head, guidance
            without a null class, labels missing, out of range or not one a seed.
    """
    if not len(seeds):
        raise InputError("no images asked for: give at least one seed")
    if plan.steps > model.length:
        raise InputError(
            f"steps={plan.steps} exceeds the {model.length} tokens of this model; "
            f"use at most {model.length}"
        )
    check_head(plan, codes=model.channels is None)
    _check_guidance(model, plan)
    if not model.classes:
        return
    if class_labels is None or len(class_labels) != len(seeds):
        given = "none" if class_labels is None else len(class_labels)
        raise InputError(f"{len(seeds)} seeds need {len(seeds)} class labels, got {given}")
    known = {*range(model.classes), model.null_class}
    wrong = [label for label in class_labels if label not in known]
    if wrong:
        raise InputError(f"class label {wrong[0]} is outside 0..{model.classes - 1}")


def _check_guidance(model: MaskedModel, plan: Plan) -> None:
    scales = plan.guidance.scales
    if "null" in scales and (model.null_class is None or not model.classes):
        raise InputError(
            f"guidance_scale={scales['null']} needs a model trained with label dropout; "
            "this one has no null class: use guidance_scale 1"
        )
    if "self" in scales and model.feedback is None:
        raise InputError(
            f"guidance_scale={scales['self']} of self-guidance needs a feedback adapter, which "
            "this model has none of: use guidance_scale 1 or weak='null'"
        )


def _labels(system: System, class_labels: Classes) -> list[int]:
    """Class labels as a system with names reads them; other systems know classes by number."""
    if not system.model.classes:
        raise InputError("this model is unconditional: leave out the class labels")
    if hasattr(system, "labels"):
        return system.labels(class_labels)
    names = tuple(map(str, range(system.model.classes)))
    return labels_of(names, class_labels, system.model.null_class)


def nonfinite_logits(
    model: MaskedModel, scales: object, precision: Precision = "float32"
) -> InputError:
    """The error for a network whose probabilities are not numbers.

    Args:
        model: the network, whose weights tell whether they are the cause.
        scales: guidance scales by weak branch, named where the weights are sound.
        precision: arithmetic of the network; numbers beyond 65,504 are too large for fp16.

    Returns:
        One line with the likely cause and the way out.
    """
    bad = next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        return InputError(
            f"the network's logits are not finite, because its weight {bad!r} holds NaN or "
            "infinity: the training diverged or the file is damaged; use an earlier checkpoint, "
            "or train again with a lower learning rate"
        )
    return InputError(
        "the network's logits are not finite though its weights are: the plan's numbers are too "
        f"large for {precision} (guidance scales {scales or 'none'}); lower guidance_scale, raise "
        "the softmax temperature" + ", or compute in bf16" * (precision == "fp16")
    )
