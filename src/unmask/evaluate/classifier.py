"""A small convolutional classifier that tells whether conditional samples show their class.

It is trained on real images only, so that its accuracy on samples measures the sampler; its own
accuracy on held-out real images is stored beside the weights, because that is the ceiling.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from unmask.checkpoints.store import load_state, single
from unmask.checkpoints.write_tensors import write_tensors
from unmask.data.batches import epoch_rows
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.scores import check_labels, class_accuracy
from unmask.files.damage import reason
from unmask.files.durable import output
from unmask.files.json_files import parse_json
from unmask.memory import skeleton
from unmask.pictures import to_float
from unmask.ranges import Between, Ranged, Seed

LAST_GRID = 7  # the network halves the image until about this many rows are left


class Refine(nn.Module):
    """``x + conv(relu(norm(x)))``, shape kept."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, D, H, W)`` to the same."""
        return x + self.conv(F.relu(self.norm(x)))


class ConvClassifier(nn.Module):
    """Halving convolutions, each refined once, then an average over the picture.

    Args:
        channels: C of the images.
        classes: K.
        size: shorter side of the images in pixels; decides how often they are halved.
    """

    def __init__(self, *, channels: int, classes: int, size: int) -> None:
        super().__init__()
        stages = max(1, round(math.log2(size / LAST_GRID)))
        widths = [channels, *(min(32 << stage, 128) for stage in range(stages))]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            kernel = 3 if layers else 5
            layers.append(nn.Conv2d(before, after, kernel, stride=2, padding=kernel // 2))
            layers.append(Refine(after))
        self.layers = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(widths[-1])
        self.out = nn.Linear(widths[-1], classes)

    def init_weights(self, generator: torch.Generator) -> None:
        """He-normal convolutions and a zero last layer, drawn from ``generator`` alone."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.weight)
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` float in [0, 1] to logits ``(B, K)``."""
        x = self.layers(images * 2 - 1)
        return self.out(F.relu(self.norm(x)).mean((2, 3)))


@dataclass(frozen=True, kw_only=True)
class ClassifierTraining(Ranged):
    """How a classifier is trained; batch k is a pure function of (seed, k)."""

    epochs: Annotated[int, Between(1, 10**6)] = 8
    """Passes over the images."""
    batch_size: Annotated[int, Between(2, 10**6)] = 128
    """Images a step."""
    lr: Annotated[float, Between(above=0, at_most=1000)] = 4e-3
    """Peak learning rate of AdamW's one-cycle schedule."""
    weight_decay: Annotated[float, Between(0, 1000)] = 0.02
    """Decoupled weight decay of AdamW."""
    label_smoothing: Annotated[float, Between(0, below=1)] = 0.05
    """Share of the target spread over all classes."""
    shift: Annotated[int, Between(0, 1000)] = 1
    """Largest random shift in pixels."""
    flip: bool = True
    """Mirror half of the images; wrong for digits and letters."""
    blur: Annotated[float, Between(0, 1)] = 0.5
    """Largest share of a 3x3 average mixed in, as a tokenizer blurs."""
    noise: Annotated[float, Between(0, 1)] = 0.05
    """Largest standard deviation of added noise, of the range [0, 1]."""
    seed: Seed = 0
    """Seed of initial weights, order and augmentation."""


@dataclass(frozen=True, kw_only=True)
class TrainedClassifier:
    """A classifier with what must be said whenever it is used.

    Args:
        network: Trained network, in evaluation mode.
        name: Name of the classifier in reports.
        channels: Channels of the images that it reads.
        size: Height and width in pixels of the images that it reads.
        classes: Number of classes.
        accuracy: Share of held-out real images that it names rightly; NaN when unknown.
        tested_on: Number of held-out real images behind the accuracy; 0 when unknown.
        note: Training data, date and whatever else a reader needs.
    """

    network: ConvClassifier
    name: str
    channels: int
    size: tuple[int, int]
    classes: int
    accuracy: float = math.nan
    tested_on: int = 0
    note: str = ""

    def logits(self, images: Tensor) -> Tensor:
        """Scores of a uint8 batch.

        Args:
            images: ``(B, C, H, W)`` uint8 of the classifier's own shape.

        Returns:
            ``(B, K)`` float32.

        Raises:
            InputError: for images of another shape.
        """
        expected = (self.channels, *self.size)
        if tuple(images.shape[1:]) != expected:
            raise InputError(
                f"images of shape {tuple(images.shape[1:])} for the classifier {self.name!r}, "
                f"which reads {expected}; resize them or train a classifier on this size"
            )
        with torch.inference_mode():
            weight = self.network.out.weight
            return self.network(images.to(weight.device, weight.dtype) / 255).float()

    def save(self, path: Path | str) -> None:
        """Write float16 weights with the facts as metadata, a safetensors file."""
        facts = {f: getattr(self, f) for f in self.__dataclass_fields__ if f != "network"}
        with output(Path(path)) as aside:
            facts_text = {"classifier": json.dumps(facts)}
            write_tensors(aside, self.network.state_dict(), facts_text, half=True)

    def describe(self) -> str:
        """Name and accuracy on real images in one line, as reports quote it."""
        if not self.tested_on:
            return f"{self.name} (accuracy on real images unknown)"
        return f"{self.name} ({self.accuracy:.4f} on {self.tested_on:,} real test images)"


def load_classifier(path: Path | str) -> TrainedClassifier:
    """Read what :meth:`TrainedClassifier.save` wrote, as float32 on the CPU.

    Raises:
        InputError: for a missing file or one of another kind.
    """
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get("classifier", "null")
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise InputError(f"cannot read the classifier {path}: {problem}") from None
    facts = parse_json(text, f"what {path} says of itself")
    if facts is None:
        raise InputError(f"{path} holds no classifier; write one with TrainedClassifier.save")
    try:
        return _trained(facts, state)
    except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as problem:
        said = reason(problem)
        raise InputError(f"{path} is no whole classifier: {said}; save it again") from None


def _trained(facts: Any, state: dict[str, Tensor]) -> TrainedClassifier:
    """The classifier of what a file says and holds; it raises what the wrong kinds of values do."""
    facts = facts | {"size": tuple(facts["size"])}
    with skeleton():
        network = ConvClassifier(
            channels=facts["channels"], classes=facts["classes"], size=min(facts["size"])
        )
    load_state(network, {name: single(name, tensor) for name, tensor in state.items()})
    return TrainedClassifier(network=network.eval(), **facts)


def load_fashion_classifier() -> TrainedClassifier:
    """The classifier of 28x28 grey Fashion-MNIST images that ships with the package.

    ``examples/train_fashion_classifier.py`` made it from the 60,000 training images.
    """
    with as_file(files("unmask") / "assets" / "fashion_classifier.safetensors") as path:
        return load_classifier(path)


def augmented(images: Tensor, options: ClassifierTraining, generator: torch.Generator) -> Tensor:
    """Shifted, mirrored, softened and noisy copies.

    Args:
        images: ``(B, C, H, W)`` float in [0, 1], on the CPU.
        options: the amounts.
        generator: the only randomness, on the CPU.

    Returns:
        The same shape, within [0, 1].
    """
    batch, _, height, width = images.shape
    shift, columns = options.shift, torch.arange(width)
    corner = torch.randint(0, 2 * shift + 1, (2, batch, 1), generator=generator)
    mirrored = torch.rand(batch, 1, generator=generator) < 0.5 * options.flip
    amounts = torch.rand(2, batch, 1, 1, 1, generator=generator)
    noise = torch.randn(images.shape, generator=generator)
    rows = corner[0] + torch.arange(height)  # (B, H)
    columns = corner[1] + torch.where(mirrored, columns.flip(0), columns)  # (B, W)
    padded = F.pad(images, [shift] * 4, mode="replicate").permute(0, 2, 3, 1)
    moved = padded[torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :]]
    moved = moved.permute(0, 3, 1, 2)  # (B, C, H, W)
    soft = F.avg_pool2d(moved, 3, 1, padding=1, count_include_pad=False)
    blurred = moved.lerp(soft, amounts[0] * options.blur)
    return (blurred + noise * amounts[1] * options.noise).clamp(0, 1)


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    classes: int,
    options: ClassifierTraining | None = None,
    name: str = "classifier",
    device: torch.device | str = "cpu",
) -> TrainedClassifier:
    """Train a classifier on real, labelled images.

    Args:
        images: ``(N, C, H, W)`` uint8.
        labels: ``(N,)`` int64 in [0, classes).
        classes: K.
        options: defaults suit small pictures of objects.
        name: what reports call it.
        device: where to train.

    Returns:
        The classifier, its accuracy unknown: :func:`with_test_accuracy` measures it.

    Raises:
        InputError: for labels out of range or of another number than the images.
    """
    options = options or ClassifierTraining()
    if images.dtype != torch.uint8 or images.ndim != 4 or len(images) < 2:
        raise InputError(
            f"images of shape {tuple(images.shape)}, {images.dtype}: a classifier needs at least "
            "2 uint8 images as (N, C, H, W)"
        )
    check_labels(labels, len(images), classes)
    _, channels, height, width = images.shape
    network = ConvClassifier(channels=channels, classes=classes, size=min(height, width))
    network.init_weights(keyed_generator(options.seed, "classifier weights"))
    network.to(device).train()
    torch.nn.utils.convert_conv2d_weight_memory_format(network, torch.channels_last)
    batch = min(options.batch_size, len(images))
    steps = len(images) // batch * options.epochs
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=options.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.lr, total_steps=steps)
    for step in range(steps):
        rows = epoch_rows(len(images), batch, options.seed, step)
        draws = keyed_generator(options.seed, "augment", step)
        pixels = augmented(to_float(images[rows]), options, draws).to(device)
        scores = network(pixels.contiguous(memory_format=torch.channels_last))
        truth, smoothing = labels[rows].to(device), options.label_smoothing
        optimizer.zero_grad()
        F.cross_entropy(scores, truth, label_smoothing=smoothing).backward()
        optimizer.step()
        schedule.step()
    return TrainedClassifier(
        network=network.eval(), name=name, channels=channels, size=(height, width), classes=classes
    )


def with_test_accuracy(
    classifier: TrainedClassifier, images: Tensor, labels: Tensor
) -> TrainedClassifier:
    """A classifier with its accuracy on held-out real images filled in.

    Args:
        classifier: as :func:`train_classifier` returns it.
        images: ``(N, C, H, W)`` uint8 that it was not trained on.
        labels: ``(N,)`` int64.

    Raises:
        InputError: for labels out of range or of another number than the images.
    """
    logits = torch.cat([classifier.logits(part).cpu() for part in images.split(500)])
    return replace(classifier, accuracy=class_accuracy(logits, labels), tested_on=len(images))
