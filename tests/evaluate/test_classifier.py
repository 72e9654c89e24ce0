"""Classifiers that learn what can be learned, and are kept with what must be said of them."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from unmask.data.source import EMBEDDED
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.classifier import (
    ClassifierTraining,
    ConvClassifier,
    TrainedClassifier,
    augmented,
    load_classifier,
    load_fashion_classifier,
    train_classifier,
    with_test_accuracy,
)

QUICK = ClassifierTraining(epochs=3, batch_size=16)


def stripes(count: int, key: str = "stripes") -> tuple[Tensor, Tensor]:
    """Rows against columns: two classes that shifts and mirrors do not mix."""
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 60, (count, 1, 14, 14), generator=keyed_generator(0, key))
    rows = (torch.arange(14) // 2 % 2 * 150)[:, None].expand(14, 14)
    pattern = torch.where(labels[:, None, None].bool(), rows, rows.T)[:, None]
    return (pattern + noise).to(torch.uint8), labels


@pytest.fixture(scope="module")
def judge() -> TrainedClassifier:
    return train_classifier(*stripes(256), classes=2, options=QUICK, name="stripes")


def test_learns_what_can_be_learned(judge: TrainedClassifier) -> None:
    found = with_test_accuracy(judge, *stripes(100, key="held out"))
    assert found.accuracy == 1
    assert found.tested_on == 100
    assert found.describe() == "stripes (1.0000 on 100 real test images)"
    assert judge.describe() == "stripes (accuracy on real images unknown)"


def test_training_is_a_function_of_the_seed_alone(judge: TrainedClassifier) -> None:
    torch.rand(3)  # moves the global stream, which must not matter
    again = train_classifier(*stripes(256), classes=2, options=QUICK)
    other = train_classifier(*stripes(256), classes=2, options=replace(QUICK, seed=1))
    x = stripes(8)[0]
    assert torch.equal(again.logits(x), judge.logits(x))
    assert not torch.equal(other.logits(x), judge.logits(x))


def test_saved_weights_are_half_as_large_and_say_the_same(
    judge: TrainedClassifier, tmp_path: Path
) -> None:
    judge = replace(with_test_accuracy(judge, *stripes(100, key="held out")), note="made in a test")
    judge.save(tmp_path / "judge.safetensors")
    found = load_classifier(tmp_path / "judge.safetensors")
    for field in ("name", "channels", "size", "classes", "accuracy", "tested_on", "note"):
        assert getattr(found, field) == getattr(judge, field)
    x = stripes(20)[0]
    torch.testing.assert_close(found.logits(x), judge.logits(x), rtol=0, atol=0.02)


def test_files_that_hold_no_classifier(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the classifier"):
        load_classifier(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("text")
    with pytest.raises(InputError, match="cannot read the classifier"):
        load_classifier(tmp_path / "text.safetensors")


@pytest.mark.parametrize("size", [8, 28, 64, 256])
def test_any_size_ends_in_one_score_a_class(size: int) -> None:
    network = ConvClassifier(channels=3, classes=5, size=size).eval()
    assert network(torch.zeros(2, 3, size, size)).shape == (2, 5)


def test_the_fashion_network_fits_in_two_hundred_kilobytes() -> None:
    network = ConvClassifier(channels=1, classes=10, size=28)
    assert sum(2 * p.numel() for p in network.parameters()) < 200_000


def test_augmentation_without_amounts_is_the_identity() -> None:
    none = ClassifierTraining(shift=0, flip=False, blur=0, noise=0)
    x = torch.rand(4, 3, 8, 6, generator=keyed_generator(0, "x"))
    torch.testing.assert_close(augmented(x, none, keyed_generator(0, "a")), x)


def test_augmentation_shifts_and_mirrors_each_image_on_its_own() -> None:
    moves = ClassifierTraining(shift=1, flip=True, blur=0, noise=0)
    x = torch.zeros(200, 1, 9, 9)
    x[:, :, 4, 2] = 1
    found = augmented(x, moves, keyed_generator(0, "a"))
    places = {tuple(p) for p in found.nonzero()[:, 2:].tolist()}
    columns = {1, 2, 3, 5, 6, 7}  # column 2, or 6 when mirrored, one to either side
    assert places == {(row, column) for row in (3, 4, 5) for column in columns}
    assert (found.sum((1, 2, 3)) == 1).all()


def test_augmentation_stays_within_the_range() -> None:
    x = torch.rand(6, 1, 8, 8, generator=keyed_generator(0, "x")).round()
    found = augmented(x, ClassifierTraining(noise=1.0), keyed_generator(0, "a"))
    assert (found.min(), found.max()) == (0, 1)
    assert found.shape == x.shape


def test_bad_input_is_named(judge: TrainedClassifier) -> None:
    x, labels = stripes(8)
    with pytest.raises(InputError, match="labels span 0 to 1"):
        train_classifier(x, labels, classes=1)
    with pytest.raises(InputError, match="7 labels for 8 images"):
        train_classifier(x, labels[:7], classes=2)
    with pytest.raises(InputError, match="uint8"):
        train_classifier(x.float(), labels, classes=2)
    with pytest.raises(InputError, match=r"\(3, 14, 14\)"):
        judge.logits(x.expand(-1, 3, -1, -1))
    with pytest.raises(InputError, match="epochs=0"):
        ClassifierTraining(epochs=0)


def real_test_images() -> tuple[Tensor, Tensor]:
    folder = EMBEDDED["fashion-mnist"]
    pixels = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())
    images = torch.from_numpy(np.frombuffer(pixels, np.uint8, offset=16).copy())
    return images.view(-1, 1, 28, 28), torch.from_numpy(
        np.frombuffer(labels, np.uint8, offset=8).copy()
    ).long()


def test_the_shipped_classifier_is_good_and_says_so() -> None:
    judge = load_fashion_classifier()
    assert (judge.channels, judge.size, judge.classes) == (1, (28, 28), 10)
    assert judge.tested_on == 10_000
    assert judge.accuracy >= 0.88
    x, labels = real_test_images()
    found = with_test_accuracy(judge, x, labels)
    # A part of the 10,000 strays from their accuracy by four standard deviations at most.
    assert abs(found.accuracy - judge.accuracy) < 4 * (0.09 / len(x)) ** 0.5
