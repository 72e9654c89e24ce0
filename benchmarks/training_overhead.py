"""What the training loop costs beyond forward, backward, clipping, AdamW and average.

    python benchmarks/training_overhead.py [--steps 120] [--report DIR]

The loop trains a network of the demo's size. Each time it asks for a batch, the same step is taken
by hand on a twin network, so the two alternate within one run and share whatever else the machine
does. Logging is part of the loop; saving and samples are not. Limit: 5% by the median.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from common import parsed, parser, publish
from torch.profiler import profile
from torch.utils.data import Dataset

from unmask.draws import keyed_generator
from unmask.masking import TrainMasking
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.nn.model import initialize
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.recipes.training import Ema, Training
from unmask.train.log import Meter
from unmask.train.loop import optimise_step, train
from unmask.train.optim import EmaWeights, ema_decay, learning_rate, make_optimizer
from unmask.types import MaskedBatch

BATCH, CODES, LENGTH, CLASSES = 64, 512, 49, 10
WARM = 10  # first steps, not counted
LIMIT = 0.05


def demo_objective() -> MaskedObjective:
    """Width 128, depth 6, 49 tokens, 512 codes, dropout as trained."""
    network = MaskGITVitNetwork(
        codes=CODES, width=128, depth=6, heads=4, length=LENGTH, classes=CLASSES, dropout=0.1
    )
    model = network.build()
    initialize(model, keyed_generator("benchmark"))
    return MaskedObjective(model, label_smoothing=0.1).train()


def random_batch(step: int) -> LocatedBatch:
    """Random codes, masked as in training."""
    stream = keyed_generator("batch", step)
    tokens = torch.randint(CODES, (BATCH, LENGTH), generator=stream)
    masked = TrainMasking(rounding="up").draw(BATCH, LENGTH, stream).masked
    labels = torch.randint(CLASSES, (BATCH,), generator=stream)
    return locate(MaskedBatch(tokens, masked, labels, 1 / masked.sum().float()))


def bare_step(
    objective: MaskedObjective, settings: Training
) -> Callable[[int, LocatedBatch], None]:
    """The step written out with torch alone."""
    optimizer = make_optimizer(objective, settings)
    params = list(objective.parameters())
    shadow = [p.detach().clone() for p in params]

    def step(k: int, batch: LocatedBatch) -> None:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, k)
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(params, settings.clip_grad_norm)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(shadow, params, 1 - ema_decay(settings.ema, k + 1))

    return step


class Alternating(Dataset):
    """Times the bare step inside, and the loop's own step between two askings."""

    def __init__(self, bare: Callable[[int, LocatedBatch], None], steps: int) -> None:
        self.bare, self.steps = bare, steps
        self.batches = [random_batch(k) for k in range(8)]
        self.bare_times: list[float] = []
        self.loop_times: list[float] = []
        self.left: float | None = None

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, k: int) -> list[LocatedBatch]:
        arrived = time.perf_counter()
        if self.left is not None:
            self.loop_times.append(arrived - self.left)
        batch = self.batches[k % len(self.batches)]
        begun = time.perf_counter()
        self.bare(k, batch)
        self.bare_times.append(time.perf_counter() - begun)
        self.left = time.perf_counter()
        return [batch]


def count_operations(call: Callable[[], object]) -> int:
    """Torch operations of one call, nested ones included."""
    with profile() as record:
        call()
    return sum(event.count for event in record.key_averages() if event.key.startswith("aten::"))


def operations(settings: Training) -> tuple[int, int]:
    """Of the bare step and of the loop's step with its meter, each in its second call."""
    batch, accelerator = random_batch(0), Accelerator()
    twin, objective = demo_objective(), demo_objective()
    bare = bare_step(twin, settings)
    bare(0, batch)
    optimizer = accelerator.prepare_optimizer(make_optimizer(objective, settings))
    ema, meter = EmaWeights(objective.averaged, settings.ema), Meter()

    def whole(k: int) -> None:
        values = optimise_step(
            objective,
            [batch],
            optimizer=optimizer,
            settings=settings,
            step=k,
            accelerator=accelerator,
            ema=ema,
        )
        meter.add(values)

    whole(0)
    return count_operations(lambda: bare(1, batch)), count_operations(lambda: whole(1))


def main() -> None:
    """Measure, print and write the report."""
    words = parser(__doc__)
    words.add_argument("--steps", type=int, default=120)
    options = parsed(words)
    settings = Training(
        steps=options.steps, batch_size=BATCH, clip_grad_norm=1.0, ema=Ema(), log_every=25
    )
    objective = demo_objective()
    batches = Alternating(bare_step(copy.deepcopy(objective), settings), options.steps)
    with tempfile.TemporaryDirectory() as folder:
        train(objective, batches, settings=settings, out=Path(folder), config={})
    pairs = list(zip(batches.bare_times[WARM:], batches.loop_times[WARM:], strict=False))
    bare, loop = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    paired = statistics.median(b / a for a, b in pairs) - 1
    bare_ops, loop_ops = operations(settings)
    verdict = "within" if max(loop / bare - 1, paired) <= LIMIT else "OVER"
    rows = [
        ["bare step", bare, bare_ops, ""],
        ["loop step", loop, loop_ops, f"{loop / bare - 1:+.1%} (paired {paired:+.1%})"],
    ]
    note = (
        f"Medians of {len(pairs)} alternating pairs in one run after {WARM} warm-up steps; "
        f"width 128, depth 6, {LENGTH} tokens, {CODES} codes, batch {BATCH}. Paired: the median of "
        f"the ratios of neighbouring steps. {verdict} the limit of {LIMIT:.0%}."
    )
    header = ["", "ms a step", "torch operations", "overhead"]
    publish(options, rows, header=header, note=note)


if __name__ == "__main__":
    main()
