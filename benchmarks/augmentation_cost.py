"""What random augmentation and mixing add to a fine-tuning step.

    python benchmarks/augmentation_cost.py [--images 16] [--threads 1] [--device cpu] [--report DIR]

A ViT-B with MAGE's tokenizer, at random weights, takes fine-tuning steps on 256x256 crops of random
pictures. Augmentation is what RandAugment adds to crop and flip, on one core; mixing what it adds
to the step. Limit: 10% of the step together, though a loader's workers hide the first.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import numpy as np
import torch
from common import parsed, parser, publish, seconds
from PIL import Image

from unmask.data.augment import Augment
from unmask.draws import keyed_generator
from unmask.pictures import to_float
from unmask.probe.encoder import (
    Encoder,
    EncoderSizes,
    TokenClassifier,
    build_head,
)
from unmask.probe.finetune import layer_decay_groups
from unmask.probe.mixing import Mixing, draw_mixing, mix, mix_targets, soft_targets
from unmask.probe.training import ClassifierObjective
from unmask.recipes.training import Training
from unmask.tokenizers.published import PUBLISHED
from unmask.train.optim import adamw

LIMIT, CLASSES = 0.10, 1000


def median_seconds(call: Callable[[int], object], device: torch.device, repeats: int) -> float:
    """Median time of a call, after one that is not counted."""
    return statistics.median(
        [seconds(lambda k=k: call(k), device) for k in range(repeats + 1)][1:]  # type: ignore[misc]
    )


def picture() -> Image.Image:
    """A smooth random picture of a usual size, so that no operation is trivially fast."""
    noise = torch.randint(256, (24, 32, 3), generator=keyed_generator("picture"))
    return Image.fromarray(noise.numpy().astype(np.uint8)).resize((500, 375), Image.BICUBIC)


def main() -> None:
    """Measure, print and write the report."""
    words = parser(__doc__)
    words.add_argument("--images", type=int, default=16)
    words.add_argument("--threads", type=int, default=1)
    words.add_argument("--device", default="cpu")
    options = parsed(words)
    torch.set_num_threads(options.threads)
    device, count, image = torch.device(options.device), options.images, picture()
    crops = Augment(size=256, crop="resized", flip=True, operations=0)
    changed = Augment(size=256, crop="resized", flip=True)
    plain, varied = (
        median_seconds(lambda k, t=t: t(image, keyed_generator(k)), torch.device("cpu"), 400)
        for t in (crops, changed)
    )
    encoder = Encoder(EncoderSizes())
    encoder.initialize(keyed_generator("weights"))
    encoder.set_drop_path(0.1)
    head = build_head(encoder.sizes.width, CLASSES, normed=False)
    model = TokenClassifier(encoder, head).to(device).train()
    tokenizer = PUBLISHED["mage-vqgan"].network.build().to(device).requires_grad_(False)
    settings = Training(steps=1, batch_size=count)
    groups = layer_decay_groups(model, layer_decay=0.65, weight_decay=0.05)
    optimizer = adamw(groups, settings)
    objective = ClassifierObjective(
        model, tokenizer.encode, batch_size=count, smoothing=0.1, optimizer=lambda _: optimizer
    )
    pixels = torch.stack([changed(image, keyed_generator(k)) for k in range(count)]).to(device)
    labels = torch.randint(CLASSES, (count,), generator=keyed_generator("labels")).to(device)

    def step(k: int) -> None:
        optimizer.zero_grad()
        objective((pixels, labels))["loss"].backward()
        optimizer.step()

    def mixing(k: int) -> None:
        plan = draw_mixing(Mixing(group=count), (256, 256), keyed_generator("mix", k))
        _, share = mix(to_float(pixels), type(plan)(*(part.to(device) for part in plan)))
        mix_targets(soft_targets(labels, CLASSES), share)

    whole, mixed = median_seconds(step, device, 3), median_seconds(mixing, device, 50)
    shares = [(varied - plain) * count / whole, mixed / whole]
    rows = [
        ["crop and flip", 1000 * plain * count, ""],
        ["RandAugment besides", 1000 * (varied - plain) * count, f"{shares[0]:.2%}"],
        ["mixing", 1000 * mixed, f"{shares[1]:.2%}"],
        ["step with tokenizer", 1000 * whole, ""],
    ]
    verdict = "within" if sum(shares) <= LIMIT else "OVER"
    note = (
        f"ViT-B, {count} images of 256x256 a step, {options.threads} threads, {device}. Medians. "
        f"RandAugment runs on one core, in a loader's workers. {verdict} the limit of {LIMIT:.0%}."
    )
    header = ["", "ms a step", "share of the step"]
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
