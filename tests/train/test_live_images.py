"""Images encoded in every step: each crop is a view, and the codes are the tokenizer's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy_mage import toy_generator
from toy_run import latest
from toy_system import toy_tokenizer, write_images

from unmask.cli import main
from unmask.data.decoding import UnreadableImageError
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files.serial import write_yaml
from unmask.objectives.masked import MaskedObjective
from unmask.pipeline import load
from unmask.recipes.objectives import Contrastive
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.train.generator import AnyCache, check_source, make_task
from unmask.train.live_images import EncodeFirst, LiveImages, live_images
from unmask.train.masked_batches import MaskedBatches
from unmask.train.run import Run
from unmask.train.state import read_checkpoint

RECIPE = replace(toy_generator().recipe, crop="resized")


class Pictures:
    """Images of 24x18 pixels of noise; those in ``damaged`` cannot be read."""

    name, split_rule = "pictures", "all of them"

    def __init__(self, labels: list[int], damaged: tuple[int, ...] = ()) -> None:
        self.labels, self.damaged = labels, damaged
        self.class_names = ("a", "b")

    def __len__(self) -> int:
        return len(self.labels)

    def key(self, row: int) -> str:
        return f"item{row}"

    def label(self, row: int) -> int:
        return self.labels[row]

    def image(self, row: int) -> Image.Image:
        if row in self.damaged:
            raise UnreadableImageError(self.key(row), "broken")
        noise = torch.rand(18, 24, 3, generator=keyed_generator("picture", row))
        return Image.fromarray((noise * 255).numpy().astype(np.uint8))


def source(count: int = 20) -> Pictures:
    return Pictures([0] * count)


def live(of: Pictures | None = None) -> LiveImages:
    return live_images(RECIPE, of or source(), toy_tokenizer())


def batches(cache: AnyCache, **place: int) -> MaskedBatches:
    training = replace(RECIPE.training, seed=3, accumulate=place.pop("accumulate", 1))
    return MaskedBatches(cache, RECIPE.masking, training=training, classes=0, **place)


def test_a_view_is_a_crop() -> None:
    rows, views = torch.tensor([3, 3, 5, 3]), torch.tensor([7, 8, 7, 7])
    crops = live().tokens(rows, views)
    assert crops.shape == (4, 3, 16, 16)
    assert crops.dtype == torch.uint8
    assert torch.equal(crops[0], crops[3])
    assert not torch.equal(crops[0], crops[1])
    transform = Transform(size=16, crop="resized", resample="bilinear", flip=True)
    for crop, row, view in zip(crops, rows.tolist(), views.tolist(), strict=True):
        assert torch.equal(crop, transform(source().image(row), keyed_generator("view", view)))


def test_a_batch_is_a_function_of_seed_and_step_for_any_number_of_processes() -> None:
    (whole,) = batches(live())[2]
    assert torch.equal(whole.batch.tokens, batches(live())[2][0].batch.tokens)
    assert not torch.equal(whole.batch.tokens, batches(live())[3][0].batch.tokens)
    parts = [
        batches(live(), rank=rank, world=2, accumulate=2)[2][part].batch
        for part in range(2)
        for rank in range(2)
    ]
    assert torch.equal(torch.cat([part.tokens for part in parts]), whole.batch.tokens)
    assert torch.equal(torch.cat([part.masked for part in parts]), whole.batch.masked)


def test_the_tokenizer_comes_first() -> None:
    model, tokenizer = toy_generator().model, toy_tokenizer()
    (located,) = batches(live())[0]
    images = located.batch.tokens.float() / 255
    coded = located._replace(batch=located.batch._replace(tokens=tokenizer.encode(images)))
    objective = MaskedObjective(model).eval()
    wrapped = EncodeFirst(objective, tokenizer).eval()
    loss = wrapped(located)["loss"]
    torch.testing.assert_close(loss, objective(coded)["loss"], rtol=0, atol=0)
    loss.backward()
    assert model.embed.tokens.weight.grad is not None
    assert wrapped.averaged is model
    wrapped.train()
    assert model.training
    assert not any(module.training for module in tokenizer.modules())
    assert not any(p.requires_grad for p in tokenizer.parameters())


def test_a_damaged_image_is_replaced_by_one_of_its_class() -> None:
    labels = [0, 1, 0, 1, 1, 0]
    of = Pictures(labels, (2, 4))
    crops = live(of).tokens(torch.tensor([2, 4]), torch.tensor([9, 9]))
    whole = live(Pictures(labels))
    assert torch.equal(crops, whole.tokens(torch.tensor([5, 1]), torch.tensor([9, 9])))
    with pytest.raises(InputError, match="no image like item1 can be read"):
        live(Pictures([0, 1], (1,))).tokens(torch.tensor([1]), torch.tensor([0]))


def test_latents_are_read_from_caches() -> None:
    with pytest.raises(InputError, match=r"crop='resized' encodes images in every step, which"):
        live_images(RECIPE, source(), load_tokenizer("patches-4-rgb"))


@pytest.mark.parametrize("contrastive", [None, Contrastive(hidden=8, outputs=4)])
def test_a_run_continues_bit_for_bit(
    tmp_path: Path, contrastive: Contrastive | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(RECIPE.training, steps=4, save_every=2, log_every=2, tracker="none")
    recipe = replace(RECIPE, training=training, contrastive=contrastive)
    tokenizer = toy_tokenizer()
    check_source(recipe, source(), tokenizer)

    def run(name: str) -> dict[str, Tensor]:
        make_task(recipe, tokenizer).train(live(), out=tmp_path / name)
        folder = latest(tmp_path / name / "checkpoints")
        assert folder is not None
        saved = read_checkpoint(folder)
        assert not any("tokenizer" in key for key in saved.weights["model"])
        kept = {key for key in saved.state["others"] if not key.startswith("tokenizer.")}
        assert bool(kept) == (contrastive is not None)
        assert all(key.startswith("objective.project.") for key in kept)
        return saved.weights["ema"]

    whole = run("whole")
    save = Run.save

    def save_and_stop(self: Run, step: int, **how: bool) -> Path | None:
        save(self, step, **how)
        raise KeyboardInterrupt

    with monkeypatch.context() as stopping:
        stopping.setattr(Run, "save", save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            run("cut")
    cut = run("cut")
    assert whole.keys() == cut.keys()
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())


def test_the_command_encodes_as_it_goes(tmp_path: Path) -> None:
    write_yaml(replace(RECIPE, flip=False), tmp_path / "mine.yaml")
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    words = ["train", tmp_path / "mine.yaml", "--data", write_images(tmp_path / "images"),
             "--tokenizer", tmp_path / "vq", "--out", tmp_path / "run"]  # fmt: skip
    assert main(list(map(str, words))) == 0
    assert not (tmp_path / "run-cache").exists()
    assert load(tmp_path / "run")(seeds=[1]).pixels.shape == (1, 3, 16, 16)


def test_it_tells_what_its_source_tells(tmp_path: Path) -> None:
    images = open_source(write_images(tmp_path))
    found = live_images(RECIPE, images, toy_tokenizer())
    assert found.class_names == ("left", "right")
    assert found.labels.tolist() == [images.label(row) for row in range(len(images))]
    assert (len(found), found.length, found.grid) == (len(images), 16, (4, 4))
