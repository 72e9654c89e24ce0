"""Toys of every family, and words for every command that it can follow in a second or two."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from toy_latents import LATENT_TOY, latent_pipeline
from toy_mage import save_toy, toy_generator, write_labelled
from toy_system import NETWORK, TOKENIZER, TOY, toy_pipeline, toy_tokenizer

from unmask.counts import AncestralCounts
from unmask.data.build_cache import CacheLayout, build_cache
from unmask.data.source import open_source
from unmask.files.serial import write_yaml
from unmask.guidance import Guidance
from unmask.masking import BernoulliMasking
from unmask.nn.feedback import Feedback
from unmask.recipes.objectives import Contrastive, Substitution
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.recipes.training import Training
from unmask.tokenizers.conv_stack import ConvKL
from unmask.tokenizers.folder import save_tokenizer

FIXTURES = Path(__file__).parents[1] / "fixtures"
OWN = "def rows(images):\n    return images.flatten(2).mean(2)\nrows.identity = 'rows'\n"
TRAINED = {"tracker": "none", "steps": 1, "batch_size": 4}


class Command(NamedTuple):
    """A command on toys."""

    name: str
    """What a report calls it; commands of one name share the values that they try."""
    words: tuple[str, ...]
    """After "unmask", without options."""
    options: tuple[str, ...]
    """Options that it needs."""


def recipes() -> dict[str, Recipe]:
    """One of each family of generators, which one step trains."""
    network = replace(NETWORK, classes=2)
    training = replace(TOY.training, **TRAINED)
    plan = replace(TOY.plan, steps=2)
    maskgit = replace(TOY, network=network, training=training, plan=plan)
    plain = replace(training, label_dropout=0.0)
    mar = replace(
        LATENT_TOY,
        network=replace(LATENT_TOY.network, classes=2),
        training=training,
        plan=replace(LATENT_TOY.plan, steps=2),
    )
    return {
        "maskgit": maskgit,
        "self-guidance": replace(
            maskgit,
            network=replace(network, feedback=Feedback(factor=4)),
            substitution=Substitution(),
            plan=replace(plan, guidance=Guidance(weak="self", scale=2.0)),
        ),
        "mage": replace(toy_generator().recipe, training=plain, contrastive=Contrastive(hidden=8)),
        "mar": mar,
        "emigm": replace(
            mar,
            network=replace(mar.network, tied=True),
            masking=BernoulliMasking(),
            plan=replace(mar.plan, counts=AncestralCounts()),
        ),
    }


def tokenizer_recipes() -> dict[str, TokenizerRecipe]:
    """One with codes and one with latents."""
    training = Training(**TRAINED, ema=None)
    vq = TokenizerRecipe(
        name="toy", summary="a toy", image_size=16, network=TOKENIZER, training=training
    )
    return {"vq": vq, "kl": replace(vq, network=ConvKL(widths=(8, 8), blocks=(0, 0), channels=2))}


def write_place(root: Path) -> None:
    """Everything that the commands read."""
    write_labelled(root / "images", train=12, val=8)
    save_tokenizer(toy_tokenizer(), root / "vq")
    names = ("dark", "light")
    base = recipes()["maskgit"]
    toy_pipeline(base).save_pretrained(root / "base")
    latent_pipeline(recipes()["mar"]).save_pretrained(root / "latent")
    toy_generator().save_pretrained(root / "mage")
    save_toy(root / "tuned")
    for kind, recipe in {**recipes(), **tokenizer_recipes()}.items():
        write_yaml(recipe, root / f"{kind}.yaml")
    source = open_source(root / "images")
    assert source.class_names == names
    build_cache(
        toy_tokenizer(),
        source,
        out=root / "cache",
        layout=CacheLayout(image_size=16),
        progress=False,
    )
    (root / "own.py").write_text(OWN)
    _write_foreign(root)


def _write_foreign(root: Path) -> None:
    """A cache of maskgit-pytorch and a network of UnlockMGM."""
    (root / "theirs").mkdir()
    for row in range(3):
        ids = np.full((2, 16), row)
        np.savez(root / "theirs" / f"{row:06d}.npz", idx=ids[0], idx_flip=ids[1])
    (root / "port").mkdir()
    state = load_file(FIXTURES / "maskgit" / "um_logits.weights.safetensors")
    torch.save(state, root / "port" / "pytorch_model.bin")
    spec = json.loads((FIXTURES / "maskgit" / "um_logits.json").read_text())["config"]
    named = spec | {"_class_name": "MaskGitTransformer"}
    (root / "port" / "config.json").write_text(json.dumps(named))


RUN = Path(__file__).parents[1] / "fixtures" / "takeover" / "maskgit_pytorch"


def commands(root: Path) -> list[Command]:
    """Every command on the toys of :func:`write_place`, several with more than one of them."""
    made: list[Command] = []

    def add(name: str, words: str, options: str) -> None:
        places = {"ROOT": str(root)}
        placed = [[word.format(**places) for word in part.split()] for part in (words, options)]
        made.append(Command(name, tuple(placed[0]), tuple(placed[1])))

    images, course = "--data {ROOT}/images", "--batch-size 8 --epochs 1 --warmup-epochs 0"
    course = f"{images} --out out {course} --crop none --tracker none"
    for kind in recipes():
        tokenizer = "" if kind in ("mar", "emigm") else "--tokenizer {ROOT}/vq"
        based = "--base {ROOT}/base" if kind == "self-guidance" else ""
        add("train", f"train {{ROOT}}/{kind}.yaml", f"{images} --out out {tokenizer} {based}")
    add("train", f"takeover {RUN} out", "")  # its options are train's, but for a few
    for kind in tokenizer_recipes():
        add("tokenizer train", f"tokenizer train {{ROOT}}/{kind}.yaml", f"{images} --out out")
    for model in ("base", "latent", "mage"):
        add("sample", f"sample {{ROOT}}/{model}", "--per-class 1 --out out --device cpu")
    judged = f"{images} --count 4 --device cpu --features own:rows"
    for subject in ("base", "latent"):
        add("eval", f"eval {{ROOT}}/{subject}", judged)
    compared = f"{images} --count 2 --image-size 16 --device cpu"
    add("tokenizer eval", "tokenizer eval {ROOT}/vq", compared)
    encoded = f"{images} --tokenizer {{ROOT}}/vq --out out --image-size 16 --device cpu"
    add("cache build", "cache build", encoded)
    add("cache convert", "cache convert {ROOT}/theirs", "--from maskgit-pytorch --out out")
    add("cache info", "cache info {ROOT}/cache", "")
    add("cache verify", "cache verify {ROOT}/cache", "")
    add("probe", "probe {ROOT}/mage", course)
    add("finetune", "finetune {ROOT}/tuned", f"{course} --mixing.group 2")
    add("images", "images {ROOT}/images", "--image-size 16 --split all --out out")
    add("features", "features {ROOT}/mage", f"{images} --out f.npy --crop none --device cpu")
    add("convert", "convert {ROOT}/port out", "")
    add("export", "export {ROOT}/base out", "--to maskgit-pytorch")
    add("images", "images {ROOT}/images", "--out out --image-size 16")
    add("estimate", "estimate {ROOT}/mar.yaml", "--gpus 1")
    add("recipes", "recipes fashion-maskgit", "")
    add("demo", "demo", "--out out --device cpu")
    return made
