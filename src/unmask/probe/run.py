"""Linear probe and fine-tuning from a model to a judged classifier, on the training loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.data.batches import ImageBatches
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.probe.batches import LabelledBatches, StoredBatches
from unmask.probe.classifier import (
    Saved,
    TokenClassifier,
    build_head,
    initialize_head,
    save_classifier,
)
from unmask.probe.encoder import fit_grid, initialize_encoder
from unmask.probe.extract import held_out
from unmask.probe.judge import LAST, EpochJudge, Score, score, scores
from unmask.probe.lars import LARS
from unmask.probe.layer_decay import layer_decay_groups
from unmask.probe.objective import ClassifierObjective, Represent
from unmask.probe.settings import Course, FinetuneOptions, ProbeOptions
from unmask.probe.subject import Subject
from unmask.recipes.serial import MADE_FROM, to_dict
from unmask.train.loop import train
from unmask.train.optim import adamw
from unmask.train.processes import launched
from unmask.train.settings import Training

PIXELS = 32  # most pixels a side that the baseline of pixels reads


@dataclass(frozen=True, kw_only=True)
class LabelledData:
    """What is learnt from and what is judged on."""

    train: ImageSource
    """Labelled images."""
    held_out: ImageSource
    """Others of the same classes."""
    cache: LatentCache | None = None
    """Codes of the training images, instead of tokenising them at every step."""
    workers: int = 0
    """Processes that prepare batches."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run came to."""

    best: float
    """Highest accuracy after an epoch."""
    best_epoch: int
    """Which, 1-based."""
    last: float
    """After the last one."""
    score: Score
    """The last one in full."""


class Frozen:
    """Features of an encoder that is not trained.

    Args:
        encoder: codes to features.
        encode: images to codes; None where the input is codes already.
        noisy: whether its dropout is on, as in the published probe.
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


def image_size(subject: Subject, options: Course) -> int:
    """Pixels a side, with the encoder made to take them.

    Raises:
        InputError: the size gives another grid than the trained one.
    """
    tokenizer, encoder = subject.tokenizer, subject.encoder
    size = options.image_size or encoder.sizes.grid[0] * tokenizer.stride
    fit_grid(encoder, tokenizer.grid(size), interpolate=options.interpolate)
    return size


def class_names(data: LabelledData, subject: Subject) -> tuple[str, ...]:
    """Of the data, which its parts must share.

    Raises:
        InputError: without labels, or where two parts differ.
    """
    names = tuple(data.train.class_names)
    if not names:
        raise InputError(f"{data.train.name} has no labels; a classifier needs them")
    others = [(data.held_out.name, tuple(data.held_out.class_names))]
    if data.cache is not None:
        others.append((f"the cache {data.cache.path}", tuple(data.cache.class_names)))
        length, grid = data.cache.length, subject.encoder.sizes.grid
        if length != grid[0] * grid[1]:
            raise InputError(
                f"the cache has {length} tokens an image, the encoder takes {grid[0]}x{grid[1]}; "
                "build another cache with --layout.image-size, or leave --cache out"
            )
    for name, found in others:
        if found != names:
            raise InputError(
                f"{name} has {len(found)} classes, {data.train.name} has {len(names)}; "
                "give two sides of one data set"
            )
    return names


def probe(subject: Subject, data: LabelledData, options: ProbeOptions, *, out: Path) -> Outcome:
    """Train a linear classifier on frozen features; continues by itself what ``out`` holds.

    Raises:
        InputError: see :func:`image_size`, :func:`class_names` and
            :func:`unmask.train.loop.train`.
    """
    size, names = image_size(subject, options), class_names(data, subject)
    device, channels = launched().device, subject.tokenizer.image_channels
    encoder, encode = subject.encoder.to(device), subject.tokenizer.to(device).encode
    if options.baseline == "random":
        initialize_encoder(encoder.cpu(), keyed_generator(options.seed, "weights"))
        encoder.to(device)
    encoder.requires_grad_(False)
    still: Represent = Frozen(encoder, encode, noisy=False)
    noisy: Represent = Frozen(
        encoder, None if data.cache else encode, noisy=options.embedding_dropout
    )
    width = encoder.sizes.width
    if options.baseline == "pixels":
        if data.cache is not None:
            raise InputError("the baseline of pixels reads images; leave --cache out")
        still = noisy = pixel_features
        width = channels * min(PIXELS, size) ** 2
    training = options.training(len(data.cache or data.train))
    inputs = _inputs(data, training, options.transform(size, channels))
    if isinstance(inputs, StoredBatches) and not options.embedding_dropout:
        table = _table(inputs, noisy, device)
        inputs.lookup, noisy = (lambda rows, views: table[rows, views]), nn.Identity()
    head = build_head(width, len(names), normed=True)
    initialize_head(head, keyed_generator(options.seed, "head"))
    objective = ClassifierObjective(
        head,
        noisy,
        batch_size=training.batch_size,
        optimizer=lambda settings: LARS(
            head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
        ),
    )
    examples = held_out(
        data.held_out, options.judged_transform(size, channels), still, device=device
    )
    model = None if options.baseline == "pixels" else TokenClassifier(encoder, head)
    judge = EpochJudge(
        model=head,
        examples=examples,
        names=names,
        out=out,
        epoch=training.preview_every,
        save=None if model is None else _saver(subject, model, names),
    )
    config = _config("probe", subject, data, options, training)
    return _run(objective, inputs, judge, training=training, config=config, workers=data.workers)


def finetune(
    subject: Subject, data: LabelledData, options: FinetuneOptions, *, out: Path
) -> Outcome:
    """Train encoder and head together; continues by itself what ``out`` holds.

    Raises:
        InputError: see :func:`probe`; mixing asked of codes, or a head of another number of
            classes.
    """
    size, names = image_size(subject, options), class_names(data, subject)
    device, channels = launched().device, subject.tokenizer.image_channels
    if data.cache is not None and options.mixing.on:
        raise InputError(
            "images are mixed before they are tokenised; with --cache give --mixing.mixup 0 "
            "--mixing.cutmix 0"
        )
    encode = subject.tokenizer.to(device).encode
    subject.encoder.set_drop_path(options.drop_path)
    model = TokenClassifier(subject.encoder, _head(subject, names, options))
    training = options.training(len(data.cache or data.train))
    inputs = _inputs(data, training, options.transform(size, channels))

    def optimizer(settings: Training) -> torch.optim.AdamW:
        groups = layer_decay_groups(
            model, layer_decay=options.layer_decay, weight_decay=settings.weight_decay
        )
        return adamw(groups, settings)

    objective = ClassifierObjective(
        model.requires_grad_(True),
        nn.Identity() if data.cache else encode,
        batch_size=training.batch_size,
        smoothing=options.smoothing,
        optimizer=optimizer,
    )
    examples = held_out(
        data.held_out, options.judged_transform(size, channels), encode, device=device
    )
    judge = EpochJudge(
        model=model,
        examples=examples,
        names=names,
        out=out,
        epoch=training.preview_every,
        save=_saver(subject, model, names),
    )
    config = _config("finetune", subject, data, options, training)
    return _run(objective, inputs, judge, training=training, config=config, workers=data.workers)
