"""MAGE-C's loss is the formula, on features of the encoder, for any number of processes."""

from __future__ import annotations

import math
import os
import socket
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor
from toy_mage import toy_generator

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.nn.model import initialize
from unmask.objectives.contrastive import ContrastiveObjective, info_nce
from unmask.objectives.masked import LocatedBatch, MaskedObjective
from unmask.recipes.objectives import Contrastive
from unmask.recipes.training import Training
from unmask.train.loop import accumulate_gradients
from unmask.train.masked_batches import TwoViewBatches
from unmask.types import Canvas

SMOOTHING = 0.1


def unit(*key: str) -> Tensor:
    return F.normalize(torch.randn(5, 7, generator=keyed_generator(*key)).double(), dim=-1)


def by_hand(first: Tensor, second: Tensor, tau: float, *, both: bool) -> float:
    """The sum over anchors, written out."""
    total = 0.0
    for one, two in ((first, second), (second, first)):
        for i, anchor in enumerate(one):
            likeness = [math.exp(float(anchor @ z) / tau) for z in two]
            same = [math.exp(float(anchor @ z) / tau) for j, z in enumerate(one) if j != i]
            total -= math.log(likeness[i] / (sum(likeness) + both * sum(same)))
    return total / (2 * len(first))


@pytest.mark.parametrize("tau", [0.2, 1.0])
@pytest.mark.parametrize("negatives", ["other", "both"])
def test_the_formula(tau: float, negatives: str) -> None:
    first, second = unit("one"), unit("two")
    found = info_nce(first, second, tau, negatives=negatives)
    assert float(found) == pytest.approx(by_hand(first, second, tau, both=negatives == "both"))
    swapped = info_nce(second, first, tau, negatives=negatives)
    assert float(swapped) == pytest.approx(float(found))


def test_equal_views_that_differ_from_all_others_cost_least() -> None:
    views = torch.eye(5)
    expected = math.log1p(4 * math.exp(-1 / 0.2))
    assert float(info_nce(views, views, 0.2)) == pytest.approx(expected)
    assert float(info_nce(views, views.roll(1, 0), 0.2)) == pytest.approx(expected + 1 / 0.2)
    assert float(info_nce(views[:1], views[1:2], 0.2)) == 0.0  # one image has nobody to differ from


class Codes:
    """Sixteen images of random codes, in two views."""

    labels = torch.full((16,), -1)
    channels, length, views = 0, 16, 2

    def __len__(self) -> int:
        return 16

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        table = torch.randint(16, (16, 2, 16), generator=keyed_generator("codes"))
        return table[rows, views]


def objective(options: Contrastive) -> ContrastiveObjective:
    """Of a toy without dropout, so that processes need not draw alike."""
    model = toy_generator().model
    initialize(model, keyed_generator("weights"))
    made = ContrastiveObjective(
        model,
        options,
        generator=keyed_generator("projection"),
        batch_size=8,
        label_smoothing=SMOOTHING,
    )
    return made.eval()


def batches(*, accumulate: int = 1, rank: int = 0, world: int = 1) -> list[LocatedBatch]:
    training = Training(steps=1, batch_size=8, accumulate=accumulate)
    masking = toy_generator().recipe.masking
    every = TwoViewBatches(Codes(), masking, training=training, classes=0, rank=rank, world=world)
    return every[0]


@pytest.mark.parametrize("pool", ["image", "all"])
def test_the_loss_is_of_both_views_and_between_their_mean_features(pool: str) -> None:
    options = Contrastive(pool=pool, hidden=9, outputs=5, weight=0.3)
    made, (located,) = objective(options), batches()
    values = made(located)
    plain = MaskedObjective(made.averaged, label_smoothing=SMOOTHING).eval()
    torch.testing.assert_close(values["masked"], plain(located)["loss"])
    tokens, masked, _, _, kept = located.batch
    x, _ = made.averaged.embed(Canvas(tokens, masked))
    seen = torch.cat([x[:, :1], torch.stack([x[i, 1 + at] for i, at in enumerate(kept)])], 1)
    encoded = made.averaged.trunk.encode(seen, masked)
    mean = encoded.mean(1) if pool == "all" else encoded[:, 1:].mean(1)
    z = F.normalize(made.project(mean), dim=-1).detach()
    wanted = 0.3 * by_hand(z[:8], z[8:], 0.2, both=False)
    assert values["contrast"].item() == pytest.approx(wanted, rel=1e-5)
    assert values["loss"].item() == pytest.approx((values["masked"] + values["contrast"]).item())


