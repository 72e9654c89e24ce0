"""A saved system is the system; what cannot be loaded or asked for is one line."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_latents import latent_pipeline
from toy_system import NAMES, TOY, UNCONDITIONAL, toy_pipeline, toy_tokenizer

import unmask
from unmask.assets import shipped_names
from unmask.checkpoints import locate
from unmask.checkpoints.store import Saved, save_together
from unmask.errors import InputError
from unmask.generation import compute_of
from unmask.pipeline import Pipeline, load
from unmask.tokenizers.folder import save_tokenizer


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_saved_system_makes_the_same_images(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    pipeline.save_pretrained(tmp_path / "model")
    back = load(tmp_path / "model")
    assert back.recipe == pipeline.recipe
    assert back.plan == TOY.plan
    assert back.class_names == NAMES
    assert back.tokenizer.identity == pipeline.tokenizer.identity
    assert not any(p.requires_grad for p in back.model.parameters())
    assert not back.model.training
    labels = ["cat", "dog", 0]
    one, other = pipeline(labels, seeds=5), back(labels, seeds=5)
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.pixels, other.pixels)
    assert one.pixels.shape == (3, 3, 16, 16)
    assert one.seeds == [5, 6, 7]
    assert one.class_labels is not None
    assert one.class_labels.tolist() == [0, 1, 0]


def test_half_precision_halves_the_file_and_rounds_the_weights(tmp_path: Path) -> None:
    pipeline = toy_pipeline()
    pipeline.save_pretrained(tmp_path / "full")
    pipeline.save_pretrained(tmp_path / "half", half=True)
    sizes = [(tmp_path / f / "model.safetensors").stat().st_size for f in ("full", "half")]
    assert sizes[1] < 0.6 * sizes[0]
    halves = load(tmp_path / "half").model.state_dict()
    for name, weight in pipeline.model.state_dict().items():
        assert torch.equal(halves[name], weight.half().float())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["maskgit", "selfguidance", "mage", "mar", "emigm"])
def test_weights_of_half_precision_make_the_shipped_systems_images_nearly(
    name: str, dtype: torch.dtype
) -> None:
    exact, rounded = (load(f"fashion-{name}", dtype=kind) for kind in (None, dtype))
    assert (exact.dtype, rounded.dtype) == (torch.float32, dtype)
    assert rounded.device == torch.device("cpu")
    labels = [0, 1] if exact.model.classes else None
    plan = replace(exact.plan, steps=2)
    one, other = (some(labels, seeds=[3, 4], plan=plan) for some in (exact, rounded))
    assert one.tokens.dtype == other.tokens.dtype
    if one.tokens.is_floating_point():
        error = (one.tokens - other.tokens).abs().mean()
        assert 0 < error < (0.03 if dtype == torch.bfloat16 else 0.004)
    else:
        assert (one.tokens == other.tokens).float().mean() > 0.5
    assert compute_of(rounded).precision == ("bf16" if dtype == torch.bfloat16 else "fp16")
    with pytest.raises(InputError, match=r"compute=float32 needs float32 weights.*without dtype"):
        rounded(labels, seeds=[3, 4], compute="float32")


def test_types_are_converted_like_devices_and_back() -> None:
    pipeline = latent_pipeline()
    table = pipeline.model.head.tables.clone()
    assert pipeline.to(torch.bfloat16) is pipeline
    assert pipeline.to("cpu", torch.float16).dtype == torch.float16
    assert pipeline.to("cpu").dtype == torch.float16
    pipeline.to(dtype=torch.float32)
    assert pipeline.dtype == torch.float32
    assert torch.equal(pipeline.model.head.tables, table)  # the loss's, which must not be rounded
    with pytest.raises(InputError, match=r"dtype=torch.int8 is no type .* torch.bfloat16"):
        pipeline.to(torch.int8)


def test_a_run_leads_to_its_export(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path / "run" / "model")
    (tmp_path / "run" / "log.jsonl").write_text("")
    assert load(tmp_path / "run").recipe == TOY


def test_a_hub_name_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_pipeline().save_pretrained(tmp_path / "snapshot")
    asked = []
    monkeypatch.setattr(
        locate, "fetch_repository", lambda n: asked.append(n) or tmp_path / "snapshot"
    )
    assert load("owner/toy").recipe == TOY
    assert asked == ["owner/toy"]


def test_a_missing_name_lists_what_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing is saved at 'fashion-maskgti'; shipped: ") as e:
        load("fashion-maskgti")
    assert all(name in str(e.value) for name in shipped_names())
    with pytest.raises(InputError, match="no model and no ended run"):
        load(tmp_path)


def test_other_models_are_told_apart(tmp_path: Path) -> None:
    save_tokenizer(toy_tokenizer(), tmp_path / "vq")
    with pytest.raises(InputError, match="holds no unmask model, but 'unmask-tokenizer'"):
        load(tmp_path / "vq")
    toy_pipeline().save_pretrained(tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["recipe"]["network"]["depth"] = 3
    weights = toy_pipeline().model.state_dict()
    save_together(Saved(tmp_path / "model", weights, config))
    with pytest.raises(InputError, match="is it of another network"):
        load(tmp_path / "model")


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (b"", whole[:40], whole[:-5]):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(InputError, match="is damaged") as error:
            load(tmp_path)
        assert "\n" not in str(error.value)


def test_saving_goes_over_an_earlier_model_and_nothing_else(tmp_path: Path) -> None:
    first, second = toy_pipeline(), toy_pipeline(key="other")
    first.save_pretrained(tmp_path / "model")
    second.save_pretrained(tmp_path / "model")
    assert torch.equal(
        load(tmp_path / "model").model.embed.tokens.weight, second.model.embed.tokens.weight
    )
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "file").write_text("x")
    before = files(tmp_path)
    with pytest.raises(InputError, match=r"holds 'config\.json' but no model of this library"):
        first.save_pretrained(tmp_path / "other")
    with pytest.raises(InputError, match="is a file; name a new folder"):
        first.save_pretrained(tmp_path / "file")
    assert files(tmp_path) == before


def test_without_a_tokenizer_there_are_tokens_and_no_pixels(tmp_path: Path) -> None:
    whole = toy_pipeline()
    whole.save_pretrained(tmp_path)
    toy_pipeline(pixels=False).save_pretrained(tmp_path)  # over one that had a tokenizer
    bare = load(tmp_path)
    assert not bare.has_tokenizer
    made = bare.tokens(["cat", "7"], seeds=[3, 9])
    assert torch.equal(made.tokens, whole(["cat", "7"], seeds=[3, 9]).tokens)
    assert made.seeds == [3, 9]
    for ask in (lambda: bare(["cat"]), lambda: bare.tokenizer):
        with pytest.raises(InputError, match="came without its tokenizer, 'toy-vq'") as error:
            ask()
        assert "\n" not in str(error.value)


def test_a_deleted_tokenizer_is_a_missing_one(tmp_path: Path) -> None:
    toy_pipeline().save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "tokenizer")
    assert not load(tmp_path).has_tokenizer


def test_a_tokenizer_of_other_codes_is_refused() -> None:
    recipe = replace(TOY, network=replace(TOY.network, codes=17))
    with pytest.raises(InputError, match="the tokenizer has 16 codes and the network 17"):
        toy_pipeline(recipe)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["cow"], "unknown class 'cow'; known: 7, Dog, cat"),
        (["dgo"], "unknown class 'dgo'; did you mean 'Dog'"),
        ([3], "class 3 is out of range; use 0 to 2"),
        ([-1], "class -1 is out of range; use 0 to 2"),
    ],
)
def test_unknown_classes(asked: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        toy_pipeline()(asked)


def test_classes_by_name_or_number() -> None:
    assert toy_pipeline().labels(["DOG", 0, "7", "1"]) == [1, 0, 2, 1]
    nameless = Pipeline(TOY, toy_pipeline().model, None)
    assert nameless.labels([2, "1"]) == [2, 1]


def test_an_unconditional_model_takes_seeds_alone() -> None:
    pipeline = toy_pipeline(UNCONDITIONAL)
    made = pipeline(seeds=[4, 4, 5])
    assert made.class_labels is None
    assert torch.equal(made.tokens[0], made.tokens[1])
    assert not torch.equal(made.tokens[0], made.tokens[2])
    with pytest.raises(InputError, match="this model is unconditional: leave out"):
        pipeline(["cat"])


def test_the_package_gives_its_names_late() -> None:
    assert unmask.load is load
    assert unmask.Pipeline is Pipeline
    assert unmask.recipes.get("fashion-maskgit").name == "fashion-maskgit"
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = unmask.lod
