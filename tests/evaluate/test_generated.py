"""The same scores on several networks, against several kinds of references."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_system import toy_pipeline, write_images

from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate import evaluation
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.features import EfficientNetLite0, Features, UserFeatures, load_features
from unmask.evaluate.frechet import frechet_distance
from unmask.evaluate.generated import Generated, generated_batches
from unmask.evaluate.image_batch import ImageBatch
from unmask.evaluate.image_sets import write_folder, write_npz
from unmask.evaluate.measure import measure_statistics
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages, real_batches
from unmask.evaluate.reference import write_statistics
from unmask.pipeline import load

COUNT = 18
MODULE = """
import torch
from torch import nn

def rows(images):
    assert images.dtype == torch.float32 and images.shape[1] == 3 and images.max() <= 1
    return images.mean((1, 3))

rows.name = "row means"

class Shift(nn.Module):
    def __init__(self):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(2.0))

    def forward(self, images):
        return images.mean((2, 3)) + self.by

shift = Shift()
number = 3
def flat(images):
    return images.mean()
"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> RealImages:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", 36)
    write_images(folder / "val", 24)
    transform = Transform(size=16, channels=3)
    return RealImages(open_source(folder), open_source(folder, split="val"), transform)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = "features_of_a_test"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


class Narrow:
    """The network that stands for others, without its import."""

    name, identity, width = "narrow", "narrow", 16

    def __call__(self, images: Tensor) -> Features:
        return Features(images.float().expand(-1, 3, -1, -1).mean((1, 3)) / 255)


def images(count: int = COUNT) -> Tensor:
    generator = keyed_generator(0, "images")
    return torch.randint(0, 256, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)


def of_file(tmp_path: Path, options: EvaluationOptions, x: Tensor | None = None) -> Generated:
    write_npz(tmp_path / "made.npz", [images() if x is None else x])
    return Generated.of_files(tmp_path / "made.npz", options)


def test_every_score_on_the_network_of_the_package(tmp_path: Path) -> None:
    write_npz(tmp_path / "reference.npz", [images(30)])
    options = EvaluationOptions(count=COUNT, resize=32, reference=tmp_path / "reference.npz")
    row = evaluate(of_file(tmp_path, options), options=options).rows[0]
    extractor = EfficientNetLite0(resize=32)
    spatial = extractor(images(2)).spatial
    assert spatial is not None
    assert spatial.shape == (2, 2 * 2 * 7)
    assert None not in (row.fd, row.sfd, row.inception_score, row.precision, row.recall)
    one, other = (measure_statistics([images(n)], extractor, source="x") for n in (COUNT, 30))
    assert row.sfd == pytest.approx(one.sfid(other), rel=1e-6)
    assert row.precision == 1  # images() of another count are the same at the start