def test_half_of_the_masked_loss_is_each_views() -> None:
    (located,) = batches()
    tokens, masked, _, weight, _ = located.batch
    counts = masked.sum(1)
    assert len(tokens) == 16
    for half in (slice(8), slice(8, 16)):
        assert float((weight * counts)[half].sum()) == pytest.approx(0.5)
        assert len(counts[half].unique()) == 1


def test_the_weight_scales_the_term_and_its_gradient() -> None:
    found = []
    for weight in (0.1, 0.2):
        made, (located,) = objective(Contrastive(weight=weight)), batches()
        values = made(located)
        values["contrast"].backward()
        found.append((values["contrast"].item(), made.project[0].weight.grad))
    assert found[1][0] == pytest.approx(2 * found[0][0])
    torch.testing.assert_close(found[1][1], 2 * found[0][1])


def gradients(accumulate: int, accelerator: Accelerator) -> dict[str, Tensor]:
    """What one step's backward leaves, and what it reports."""
    made = objective(Contrastive(hidden=8, outputs=4))
    parts = batches(
        accumulate=accumulate, rank=accelerator.process_index, world=accelerator.num_processes
    )
    values = accumulate_gradients(accelerator.prepare_model(made), parts, accelerator)
    values = {name: accelerator.reduce(value, "sum") for name, value in values.items()}
    return values | {name: p.grad for name, p in made.named_parameters() if p.grad is not None}


def one_of_two(rank: int, port: int, out: Path) -> None:
    """One process of a gloo group, as a launcher would start it."""
    for name in ("RANK", "LOCAL_RANK"):
        os.environ[name] = str(rank)
    os.environ.update(WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    for accumulate in (1, 2):
        torch.save(gradients(accumulate, Accelerator(cpu=True)), out / f"{rank}-{accumulate}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_see_the_negatives_of_both(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (port, tmp_path), nprocs=2)
    for accumulate in (1, 2):
        one = gradients(accumulate, Accelerator(cpu=True))
        assert one["averaged.trunk.encoder.0.attention.qkv.weight"].abs().max() > 1e-4
        for rank in (0, 1):
            two = torch.load(tmp_path / f"{rank}-{accumulate}.pt", weights_only=True)
            assert two.keys() == one.keys()
            for name, value in one.items():
                torch.testing.assert_close(two[name], value, atol=1e-6, rtol=1e-4)
    alone, parts = (gradients(n, Accelerator(cpu=True))["contrast"] for n in (1, 2))
    assert not torch.isclose(alone, parts)  # fewer negatives in each part


def test_a_smaller_micro_batch_counts_by_its_images() -> None:
    made = objective(Contrastive(hidden=8, outputs=4, weight=0.5))
    training = Training(steps=1, batch_size=8, micro_batch_size=3)
    masking = toy_generator().recipe.masking
    parts = TwoViewBatches(Codes(), masking, training=training, classes=0)[0]
    assert [len(part.batch.tokens) for part in parts] == [6, 6, 4]
    for part in parts:
        size = len(part.batch.tokens) // 2
        alone = ContrastiveObjective(
            made.averaged, made.options, generator=keyed_generator("projection"), batch_size=size
        ).eval()
        torch.testing.assert_close(
            made(part)["contrast"], alone(part)["contrast"] * size / 8, atol=1e-6, rtol=1e-5
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -0.1}, r"contrastive\.weight=-0\.1 must be at least 0"),
        ({"temperature": 0.0}, r"contrastive\.temperature=0\.0 must be at least 1e-06"),
        ({"outputs": 0}, r"contrastive\.outputs=0 must be at least 1"),
        ({"weight": math.nan}, r"contrastive\.weight=nan"),
    ],
)
def test_numbers_that_no_loss_has(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Contrastive(**options)
