"""The loss on held-out images: that of the objective, on batches that never change."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gloo import joined
from toy_latents import LATENT_TOY
from toy_system import TOY, fill, toy_tokenizer, write_images

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.generator import Task, make_task
from unmask.train.held_out import HeldOutImages, HeldOutLoss, held_out_training

COUNT = 3


def task_of(recipe: Recipe) -> Task:
    codes = recipe.tokenizer == TOY.tokenizer
    tokenizer = toy_tokenizer() if codes else load_tokenizer(recipe.tokenizer)
    return make_task(recipe, tokenizer)


@pytest.fixture(params=[TOY, LATENT_TOY], ids=["codes", "latents"])
def task(request: pytest.FixtureRequest) -> Task:
    made = task_of(request.param)
    fill(made.model, "held out", 0.3)  # what begins at zero would not look at the tokens
    made.objective.eval()
    return made


@pytest.fixture
def images(tmp_path: Path) -> Path:
    write_images(tmp_path / "images" / "val", 20)
    write_images(tmp_path / "images" / "train", 2)
    return tmp_path / "images"


def look_at(task: Task, images: Path, count: int = COUNT) -> HeldOutLoss:
    source = open_source(images, split="val")
    cache = HeldOutImages(source, Transform(size=16, channels=3), task.tokenizer)
    settings, _ = held_out_training(task.recipe.training, 6)
    batches = task.batches(cache, whole=settings)
    return HeldOutLoss(task.objective, batches, task.recipe.training, count=count)


@torch.no_grad()
def test_it_is_the_loss_on_a_cache_of_the_same_images(
    task: Task, images: Path, tmp_path: Path
) -> None:
    found = look_at(task, images)(tmp_path, 0, True)
    again = look_at(task, images)(tmp_path, 5, True)
    assert found == again, "the same masks and noise at every step"
    source = open_source(images, split="val")
    out = tmp_path / "cache"
    build_cache(
        task.tokenizer,
        source,
        out=out,
        layout=CacheLayout(image_size=16, flip=False),
        progress=False,
    )
    settings, _ = held_out_training(task.recipe.training, 6)
    batches = task.batches(LatentCache.open(out), whole=settings)
    losses = [sum(task.objective(part)["loss"] for part in batches[k]) for k in range(COUNT)]
    assert found["eval/loss"] == pytest.approx(float(sum(losses)) / COUNT, rel=1e-5)


@torch.no_grad()
def test_raw_weights_have_a_name_of_their_own(task: Task, images: Path, tmp_path: Path) -> None:
    look = look_at(task, images)
    assert look(tmp_path, 0, False).keys() == {"eval/loss_raw"}
    look.averages = False
    assert look(tmp_path, 0, False).keys() == {"eval/loss"}


@torch.no_grad()
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_batches(images: Path, tmp_path: Path, processes: int) -> None:
    task = task_of(TOY)
    alone = look_at(task, images)(tmp_path, 0, True)

    def one(rank: int) -> None:
        assert look_at(task, images)(tmp_path, 0, True) == alone

    assert joined(processes, one) == [0] * processes


def test_batches_are_whole_and_not_too_many() -> None:
    training = TOY.training
    assert [held_out_training(training, n)[1] for n in (2, 64, 130, 10**6)] == [1, 1, 2, 31]
    assert held_out_training(training, 7)[0].batch_size == 7
