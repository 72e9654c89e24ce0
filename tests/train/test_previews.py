"""Scores while a generator trains: the same as later ones, and no trace of them in the training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gloo import joined
from PIL import Image
from toy_latents import LATENT_TOY
from toy_run import outcome
from toy_system import TOY, toy_tokenizer, write_images

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import ImageSource, open_source
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.evaluate import evaluation
from unmask.evaluate.classifier import ConvClassifier, TrainedClassifier
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.features import Features
from unmask.evaluate.generated import Generated
from unmask.evaluate.measure import measure_statistics
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages, real_batches
from unmask.evaluate.reference import write_statistics
from unmask.guidance import Guidance
from unmask.nn.diffusion import DiffusionDraw
from unmask.pipeline import Pipeline, load
from unmask.recipes.recipe import Recipe
from unmask.recipes.training import Training
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.train import previews
from unmask.train.generator import make_task

IMAGES, STEPS = 6, 6
FIGURES = ["eval/fd", "eval/is", "eval/accuracy"]
LOSSES = ["eval/loss", "eval/loss_raw"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, their codes and their patches."""
    root = tmp_path_factory.mktemp("place")
    write_images(root / "images" / "train", 24)
    write_images(root / "images" / "val", 8)
    source = open_source(root / "images")
    for name, tokenizer in (("codes", toy_tokenizer()), ("patches", patches())):
        layout = CacheLayout(image_size=16)
        build_cache(tokenizer, source, out=root / name, layout=layout, progress=False)
    network = ConvClassifier(channels=3, classes=2, size=16)
    network.init_weights(torch.Generator().manual_seed(0))
    TrainedClassifier(
        network=network.eval(), name="toy", channels=3, size=(16, 16), classes=2
    ).save(root / "classifier.safetensors")
    return root


class FewFeatures:
    """Eight averages of the pixels, whose distance costs nothing."""

    name = identity = "few"
    width = 8

    def __init__(self, *, resize: int, device: torch.device | str) -> None:
        assert torch.device(device).type == "cpu"

    def __call__(self, images: torch.Tensor) -> Features:
        pooled = images.float().flatten(1).unfold(1, 96, 96).mean(-1) / 255  # (B, 8)
        return Features(pooled, pooled.softmax(1))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "EfficientNetLite0", FewFeatures)


def patches() -> ImageTokenizer:
    return load_tokenizer(LATENT_TOY.tokenizer)


def held_out(place: Path) -> ImageSource:
    return open_source(place / "images", split="val")


def recipe_of(recipe: Recipe, **training: Any) -> Recipe:
    options = {"steps": STEPS, "log_every": 1, "save_every": 2, "tracker": "none", **training}
    return replace(
        recipe,
        network=replace(recipe.network, classes=2),
        training=replace(recipe.training, **options),
    )


def scored(place: Path, recipe: Recipe = TOY, **training: Any) -> Recipe:
    judge = str(place / "classifier.safetensors")
    options = {"evaluate_every": 4, "evaluate_images": IMAGES, "evaluate_classifier": judge}
    return recipe_of(recipe, **options | training)


def run(place: Path, recipe: Recipe, out: Path, *, images: bool = True) -> list[dict]:
    """Train; the lines of the log that tell of the weights."""
    of_codes = recipe.tokenizer == TOY.tokenizer
    make_task(recipe, toy_tokenizer() if of_codes else patches()).train(
        LatentCache.open(place / ("codes" if of_codes else "patches")),
        out=out,
        held_out=held_out(place) if images else None,
    )
    return notes_of(out)


