"""Linear probe: what a frozen encoder's features say about classes (MAGE, ``main_linprobe.py``)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.batches import StoredBatches
from unmask.probe.classifier import TokenClassifier, build_head, initialize_head
from unmask.probe.encoder import initialize_encoder
from unmask.probe.lars import LARS
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.run import Bench, LabelledData, Outcome
from unmask.probe.settings import ProbeOptions
from unmask.probe.subject import Subject

PIXELS = 32  # most pixels a side that the baseline of pixels reads
ROWS = 256  # features computed at a time


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


def pixel_features(images: Tensor) -> Tensor:
    """``(B, C, H, W)`` averaged to at most 32x32 and flattened."""
    return F.adaptive_avg_pool2d(images, min(PIXELS, images.shape[-1])).flatten(1)


def probe(subject: Subject, data: LabelledData, options: ProbeOptions, *, out: Path) -> Outcome:
    """Train a linear classifier on frozen features; continues by itself what ``out`` holds.

    Raises:
        InputError: see :class:`unmask.probe.run.Bench` and :func:`unmask.train.loop.train`.
    """
    if options.baseline == "random":
        initialize_encoder(subject.encoder, keyed_generator(options.seed, "weights"))
    bench, pixels = Bench(subject, data, options, out=out), options.baseline == "pixels"
    if pixels and data.cache is not None:
        raise InputError("the baseline of pixels reads images; leave --cache out")
    encoder = bench.encoder.requires_grad_(False)
    encode, noisy = None if data.cache else bench.encode, options.embedding_dropout
    represent: Represent = pixel_features if pixels else Frozen(encoder, encode, noisy=noisy)
    still: Represent = pixel_features if pixels else Frozen(encoder, bench.encode, noisy=False)
    batches = bench.batches()
    if isinstance(batches.inputs, StoredBatches) and not noisy:
        precompute(batches.inputs, represent, bench.state.device)
        represent = nn.Identity()
    width = bench.channels * min(PIXELS, bench.size) ** 2 if pixels else encoder.sizes.width
    head = build_head(width, len(bench.names), normed=True)
    initialize_head(head, keyed_generator(options.seed, "head"))
    objective = ClassifierObjective(
        head,
        represent,
        batch_size=options.batch_size,
        optimizer=lambda settings: LARS(
            head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        ),
    )
    save = None if pixels else bench.saver(TokenClassifier(encoder, head))
    return bench.run(objective, batches, bench.held_out(still), out=out, save=save)


@torch.no_grad()
def precompute(inputs: StoredBatches, represent: Represent, device: torch.device) -> None:
    """Replace stored codes by their features, in every view, once for the whole run."""
    rows = torch.arange(len(inputs.labels))
    views = [
        torch.cat(
            [
                represent(inputs.lookup(part, torch.full_like(part, view)).to(device)).cpu()
                for part in rows.split(ROWS)
            ]
        )
        for view in range(inputs.views)
    ]
    table = torch.stack(views, 1)  # (N, views, D)
    inputs.lookup = lambda rows, views: table[rows, views]
