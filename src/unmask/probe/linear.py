"""Linear probe: what a frozen encoder's features say about classes (MAGE, ``main_linprobe.py``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.image_size import height_width
from unmask.machine.processes import dealt
from unmask.probe.classifier import Classifier
from unmask.probe.encoder import TokenClassifier, build_head, initialize_head
from unmask.probe.extract import Extractor
from unmask.probe.mixing import StoredBatches
from unmask.probe.settings import ProbeOptions
from unmask.probe.training import ClassifierObjective, ClassifierRun, LabelledData


class LARS(Optimizer):
    """Momentum whose step for a matrix is proportional to the matrix's own norm.

    Arxiv 1708.03888 as MAGE has it (``util/lars.py``, after MoCo v3): a gradient g of a tensor w
    with more than one dimension becomes ``(g + decay w) c |w| / |g + decay w|``, where the quotient
    is left out if either norm is 0; other tensors take plain momentum steps without decay.

    Args:
        params: what is trained.
        lr: learning rate.
        weight_decay: added to gradients of tensors with more than one dimension.
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
                if (change := weight.grad) is None:
                    continue
                if weight.ndim > 1:
                    change = change.add(weight, alpha=group["weight_decay"])
                    ours, theirs = weight.norm(), change.norm()
                    ratio = group["trust"] * ours / theirs
                    change = change * torch.where((ours > 0) & (theirs > 0), ratio, 1.0)
                momentum = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                momentum.mul_(group["momentum"]).add_(change)
                weight.sub_(momentum, alpha=group["lr"])


PIXELS = 32  # most pixels a side that the baseline of pixels reads


def frozen(encoder: nn.Module, encode: Extractor | None, *, dropout: bool = False) -> Extractor:
    """Images or codes to the ``(B, D)`` features of an encoder that is not trained.

    Args:
        encoder: codes to features.
        encode: images to codes; None where the input is codes already.
        dropout: whether its dropout is on, as it is in the published probe.
    """

    def _features(inputs: Tensor) -> Tensor:
        codes = inputs if encode is None else encode(inputs)  # (B, L)
        return encoder.train(dropout)(codes)  # (B, D)

    return _features


def pooled_size(height: int, width: int) -> tuple[int, int]:
    """Height and width that are left of an image for the baseline of pixels."""
    return min(PIXELS, height), min(PIXELS, width)


def pixel_features(images: Tensor) -> Tensor:
    """``(B, C, H, W)`` averaged to at most 32x32 and flattened."""
    return F.adaptive_avg_pool2d(images, pooled_size(*images.shape[-2:])).flatten(1)


def probe(
    classifier: Classifier,
    data: LabelledData,
    options: ProbeOptions,
    *,
    out: Path,
    from_scratch: bool = False,
) -> list[dict[str, float]]:
    """Train a linear classifier on frozen features; continues by itself what ``out`` holds.

    Args:
        classifier: with the encoder; a head that it has is not used.
        data: what is learnt from and what is judged on.
        options: how.
        out: the run folder.
        from_scratch: see :func:`unmask.train.loop.train`.

    Returns:
        The lines of ``accuracy.jsonl``, one an epoch.

    Raises:
        InputError: see :class:`unmask.probe.training.ClassifierRun`.
    """
    pixels, dropout = options.baseline == "pixels", options.embedding_dropout
    if pixels and data.cache is not None:
        raise InputError("the baseline of pixels reads images; leave --cache out")
    if options.baseline == "random":
        classifier.model.encoder.initialize(keyed_generator(options.seed, "weights"))
    run = ClassifierRun(classifier, data, options, out)
    encoder, width = run.encoder.requires_grad_(False), run.encoder.sizes.width
    learnt = frozen(encoder, None if data.cache else run.encode, dropout=dropout)
    judged = frozen(encoder, run.encode)
    if pixels:
        width = run.channels * math.prod(pooled_size(*height_width(run.size)))
        learnt = judged = pixel_features
    elif isinstance(run.batches, StoredBatches) and not dropout:
        precompute(run.batches, learnt, run.state.device)
        learnt = nn.Identity()
    head = build_head(width, len(run.names), normed=True)
    initialize_head(head, keyed_generator(options.seed, "head"))
    objective = ClassifierObjective(
        head,
        learnt,
        batch_size=options.batch_size,
        optimizer=lambda told: LARS(head.parameters(), lr=told.lr, weight_decay=told.weight_decay),
    )
    model = None if pixels else TokenClassifier(encoder, head)
    return run.train(objective, run.batches, judged, model=model, from_scratch=from_scratch)


@torch.no_grad()
def precompute(batches: StoredBatches, extractor: Extractor, device: torch.device) -> None:
    """Replace stored codes by their features, in every view, once for the whole run.

    The processes of the launcher share the work, and each has all of the features.
    """
    parts, read = torch.arange(len(batches.labels)).split(256), batches.lookup

    def _features(number: int) -> Tensor:
        views = (read(rows := parts[number], rows * 0 + view) for view in range(batches.views))
        return torch.stack([extractor(codes.to(device)).cpu() for codes in views], dim=1)

    table = torch.cat(list(dealt(len(parts), _features, together=True)))  # (N, views, D)
    batches.lookup = lambda rows, views: table[rows, views]
