"""The whole path on embedded images: tokenizer, cache, generator, samples, scores, report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.generated import Generated, generated_batches
from unmask.evaluate.image_batch import gather
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages, real_batches, reconstructed
from unmask.evaluate.report import Report
from unmask.film import unmasking
from unmask.memory import peak_memory
from unmask.pipeline import Pipeline, load
from unmask.ranges import Ranged
from unmask.recipes.maskgit import FASHION
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import FASHION_VQ, TokenizerRecipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.train.generator import make_task
from unmask.train.tokenizer import train_tokenizer

EACH = 10  # samples of a class that are shown


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Ranged):
    """Recipes and scores of the demo; the defaults fit two CPU cores and eight minutes."""

    tokenizer: TokenizerRecipe = FASHION_VQ
    """Recipe of the tokenizer."""
    recipe: Recipe = FASHION
    """Recipe of the generator on the tokenizer's codes."""
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(classifier="fashion")
    )
    """How the samples are scored, and the device of sampling and scoring; training goes where the
    launcher says."""


@dataclass(frozen=True)
class Stage:
    """Time and memory of one part of the demo.

    Args:
        peak_gb: Largest resident memory of the process so far, in GB.
    """

    name: str
    seconds: float
    peak_gb: float


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything the report shows.

    Args:
        out: Folder of the demo's runs.
        stages: Parts of the demo in their order.
        scores: Scores of generated images and of both floors.
        pipeline: The trained system.
        samples: ``(classes x 10, C, H, W)`` uint8, ten a class.
        film: ``(S, classes, C, H, W)`` float32 in [0, 1], one image a class, step by step.
        originals: ``(20, C, H, W)`` uint8 held-out images.
        reconstructions: ``(20, C, H, W)`` uint8, the originals through the tokenizer and back.
    """

    out: Path
    stages: list[Stage]
    scores: Report
    pipeline: Pipeline
    samples: Tensor
    film: Tensor
    originals: Tensor
    reconstructions: Tensor

    def line(self) -> str:
        """The result in one line."""
        generated, reconstruction, real = self.scores.rows
        seconds = sum(stage.seconds for stage in self.stages)
        return (
            f"demo: class_accuracy={generated.class_accuracy:.3f} fd={generated.fd:.1f} "
            f"fd_reconstruction={reconstruction.fd:.1f} fd_real={real.fd:.1f} "
            f"seconds={seconds:.0f} peak_gb={peak_memory() / 1e9:.2f}"
        )


def run_demo(out: Path, options: DemoOptions | None = None) -> DemoResult:
    """Train, sample and judge; a stopped demo continues where it was.

    Args:
        out: folder for the tokenizer, cache and generator runs.
        options: see :class:`DemoOptions`.

    Raises:
        InputError: when ``out`` holds another run, or there is no such device.
    """
    options = options or DemoOptions()
    recipe = replace(options.recipe, tokenizer=str(out / "tokenizer"))
    how, device = options.evaluation, options.evaluation.place  # needed only after the training
    stages: list[Stage] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        """Time a part and say that it begins."""
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        yield
        stages.append(Stage(name, time.monotonic() - began, peak_memory() / 1e9))

    real = RealImages(
        open_source("fashion-mnist"),
        open_source("fashion-mnist", split="val"),
        Transform(size=recipe.image_size, crop=recipe.crop, channels=1),
    )
    with stage("tokenizer"):
        train_tokenizer(options.tokenizer, real.train, out=out / "tokenizer")
        tokenizer = load_tokenizer(out / "tokenizer")
    with stage("cache"):
        layout = CacheLayout(image_size=recipe.image_size, flip=recipe.flip)
        build_cache(tokenizer, real.train, out=out / "cache", layout=layout)
        cache = LatentCache.open(out / "cache", tokenizer_identity=tokenizer.identity)
    with stage("generator"):
        make_task(recipe, tokenizer).train(cache, out=out / "generator")
        pipeline = load(out / "generator", device=device)
    with stage("samples"):
        classes = range(pipeline.model.classes)
        first = replace(how, count=EACH * len(classes))
        samples = gather(generated_batches(pipeline, first)).images  # the classes in turn
        film = unmasking(pipeline, classes, seeds=classes)
    with stage("scores"):
        made = Generated.of_pipeline(pipeline, how, pipeline.plan)
        scores = evaluate(made, real, options=how)
    originals = next(real_batches(real.held_out, real.still, count=20))
    return DemoResult(
        out=out,
        stages=stages,
        scores=scores,
        pipeline=pipeline,
        samples=samples.unflatten(0, (EACH, -1)).transpose(0, 1).flatten(0, 1),
        film=film,
        originals=originals.images,
        reconstructions=reconstructed(pipeline.tokenizer, device, originals).images,
    )
