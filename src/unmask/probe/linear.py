"""Linear probe: what a frozen encoder's features say about classes (MAGE, ``main_linprobe.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.image_size import height_width
from unmask.probe.encoder import TokenClassifier, build_head, initialize_encoder, initialize_head
from unmask.probe.mixing import StoredBatches
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.run import Bench, LabelledData
from unmask.probe.settings import ProbeOptions
from unmask.probe.subject import Subject


class LARS(Optimizer):
    """Momentum whose step for a matrix is proportional to the matrix's own norm.

    Arxiv 1708.03888 as MAGE has it (``util/lars.py``, after MoCo v3): a gradient g of a tensor w
    with more than one dimension becomes ``(g + decay w) c |w| / |g + decay w|``, where the quotient
    is left out if either norm is 0; other tensors take plain momentum steps without decay.

    Args:
        params: what is trained.
        lr: learning rate.
        weight_decay: of tensors with more than one dimension.
        momentum: share of the last step that stays.
        trust: c.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        *,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        trust: float = 0.001,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "trust": trust}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step; nothing waits for the device."""
        assert closure is None, "the loss is computed before the step"
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._move(weight, group)

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        change = weight.grad
        assert change is not None, "the caller looks"
        if weight.ndim > 1:
            change = change.add(weight, alpha=group["weight_decay"])
            ours, theirs = weight.norm(), change.norm()
            ratio = group["trust"] * ours / theirs
            change = change * torch.where((ours > 0) & (theirs > 0), ratio, 1.0)
        state = self.state[weight]
        momentum = state.setdefault("momentum", torch.zeros_like(weight))
        momentum.mul_(group["momentum"]).add_(change)
        weight.sub_(momentum, alpha=group["lr"])


PIXELS = 32  # most pixels a side that the baseline of pixels reads


class Frozen:
    """Features of an encoder that is not trained.

    Args:
        encoder: codes to features.
        encode: images to codes; None where the input is codes already.
        noisy: whether its dropout is on, as it is in the published probe.
    """

    def __init__(self, encoder: nn.Module, encode: Represent | None, *, noisy: bool) -> None:
        self.encoder, self.encode, self.noisy = encoder, encode, noisy

    def __call__(self, inputs: Tensor) -> Tensor:
        """Images or codes to ``(B, D)``."""
        codes = inputs if self.encode is None else self.encode(inputs)
        return self.encoder.train(self.noisy)(codes)


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """What is left of an image for the baseline of pixels."""
    return min(PIXELS, height), min(PIXELS, width)


def pixel_features(images: Tensor) -> Tensor:
    """``(B, C, H, W)`` averaged to at most 32x32 and flattened."""
    return F.adaptive_avg_pool2d(images, pooled_size(*images.shape[-2:])).flatten(1)


def probe(
    subject: Subject,
    data: LabelledData,
    options: ProbeOptions,
    *,
    out: Path,
    from_scratch: bool = False,
) -> list[dict[str, float]]:
    """Train a linear classifier on frozen features; continues by itself what ``out`` holds.

    Args:
        subject: with the encoder.
        data: what is learnt from and what is judged on.
        options: how.
        out: the run folder.
        from_scratch: see :func:`unmask.train.loop.train`.

    Returns:
        The lines of ``accuracy.jsonl``, one an epoch.

    Raises:
        InputError: see :class:`unmask.probe.run.Bench` and its ``run``.
    """
    pixels, noisy = options.baseline == "pixels", options.embedding_dropout
    if pixels and data.cache is not None:
        raise InputError("the baseline of pixels reads images; leave --cache out")
    if options.baseline == "random":
        initialize_encoder(subject.model.encoder, keyed_generator(options.course.seed, "weights"))
    bench = Bench(subject, data, options.course)
    encoder = bench.encoder.requires_grad_(False)
    width = encoder.sizes.width
    if pixels:
        width = bench.channels * math.prod(pooled_size(*height_width(bench.size)))
    represent: Represent = Frozen(encoder, None if data.cache else bench.encode, noisy=noisy)
    if isinstance(bench.batches, StoredBatches) and not noisy:
        precompute(bench.batches, represent, bench.state.device)
        represent = nn.Identity()
    head = build_head(width, len(bench.names), normed=True)
    initialize_head(head, keyed_generator(options.course.seed, "head"))
    objective = ClassifierObjective(
        head,
        pixel_features if pixels else represent,
        batch_size=options.course.batch_size,
        optimizer=lambda settings: LARS(
            head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        ),
    )
    return bench.run(
        objective,
        bench.batches,
        pixel_features if pixels else Frozen(encoder, bench.encode, noisy=False),
        out=out,
        options=options,
        model=None if pixels else TokenClassifier(encoder, head),
        from_scratch=from_scratch,
    )


@torch.no_grad()
def precompute(batches: StoredBatches, represent: Represent, device: torch.device) -> None:
    """Replace stored codes by their features, in every view, once for the whole run."""
    rows, read = torch.arange(len(batches.labels)), batches.lookup
    table = torch.stack(
        [
            torch.cat([represent(read(r, r * 0 + view).to(device)).cpu() for r in rows.split(256)])
            for view in range(batches.views)
        ],
        dim=1,
    )  # (N, views, D)
    batches.lookup = lambda rows, views: table[rows, views]
