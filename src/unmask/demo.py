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
from unmask.data.source import ImageSource, open_source
from unmask.data.transform import Transform
from unmask.evaluate.evaluation import evaluate
from unmask.evaluate.generated import Generated, generated_batches
from unmask.evaluate.image_batch import gather
from unmask.evaluate.options import EvaluationOptions
from unmask.evaluate.real_images import RealImages, real_batches
from unmask.evaluate.report import Report
from unmask.film import unmasking
from unmask.machine.devices import resolve_device
from unmask.memory import peak_memory
from unmask.pictures import to_float
from unmask.pipeline import Pipeline, load
from unmask.ranges import Name, Ranged
from unmask.recipes.maskgit import FASHION
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import FASHION_VQ, TokenizerRecipe
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.tokenizer import Tokenizer
from unmask.train.generator import make_task
from unmask.train.tokenizer import train_tokenizer

EACH = 10  # samples of a class that are shown


@dataclass(frozen=True, kw_only=True)
class DemoOptions(Ranged):
    """What the demo does; the defaults fit two CPU cores and eight minutes."""

    tokenizer: TokenizerRecipe = FASHION_VQ
    """First stage."""
    recipe: Recipe = FASHION
    """Second stage."""
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(classifier="fashion")
    )
    """How the samples are scored."""
    device: Name = "auto"
    """Device of sampling and scoring: cpu, cuda, mps; auto takes the machine's accelerator if it
    has one. Training goes where the launcher says."""


@dataclass(frozen=True)
class Stage:
    """What a part of the demo cost."""

    name: str
    seconds: float
    peak_gb: float
    """Largest resident memory of the process so far, in GB."""


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Everything the report shows."""

    out: Path
    """Folder of the demo."""
    stages: list[Stage]
    """In order."""
    scores: Report
    """Generated images and both floors."""
    pipeline: Pipeline
    """The trained system."""
    samples: Tensor
    """``(classes x 10, C, H, W)`` uint8, ten a class."""
    film: Tensor
    """``(S, classes, C, H, W)`` float32 in [0, 1], one image a class, step by step."""
    originals: Tensor
    """``(20, C, H, W)`` uint8 held-out images."""
    reconstructions: Tensor
    """The same through the tokenizer and back."""

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
    resolve_device(options.device)  # now, because it is needed only after the training
    stages: list[Stage] = []

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        """Time a part and say that it begins."""
        print(f"--- {name}", flush=True)
        began = time.monotonic()
        yield
        stages.append(Stage(name, time.monotonic() - began, peak_memory() / 1e9))

    train = open_source("fashion-mnist")
    held_out = open_source("fashion-mnist", split="val")
    transform = _transform(options.recipe)
    with stage("tokenizer"):
        train_tokenizer(options.tokenizer, train, out=out / "tokenizer")
        tokenizer = load_tokenizer(out / "tokenizer")
    with stage("cache"):
        cache = _cache(tokenizer, train, out / "cache", options.recipe)
    with stage("generator"):
        make_task(_named(options.recipe, out), tokenizer).train(cache, out=out / "generator")
        pipeline = load(out / "generator", device=options.device)
    with stage("samples"):
        classes = range(pipeline.model.classes)
        first = replace(options.evaluation, count=EACH * len(classes))
        samples = gather(generated_batches(pipeline, first)).images  # the classes in turn
        film = unmasking(pipeline, classes, seeds=classes)
    with stage("scores"):
        how = replace(options.evaluation, device=options.device)
        made = Generated.of_pipeline(pipeline, how, pipeline.plan)
        scores = evaluate(made, RealImages(train, held_out, transform), options=how)
    originals = next(real_batches(held_out, transform, count=20)).images
    pixels = originals.to(resolve_device(options.device))
    return DemoResult(
        out=out,
        stages=stages,
        scores=scores,
        pipeline=pipeline,
        samples=samples.unflatten(0, (EACH, -1)).transpose(0, 1).flatten(0, 1),
        film=film,
        originals=originals,
        reconstructions=pipeline.tokenizer.reconstruct(to_float(pixels)).cpu(),
    )


def _transform(recipe: Recipe) -> Transform:
    return Transform(size=recipe.image_size, crop=recipe.crop, channels=1)


def _named(recipe: Recipe, out: Path) -> Recipe:
    return replace(recipe, tokenizer=str(out / "tokenizer"))


def _cache(tokenizer: Tokenizer, source: ImageSource, folder: Path, recipe: Recipe) -> LatentCache:
    layout = CacheLayout(image_size=recipe.image_size, flip=recipe.flip)
    build_cache(tokenizer, source, out=folder, layout=layout)
    return LatentCache.open(folder, tokenizer_identity=tokenizer.identity)
