"""An image does not change with the size of the batch that it is made in, in any system."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from toy_latents import latent_pipeline
from toy_system import TOY, toy_pipeline, toy_tokenizer

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.generation import decoded, generate
from unmask.guidance import Guidance
from unmask.memory import fitting
from unmask.nn.feedback import Feedback
from unmask.nn.positions import FEWEST_ROWS, widened
from unmask.orders import RandomOrder
from unmask.pictures import to_uint8
from unmask.pipeline import Pipeline, load

IMAGES = 16
GUIDED = Guidance(scale=2.0, weak="self")
SYSTEMS = {
    "fashion-maskgit": lambda: load("fashion-maskgit"),
    "fashion-mage": lambda: load("fashion-mage"),
    "fashion-mar": lambda: load("fashion-mar"),
    "fashion-emigm": lambda: load("fashion-emigm"),
    "self-guidance": lambda: toy_pipeline(
        replace(
            TOY,
            network=replace(TOY.network, feedback=Feedback(factor=4)),
            plan=replace(TOY.plan, guidance=GUIDED),
        )
    ),
    "random order": lambda: toy_pipeline(
        replace(TOY, plan=replace(TOY.plan, steps=16, order=RandomOrder()))
    ),
    "one latent a step": lambda: latent_pipeline(),
}


def sums_alike() -> bool:
    """Whether this CPU gives a row of a matrix product the same sum among four rows or more."""
    for width, outputs in ((128, 192), (192, 576), (128, 512), (8, 192), (32, 128)):
        generator = keyed_generator("products", width, outputs)
        x, weight = (torch.randn(n, width, generator=generator) for n in (300, outputs))
        whole = F.linear(x, weight, torch.zeros(outputs))
        for rows in (4, 5, 7, 8, 13, 64, 257):
            if not torch.equal(F.linear(x[:rows], weight, torch.zeros(outputs)), whole[:rows]):
                return False
    return True


def made(pipeline: Pipeline, batch_size: int) -> tuple[Tensor, Tensor]:
    """Tokens and pixels of sixteen images."""
    classes = pipeline.model.classes
    labels = [k % classes for k in range(IMAGES)] if classes else None
    plan = replace(pipeline.plan, steps=min(pipeline.plan.steps, 8))
    batches = list(
        generate(pipeline, labels, seeds=range(IMAGES), plan=plan, batch_size=batch_size)
    )
    return tuple(torch.cat([getattr(b, part) for b in batches]) for part in ("tokens", "pixels"))


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_image_is_the_same_in_a_batch_of_any_size(name: str) -> None:
    pipeline, exact = SYSTEMS[name](), sums_alike()
    tokens, pixels = made(pipeline, 64)
    for batch_size in (1, 7):
        others, drawn = made(pipeline, batch_size)
        if exact:
            assert torch.equal(others, tokens)
            assert torch.equal(drawn, pixels)
        if tokens.is_floating_point():
            torch.testing.assert_close(others, tokens, atol=1e-3, rtol=1e-3)
        apart = (to_uint8(drawn).int() - to_uint8(pixels).int()).abs()
        assert apart.max() <= 1, "one level of a byte, on any CPU"
        assert (apart > 0).float().mean() < 1e-3


class Small:
    """A network on a device that holds so many rows; counts what was tried."""

    def __init__(self, rows: int) -> None:
        self.rows, self.tried = rows, list[int]()

    def __call__(self, rows: slice) -> list[int]:
        self.tried.append(rows.stop - rows.start)
        if self.tried[-1] > self.rows:
            raise torch.OutOfMemoryError("no more")
        return list(range(rows.start, rows.stop))


@pytest.mark.parametrize("holds", [1, 5, 16, 100, 1000])
@pytest.mark.parametrize("count", [1, 7, 150])
def test_a_batch_that_is_found_fits_and_leaves_nothing_out(holds: int, count: int) -> None:
    small = Small(holds)
    made = list(fitting(small, count, "auto", each=1, device=torch.device("cpu")))
    assert [row for rows in made for row in rows] == list(range(count))
    assert 2 * max(map(len, made)) > min(holds, count, 64)
    failed = [tried for tried in small.tried if tried > holds]
    assert len(failed) <= 6, "each size fails once"
    assert small.tried[: len(failed)] == failed, "and is never tried again"


def test_a_batch_begins_with_what_the_free_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    free = 2 * 1000
    monkeypatch.setattr(torch.cpu, "mem_get_info", lambda device: (free, free), raising=False)
    for each, first in ((1, 256), (100, 10), (5000, 1)):
        made = list(fitting(Small(1000), 300, "auto", each=each, device=torch.device("cpu")))
        assert len(made[0]) == first


def test_memory_that_is_used_up_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = r"batch_size=7 does not fit into the memory of cpu; give a smaller batch size, or auto"
    with pytest.raises(InputError, match=wanted):
        list(fitting(Small(6), 9, 7, each=1, device=torch.device("cpu")))
    with pytest.raises(InputError, match="the memory of cpu is too small for one image"):
        list(fitting(Small(0), 9, "auto", each=1, device=torch.device("cpu")))

    def broken(rows: slice) -> None:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(fitting(broken, 9, "auto", each=1, device=torch.device("cpu")))


def test_images_are_the_same_at_a_size_that_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = toy_pipeline()
    labels, whole = [0, 1, 2, 0, 1], type(pipeline.tokenizer).decode
    wanted = pipeline(labels, seeds=3)

    def full(self: torch.nn.Module, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if len(sizes := [*taken, len(tokens)]) < 3:
            taken.append(sizes[-1])
            raise torch.OutOfMemoryError("out of memory")
        return whole(self, tokens, grid)

    taken = list[int]()
    monkeypatch.setattr(type(pipeline.tokenizer), "decode", full)
    made = pipeline(labels, seeds=3, batch_size="auto")
    assert len(taken) == 2
    assert torch.equal(made.tokens, wanted.tokens)
    assert torch.equal(made.pixels, wanted.pixels)


def test_pixels_are_decoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many images a batch has, the decoder sees so many pixels at once."""
    tokenizer = toy_tokenizer()
    ids = torch.randint(16, (9, 16), generator=keyed_generator("parts"))
    whole, seen, render = tokenizer.decode(ids), list[int](), type(tokenizer).render

    def watched(self: torch.nn.Module, values: Tensor) -> Tensor:
        seen.append(len(values))
        return render(self, values)

    monkeypatch.setattr(type(tokenizer), "render", watched)
    monkeypatch.setattr("unmask.tokenizers.image_tokenizer.MOST_PIXELS", 4 * 16 * 16)
    parts = tokenizer.decode(ids)
    assert seen == [4, 4, 1]
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-5)
    assert tokenizer.decode(ids[:0]).shape == (0, 3, 16, 16)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 8])
def test_pixels_of_an_image_do_not_depend_on_how_many_are_decoded(count: int) -> None:
    for name in ("fashion-maskgit", "fashion-mar"):
        pipeline = load(name)
        tokens = pipeline.tokens([0] * 8, seeds=0, plan=replace(pipeline.plan, steps=1)).tokens
        whole = decoded(pipeline.tokenizer, tokens, pipeline.model.grid)
        part = decoded(pipeline.tokenizer, tokens[:count], pipeline.model.grid)
        assert torch.equal(part, whole[:count])
        torch.testing.assert_close(whole, pipeline.tokenizer.decode(tokens, pipeline.model.grid))


def test_a_few_positions_are_read_as_many_are() -> None:
    x = torch.arange(12).view(2, 6)
    assert torch.equal(widened(x, 4), x)
    assert torch.equal(widened(x[:, :2], FEWEST_ROWS), x[:, [0, 1, 1, 1]])
    assert widened(x[:, :0], FEWEST_ROWS).shape == (2, 0)
