"""On a real accelerator: what the CPU makes, without waiting; skipped where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import send_to_device
from toy_system import TOY, toy_pipeline, toy_tokenizer, write_images

from unmask import decode
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.draws import keyed_generator
from unmask.machine.devices import find_accelerator
from unmask.masking import TrainMasking
from unmask.objectives.masked import LocatedBatch, MaskedObjective, locate
from unmask.pipeline import load
from unmask.train.loop import optimise_step
from unmask.train.optim import make_optimizer
from unmask.types import MaskedBatch

DEVICE = find_accelerator()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE is None, reason="this machine has no accelerator"),
]


@contextmanager
def no_waits() -> Iterator[None]:
    """What makes the host wait for a CUDA device raises inside; other devices cannot tell."""
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("system", ["maskgit", "mage", "mar", "emigm", "selfguidance"])
def test_tokens_are_the_cpu_s_and_no_step_waits(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = load(f"fashion-{system}"), load(f"fashion-{system}", device="auto")
    labels = [0, 3, 5, 9] if here.model.classes else None
    wanted = here.tokens(labels, seeds=range(4), compute="float32").tokens
    there.tokens(labels, seeds=range(4), compute="float32")  # libraries wait in their first calls
    step = decode._Batch.advance

    def advance(*arguments: object) -> object:
        """A step that must not wait."""
        with no_waits():
            return step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(decode._Batch, "advance", advance)
    found = there.tokens(labels, seeds=range(4), compute="float32").tokens.cpu()
    if here.model.channels:
        torch.testing.assert_close(found, wanted, atol=5e-3, rtol=1e-3)
    else:  # a number that lies on the edge between two codes may fall to the other side
        assert (found == wanted).all(1).sum() >= 3


def batch_of(step: int) -> LocatedBatch:
    """Random codes of the toy system."""
    stream = keyed_generator("accelerator", step)
    tokens = torch.randint(16, (8, 16), generator=stream)
    masked = TrainMasking().draw(8, 16, stream).masked
    return locate(MaskedBatch(tokens, masked, torch.arange(8) % 3, 1 / masked.sum().float()))


def test_training_steps_are_the_cpu_s_and_do_not_wait() -> None:
    accelerator, losses = Accelerator(), []
    for device in ("cpu", DEVICE):
        objective = MaskedObjective(toy_pipeline().model.to(device)).train()
        optimizer, found = make_optimizer(objective, TOY.training), []
        for step in range(4):
            batch = send_to_device(batch_of(step), device)
            with no_waits() if step else nullcontext():  # libraries wait in their first calls
                values = optimise_step(
                    objective, [batch], optimizer=optimizer, settings=TOY.training, step=step,
                    accelerator=accelerator,
                )  # fmt: skip
            found.append(values["loss"])
        losses.append(torch.stack(found).cpu())
    torch.testing.assert_close(*losses, rtol=1e-3, atol=1e-4)


def test_a_cache_has_the_cpu_s_codes(tmp_path: Path) -> None:
    source, codes = open_source(write_images(tmp_path / "images")), []
    layout = CacheLayout(image_size=16, crop="whole", flip=False)
    for device in (torch.device("cpu"), DEVICE):
        out, tokenizer = tmp_path / str(device), toy_tokenizer().to(device)
        build_cache(tokenizer, source, out=out, layout=layout, device=device)
        cache = LatentCache.open(out)
        rows = torch.arange(len(cache))
        codes.append(cache.tokens(rows, torch.zeros_like(rows)))
    assert (codes[0] == codes[1]).float().mean() > 0.99