def notes_of(out: Path) -> list[dict]:
    """The lines of a log that tell of the weights."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" not in line]


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("recipe", [TOY, LATENT_TOY], ids=["codes", "latents"])
def test_scores_leave_no_trace_in_the_training(place: Path, tmp_path: Path, recipe: Recipe) -> None:
    notes = run(place, scored(place, recipe), tmp_path / "with")
    run(place, recipe_of(recipe), tmp_path / "without")
    weights, state, lines = outcome(tmp_path / "with")
    assert (weights, state) == outcome(tmp_path / "without")[:2]
    losses = [line for line in lines if "loss" in line]
    assert losses == [line for line in outcome(tmp_path / "without")[2] if "loss" in line]
    scores = [line for line in notes if "eval/fd" in line]
    assert [line["step"] for line in scores] == [4, STEPS]
    for line in scores:
        names = {name for name in line if name.startswith("eval/")}
        assert names == {*FIGURES, *(f"{name}_guided" for name in FIGURES), *LOSSES}


@pytest.mark.usefixtures("few")
def test_the_last_scores_are_those_of_the_finished_model(place: Path, tmp_path: Path) -> None:
    recipe = scored(place, steps=2)
    strong = Guidance(scale=50.0)  # two steps of training teach the classes little
    recipe = replace(recipe, plan=replace(recipe.plan, guidance=strong))
    (last,) = run(place, recipe, tmp_path / "run")
    pipeline = load(tmp_path / "run")
    real = RealImages(
        open_source(place / "images"), held_out(place), Transform(size=16, channels=3)
    )
    options = EvaluationOptions(count=IMAGES)
    for kind, plan in (
        ("", replace(pipeline.plan, guidance=Guidance())),
        ("_guided", pipeline.plan),
    ):
        subject = Generated.of_pipeline(pipeline, options, plan)
        report = evaluate(subject, real, options=options)
        assert report is not None
        assert last[f"eval/fd{kind}"] == pytest.approx(report.rows[0].fd, rel=1e-9)
        assert last[f"eval/is{kind}"] == pytest.approx(report.rows[0].inception_score, rel=1e-9)
    assert last["eval/fd"] != last["eval/fd_guided"]


@pytest.mark.usefixtures("few")
def test_a_stopped_run_has_the_same_scores(place: Path, tmp_path: Path) -> None:
    whole = run(place, scored(place, keep=3), tmp_path / "whole")
    for left in (4, 2):  # stopped after the scores of step 4, and before them
        shutil.copytree(tmp_path / "whole", tmp_path / str(left))
        for step in range(left + 2, STEPS + 1, 2):
            shutil.rmtree(tmp_path / str(left) / "checkpoints" / f"step-{step:07d}")
        assert run(place, scored(place, keep=3), tmp_path / str(left)) == whole
    assert run(place, recipe_of(TOY, keep=3), tmp_path / "2") == whole, "now without scores"


@pytest.mark.usefixtures("few")
def test_looks_that_a_kill_prevented_are_made_good(place: Path, tmp_path: Path) -> None:
    """A save comes before its looks, so a kill between them leaves a checkpoint without them."""
    out, recipe = tmp_path / "run", scored(place, keep=3)
    whole = run(place, recipe, out)
    picture = out / "samples" / f"step-{STEPS:07d}-raw.png"
    content = picture.read_bytes()
    picture.unlink()
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)
    kept = [line for line in lines if not ("eval/fd" in line and f'"step": {STEPS},' in line)]
    assert len(kept) == len(lines) - 1
    (out / "log.jsonl").write_text("".join(kept))
    assert run(place, recipe, out) == whole
    assert picture.read_bytes() == content
    assert run(place, recipe, out) == whole, "and not twice"


def test_sheets_can_be_switched_off(place: Path, tmp_path: Path) -> None:
    run(place, recipe_of(TOY, preview_images=0, preview_every=1), tmp_path / "none")
    assert not (tmp_path / "none" / "samples").exists()
    run(place, recipe_of(TOY, preview_images=5), tmp_path / "five")
    assert len(list((tmp_path / "five" / "samples").iterdir())) == 2  # averaged and raw
    (sheet,) = (Image.open(p) for p in (tmp_path / "five" / "samples").glob("*raw.png"))
    assert 4 * sheet.height < sheet.width < 6 * sheet.height


def test_a_sheet_is_decoded_in_small_parts(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    real = previews.generate

    def counted(*args: Any, batch_size: int, **more: Any) -> Any:
        sizes.append(batch_size)
        return real(*args, batch_size=batch_size, **more)

    monkeypatch.setattr(previews, "generate", counted)
    run(place, recipe_of(TOY, preview_images=10), tmp_path / "small")
    monkeypatch.setattr(previews, "TOGETHER", 10)
    run(place, recipe_of(TOY, preview_images=10), tmp_path / "large")
    assert sizes == [4, 4, 10, 10]
    small, large = (sorted((tmp_path / n / "samples").iterdir()) for n in ("small", "large"))
    assert [p.read_bytes() for p in small] == [p.read_bytes() for p in large]


@pytest.mark.usefixtures("few")
def test_a_plan_without_guidance_is_scored_once(place: Path, tmp_path: Path) -> None:
    recipe = scored(place, steps=2, evaluate_classifier=None, ema=None)
    recipe = replace(recipe, plan=replace(recipe.plan, guidance=Guidance()))
    (line,) = run(place, recipe, tmp_path)
    assert line.keys() == {"step", "eval/fd", "eval/is", "eval/loss"}


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_work(place: Path, tmp_path: Path, processes: int) -> None:
    alone = run(place, scored(place, steps=2), tmp_path / "one")

    def one(rank: int) -> None:
        run(place, scored(place, steps=2), tmp_path / "more")

    assert joined(processes, one) == [0] * processes
    shared = notes_of(tmp_path / "more")
    assert len(shared) == len(alone) == 1
    assert shared[0].keys() == alone[0].keys() >= set(FIGURES + LOSSES)
    for name, value in alone[0].items():
        assert shared[0][name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.usefixtures("few")
def test_statistics_take_the_place_of_held_out_images(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    recipe = scored(place, steps=2)
    (by_images,) = run(place, recipe, tmp_path / "images")
    transform = Transform(size=16, channels=3)
    real = real_batches(held_out(place), transform, count=IMAGES)
    found = measure_statistics(real, FewFeatures(resize=1, device="cpu"), source="val")
    file = str(tmp_path / "statistics.npz")
    write_statistics(file, found)
    recipe = scored(place, steps=2, evaluate_reference=file)
    (by_file,) = run(place, recipe, tmp_path / "file", images=False)
    assert by_file["eval/fd"] == pytest.approx(by_images["eval/fd"], rel=1e-9)
    assert not set(LOSSES) & by_file.keys()
    assert capsys.readouterr().out.count("no eval/loss: no held-out images of 2 classes") == 1


@pytest.mark.usefixtures("few")
def test_a_held_out_cache_has_the_loss_of_its_images(place: Path, tmp_path: Path) -> None:
    """So a training without images has it too, beside scores by statistics."""
    layout, out = CacheLayout(image_size=16, flip=False), tmp_path / "held-out"
    build_cache(toy_tokenizer(), held_out(place), out=out, layout=layout, progress=False)
    recipe = scored(place, steps=2)
    (by_images,) = run(place, recipe, tmp_path / "images")
    real = Transform(size=16, channels=3)
    batches = real_batches(held_out(place), real, count=IMAGES)
    found = measure_statistics(batches, FewFeatures(resize=1, device="cpu"), source="val")
    write_statistics(tmp_path / "statistics.npz", found)
    recipe = scored(place, steps=2, evaluate_reference=str(tmp_path / "statistics.npz"))
    task = replace(make_task(recipe, toy_tokenizer()), held_out=LatentCache.open(out))
    task.train(LatentCache.open(place / "codes"), out=tmp_path / "run")
    (line,) = notes_of(tmp_path / "run")
    for name in LOSSES:
        assert line[name] == pytest.approx(by_images[name], rel=1e-6)


def test_a_named_network_scores_and_a_missing_one_is_refused(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = scored(place, steps=2, evaluate_inception=str(tmp_path / "inception.pth"))
    with pytest.raises(InputError, match=r"inception\.pth"):
        run(place, recipe, tmp_path / "run")
    asked = []

    def load_it(path: Path, device: torch.device) -> FewFeatures:
        asked.append(path.name)
        return FewFeatures(resize=299, device=device)

    monkeypatch.setattr(evaluation, "load_inception", load_it)
    (line,) = run(place, recipe, tmp_path / "run")
    assert asked == ["inception.pth"]
    assert line["eval/fd"] > 0


@pytest.mark.usefixtures("few")
def test_images_without_guidance_have_a_temperature_of_their_own(place: Path) -> None:
    recipe = scored(place, LATENT_TOY, evaluate_temperature=0.95)
    recipe = replace(recipe, plan=replace(recipe.plan, guidance=Guidance(scale=2.0)))
    pipeline = Pipeline(recipe, recipe.network.build(), patches(), ("a", "b"))
    plans = previews.OnlineScores(pipeline, held_out(place), usual=1.0).plans
    temperatures = {kind: plan.draw.temperature for kind, plan in plans.items()}  # type: ignore[attr-defined]
    assert temperatures == {"": 0.95, "_guided": 1.0}
    assert plans[""].guidance == Guidance()


@pytest.mark.usefixtures("few")
def test_the_best_weights_are_kept_as_a_model(place: Path, tmp_path: Path) -> None:
    options = {"steps": 8, "evaluate_every": 1, "keep_best": True, "lr": 0.1}
    recipe = scored(place, evaluate_classifier=None, **options)
    notes = run(place, recipe, tmp_path)
    best = min(notes, key=lambda line: line["eval/fd"])
    assert best["step"] < 8, "the last one is in model/ anyway"
    pipeline = load(tmp_path / "best", device="cpu")
    scores = previews.OnlineScores(pipeline, held_out(place), usual=1.0)
    again = scores(tmp_path / "elsewhere" / "samples", 0, True)
    assert again["eval/fd"] == pytest.approx(best["eval/fd"], rel=1e-9)
    with pytest.raises(InputError, match="evaluate_every"):
        Training(steps=1, keep_best=True)


def test_what_cannot_be_scored_is_refused_first(place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"evaluate_every=4 .* give --data"):
        run(place, scored(place), tmp_path / "a", images=False)
    recipe = scored(place, evaluate_every=1)
    fashion = replace(recipe, training=replace(recipe.training, evaluate_classifier="fashion"))
    with pytest.raises(InputError, match=r"\(1, 28, 28\)"):
        run(place, fashion, tmp_path / "b")
    with pytest.raises(InputError, match="cannot read the classifier"):
        run(place, replace(fashion, training=replace(fashion.training, evaluate_classifier="x")),
            tmp_path / "c")  # fmt: skip
    with pytest.raises(InputError, match="evaluate_images=1"):
        Training(steps=1, evaluate_every=1, evaluate_images=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few")
def test_a_run_that_diverges_in_sampling_is_told_once_a_step(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    plan = replace(LATENT_TOY.plan, draw=DiffusionDraw(respacing="10"))
    recipe = scored(place, replace(LATENT_TOY, plan=plan), preview_every=3)
    notes = run(place, recipe, tmp_path)
    warnings = [(line["step"], line["warning"]) for line in notes if "warning" in line]
    assert [step for step, _ in warnings] == [3, 4, STEPS]
    assert all("begins at step 999" in text for _, text in warnings)
    said = capsys.readouterr().out.splitlines()
    assert sum("diverged" in line for line in said) == 3
    assert all("'ddim25'" in line for line in said if "diverged" in line)
    assert previews.usual_size(LatentCache.open(place / "patches")) == pytest.approx(0.65, abs=0.3)