@pytest.mark.parametrize("count", [2, 3])
def test_too_few_images_are_refused_before_any_is_measured(
    tmp_path: Path, real: RealImages, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    options = EvaluationOptions(count=count, classifier="train")
    monkeypatch.setattr(evaluation, "choose_extractor", lambda *_: Narrow())
    monkeypatch.setattr(Narrow, "__call__", lambda *_: pytest.fail("measured"))
    monkeypatch.setattr(evaluation, "choose_classifier", lambda *_: pytest.fail("trained"))
    with pytest.raises(InputError, match=f"holds {count} images, the scores need at least 4"):
        evaluate(of_file(tmp_path, options), real, options=options)


def test_features_of_a_user(tmp_path: Path, real: RealImages, module: str) -> None:
    options = EvaluationOptions(count=COUNT, features=f"{module}:rows")
    report = evaluate(of_file(tmp_path, options), real, options=options)
    rows = images().double().mean((1, 3)) / 255
    others = torch.cat([b.images for b in real_batches(real[1], real[2], count=COUNT)])
    others = others.double().mean((1, 3)) / 255
    gap = (rows.mean(0) - others.mean(0)).square().sum().item()
    assert report.rows[0].fd > gap > 0
    assert (report.rows[0].sfd, report.rows[0].inception_score) == (None, None)
    assert report.rows[0].precision is not None
    assert report.identity == "row means, of unknown weights, its own resize"
    assert "not FID: the network is not the published Inception" in str(report.table())


def test_the_identity_of_a_module_follows_its_weights(module: str) -> None:
    one = load_features(f"{module}:shift", size=(8, 8))
    assert one.width == 3
    other = type(sys.modules[module].shift)()
    same = UserFeatures(other, f"{module}:shift", size=(8, 8))
    assert same.identity == one.identity
    nn.init.constant_(other.by, 3.0)
    assert UserFeatures(other, f"{module}:shift", size=(8, 8)).identity != one.identity


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("absent", "no attribute 'absent'; give importable module:attribute"),
        ("number", "is a int; give something to call"),
        ("flat", r"must make floats \(2, F\)"),
    ],
)
def test_features_that_are_none(module: str, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_features(f"{module}:{attribute}", size=(8, 8))
    with pytest.raises(InputError, match="No module named"):
        load_features("no_such_module:x", size=(8, 8))


@pytest.mark.parametrize("kind", ["statistics", "images", "both"])
def test_a_reference_instead_of_data(tmp_path: Path, module: str, kind: str) -> None:
    path = tmp_path / "reference.npz"
    options = EvaluationOptions(count=COUNT, features=f"{module}:rows", reference=path)
    found = measure_statistics([images(30)], Narrow(), source="x").pooled
    moved = {"mu": found.mean.numpy() + 1, "sigma": found.covariance.numpy()}
    pixels: dict[str, Any] = {"arr_0": images(30).permute(0, 2, 3, 1).numpy()}
    held: dict[str, Any] = {} if kind == "images" else moved
    np.savez(path, **held, **({} if kind == "statistics" else pixels))
    report = evaluate(of_file(tmp_path, options), options=options)
    assert report.statistics == str(path)
    own = measure_statistics([images()], Narrow(), source="made").pooled
    mean = found.mean + (kind != "images")
    wanted = frechet_distance(own.mean, own.covariance, mean, found.covariance)
    assert report.rows[0].fd == pytest.approx(wanted, rel=1e-6)
    assert (report.rows[0].precision is None) == (kind == "statistics")
    assert report.reference_images == (0 if kind == "statistics" else 30)


def test_what_does_not_fit_is_refused_before_an_image_is_made(
    tmp_path: Path, real: RealImages
) -> None:
    def untouched(start: int, stop: int) -> Iterator[ImageBatch]:
        raise AssertionError("an image was generated")

    def refused(message: str, **changes: Any) -> None:
        options = EvaluationOptions(count=COUNT, **{"resize": 32, **changes})
        made = of_file(tmp_path, options)
        made = replace(made, sets=[replace(made.sets[0], between=untouched)])
        with pytest.raises(InputError, match=message):
            evaluate(made, options=options)

    refused("nothing to compare with")
    write_npz(tmp_path / "large.npz", [torch.zeros(5, 3, 20, 20, dtype=torch.uint8)])
    refused(r"large\.npz' has images of shape \(3, 20, 20\)", reference=tmp_path / "large.npz")
    narrow = measure_statistics([images()], Narrow(), source="narrow")
    write_statistics(tmp_path / "narrow.npz", narrow)
    refused("mu is of width 16, the extractor gives 1280", reference=tmp_path / "narrow.npz")
    with pytest.raises(InputError, match="give one network"):
        EvaluationOptions(features="a:b", inception=tmp_path)
    with pytest.raises(InputError, match="repeats=2 needs a model"):
        of_file(tmp_path, EvaluationOptions(repeats=2))


def test_repeats_are_sets_of_later_seeds(real: RealImages, module: str) -> None:
    pipeline, features = toy_pipeline(), f"{module}:rows"
    options = EvaluationOptions(count=COUNT, features=features, repeats=3, seed=5)
    made = Generated.of_pipeline(pipeline, options, pipeline.plan)
    report = evaluate(made, real, options=options)
    alone = EvaluationOptions(count=COUNT, features=features, seed=5 + 2 * COUNT)
    last = evaluate(Generated.of_pipeline(pipeline, alone, pipeline.plan), real, options=alone)
    assert report.repeats[2] == last.rows[0]
    found = torch.tensor([row.fd for row in report.repeats], dtype=torch.float64)
    assert len(found.unique()) == 3
    assert report.rows[0].fd == pytest.approx(found.mean().item())
    assert report.rows[0].spread is not None
    assert report.rows[0].spread["fd"] == pytest.approx(found.std().item())
    assert report.seeds == f"5 to {4 + 3 * COUNT}"
    assert report.rows[1:] == last.rows[1:]
    assert f"{found.mean():.3f} ± {found.std():.3f}" in str(report.table())


def test_a_range_of_samples_is_that_of_the_whole() -> None:
    pipeline, options = toy_pipeline(), EvaluationOptions(count=20, batch_size=4)
    whole = list(generated_batches(pipeline, options))
    parts = list(generated_batches(pipeline, options, 8, 16))
    for one, other in zip(whole[2:4], parts, strict=True):
        assert torch.equal(one.images, other.images)
        assert one.labels is not None
        assert other.labels is not None
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("labels", [[3, 3, 0, 0, 0, 7], [10, 2, 2]])
def test_a_set_in_class_order_is_reported_in_one_line(tmp_path: Path, labels: list[int]) -> None:
    options = EvaluationOptions(count=4)
    batch = ImageBatch(images(len(labels)), torch.tensor(labels))
    write_npz(tmp_path / "made.npz", [batch])
    write_folder(tmp_path / "made", [batch])
    for path in (tmp_path / "made.npz", tmp_path / "made"):
        note = Generated.of_files(path, options).notes[-1]
        assert f"{path} is sorted by class" in note
        assert "\n" not in note


@pytest.mark.parametrize("labels", [None, [0, 1, 2], [1, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]])
def test_other_sets_have_no_word_about_their_order(
    tmp_path: Path, labels: list[int] | None
) -> None:
    count = 3 if labels is None else len(labels)
    batch = ImageBatch(images(count), None if labels is None else torch.tensor(labels))
    write_npz(tmp_path / "made.npz", [batch])
    notes = Generated.of_files(tmp_path / "made.npz", EvaluationOptions(count=4)).notes
    assert "sorted" not in " ".join(notes)


@pytest.mark.parametrize(
    ("name", "digest"), [("run-model", "5bbd29d1cc70c5c3"), ("mar-run-model", "304131ecb2208e7e")]
)
def test_a_model_of_an_older_revision_is_still_itself(name: str, digest: str) -> None:
    """Or its folders (--work) would be refused: a later field of a recipe has repr=False."""
    pipeline = load(Path(__file__).parents[1] / "fixtures" / "before_issue_11" / name, device="cpu")
    found = Generated.of_pipeline(pipeline, EvaluationOptions(device="cpu"), pipeline.plan)
    assert sha256(found.identity.encode()).hexdigest().startswith(digest), found.identity
