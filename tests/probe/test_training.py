"""Probe and fine-tuning from images to judged classifiers, at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_mage import save_toy, toy_classifier, toy_encoder, write_labelled
from toy_run import latest

from unmask.data.source import open_source
from unmask.errors import InputError
from unmask.probe import training as judging
from unmask.probe.classifier import open_classifier
from unmask.probe.finetune import finetune
from unmask.probe.linear import probe
from unmask.probe.mixing import Mixing
from unmask.probe.settings import FinetuneOptions, ProbeOptions
from unmask.probe.training import LabelledData, judge, measure_accuracy
from unmask.train.state import read_checkpoint

SMALL: dict = {"warmup_epochs": 1, "batch_size": 16, "flip": False, "crop": "none"}
LINEAR = ProbeOptions(epochs=30, base_lr=100, tracker="none", **SMALL)
TUNE = FinetuneOptions(
    epochs=4, base_lr=0.02, operations=1, tracker="none", mixing=Mixing(group=8), **SMALL
)


def best(lines: list[dict]) -> float:
    return max(line["accuracy"] for line in lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> LabelledData:
    folder = write_labelled(tmp_path_factory.mktemp("images"))
    return LabelledData(train=open_source(folder), held_out=open_source(folder, split="val"))


@pytest.fixture(scope="module")
def tuned(data: LabelledData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned") / "run"
    assert best(finetune(toy_classifier(), data, TUNE, out=out)) == 1
    return out


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / judging.ACCURACIES).read_text().splitlines()]


def final(out: Path) -> dict[str, torch.Tensor]:
    folder = latest(out / "checkpoints")
    assert folder is not None
    return read_checkpoint(folder).weights["model"]


@pytest.mark.parametrize("baseline", ["none", "random", "pixels"])
def test_a_probe_learns_the_head_alone(data: LabelledData, tmp_path: Path, baseline: str) -> None:
    classifier, before = toy_classifier(), toy_encoder().state_dict()
    found = probe(classifier, data, replace(LINEAR, baseline=baseline), out=tmp_path / "run")
    assert best(found) == 1, "brightness is easy to see"
    assert set(final(tmp_path / "run")) == {
        "0.running_mean", "0.running_var", "0.num_batches_tracked", "1.weight", "1.bias"
    }  # fmt: skip
    assert [line["epoch"] for line in lines(tmp_path / "run")] == list(range(1, 31))
    same = all(
        torch.equal(t, before[name]) for name, t in classifier.model.encoder.state_dict().items()
    )
    assert same == (baseline != "random")
    assert (tmp_path / "run" / "last").exists() == (baseline != "pixels")
    table = (tmp_path / "run" / "samples" / "step-0000042.tsv").read_text().splitlines()
    assert [row.split("\t")[:2] for row in table[1:]] == [["dark", "12"], ["light", "12"]]


def test_the_embedding_dropout_is_an_option(data: LabelledData, tmp_path: Path) -> None:
    short = replace(LINEAR, epochs=2)
    options = [replace(short, embedding_dropout=on) for on in (True, False, False)]
    ends = []
    for index, chosen in enumerate(options):
        probe(toy_classifier(), data, chosen, out=tmp_path / str(index))
        ends.append(final(tmp_path / str(index))["1.weight"])
    assert not torch.equal(ends[0], ends[1])
    assert torch.equal(ends[1], ends[2])


def test_fine_tuning_leaves_its_best_and_its_last(data: LabelledData, tuned: Path) -> None:
    last, weights = open_classifier(tuned / "last", pool="mean"), final(tuned)
    assert all(torch.equal(t, weights[k]) for k, t in last.model.state_dict().items())
    config = json.loads((tuned / "best" / "config.json").read_text())
    first_best = max(lines(tuned), key=lambda line: line["accuracy"])
    assert config["accuracy"] == first_best["accuracy"]
    assert config["epoch"] == first_best["epoch"]
    classifier = open_classifier(tuned / "best", pool="mean")
    assert judge(classifier, data.held_out, TUNE).top1 == config["accuracy"]
    assert config["class_names"] == ["dark", "light"]


def test_a_run_keeps_its_options_where_earlier_revisions_look_for_them() -> None:
    stored = LINEAR.stored()
    assert set(stored) == {"course", "embedding_dropout", "baseline"}
    assert stored["course"]["base_lr"] == 100
    tuning = TUNE.stored()
    assert tuning.keys() - {"course"} == {
        "layer_decay", "drop_path", "smoothing", "mixing", "new_head"
    }  # fmt: skip
    assert tuning["course"].keys() == stored["course"].keys()


class KilledError(Exception):
    """The process ends here."""


def test_a_killed_run_ends_like_one_that_was_not(
    data: LabelledData, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = judging.accuracies, []

    def dies(out: Path) -> list[dict]:
        calls.append(out)
        if len(calls) == 3:
            raise KilledError
        return real(out)

    monkeypatch.setattr(judging, "accuracies", dies)
    with pytest.raises(KilledError):
        finetune(toy_classifier(), data, TUNE, out=tmp_path / "run")
    assert finetune(toy_classifier(), data, TUNE, out=tmp_path / "run") == lines(tuned)
    expected = final(tuned)
    assert all(torch.equal(t, expected[k]) for k, t in final(tmp_path / "run").items())


def test_a_head_of_other_classes_is_kept_only_when_it_fits(
    data: LabelledData, tmp_path: Path
) -> None:
    classifier = open_classifier(save_toy(tmp_path / "ten", classes=10), pool="mean")
    with pytest.raises(InputError, match=r"names 10 classes, .* has 2; .*--new-head"):
        finetune(classifier, data, TUNE, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    options = replace(TUNE, new_head=True, epochs=1)
    assert best(finetune(classifier, data, options, out=tmp_path / "run")) >= 0.5
    with pytest.raises(InputError, match="pools by 'mean', not 'class'; give --pool mean"):
        open_classifier(tmp_path / "ten", pool="class")


def test_mistakes_end_before_any_work(data: LabelledData, tmp_path: Path, tuned: Path) -> None:
    out = tmp_path / "run"
    for wrong, message in (
        ({"image_size": 32}, "8x8 tokens, the encoder was trained on 4x4"),
        ({"batch_size": 64}, "batch_size=64 does not fit the 48 images"),
    ):
        with pytest.raises(InputError, match=message):
            probe(toy_classifier(), data, replace(LINEAR, **wrong), out=out)
    with pytest.raises(InputError, match="group=32 does not divide the 16 images"):
        finetune(toy_classifier(), data, replace(TUNE, mixing=Mixing()), out=out)
    faster = replace(TUNE, base_lr=1.0)
    with pytest.raises(InputError, match=r"other values of .*base_lr"):
        finetune(toy_classifier(), data, faster, out=tuned)
    other = replace(data, held_out=open_source(write_labelled(tmp_path / "a", 4, 4)))
    other.held_out.class_names = ("a", "b", "c")
    with pytest.raises(InputError, match="has 2 classes, another part 3"):
        probe(toy_classifier(), other, LINEAR, out=out)
    other.held_out.class_names = ()
    with pytest.raises(InputError, match="has no labels, and a classifier needs them on both"):
        probe(toy_classifier(), other, LINEAR, out=out)
    with pytest.raises(InputError, match=r"mix.*before they are tokenised"):
        finetune(toy_classifier(), replace(data, cache=object()), TUNE, out=out)
    assert not out.exists()


def test_scores_by_class() -> None:
    head = torch.nn.Linear(3, 3)
    head.weight.data, head.bias.data = torch.eye(3), torch.zeros(3)
    found = measure_accuracy(
        head, torch.eye(3)[[0, 1, 1, 2]], torch.tensor([0, 1, 2, 2]), classes=3
    )
    assert found.images.tolist() == [1, 1, 2]
    assert found.right.tolist() == [1, 1, 1]
    assert (found.top1, found.top5) == (0.75, 1.0)
    assert found.table(["a", "b", "c"]).splitlines()[-1] == "c\t2\t0.5000"
