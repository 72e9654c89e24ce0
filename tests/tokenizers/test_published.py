"""Published tokenizers in their own containers become tokenizers that compute the same."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import Tensor
from toy_tokenizers import WRITERS, make, source_state

from unmask.errors import InputError
from unmask.tokenizers import published
from unmask.tokenizers.published import PUBLISHED, holds_tokenizer, load_published
from unmask.tokenizers.tokenizer import Tokenizer
from unmask.tokenizers.vqgan import VQGAN

FAMILIES = {
    "titok": "maskgit_vqgan",
    "unlockmgm": "maskgit_vqgan",
    "taming": "vqgan",
    "llamagen": "vqgan",
    "amused": "vqgan",
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_container_becomes_a_tokenizer_that_computes_the_same(
    fixtures: Path, tmp_path: Path, name: str
) -> None:
    toy = make(fixtures, tmp_path, name)
    assert holds_tokenizer(toy.path)
    tokenizer = load_published(toy.path)
    assert isinstance(tokenizer, Tokenizer)
    assert tokenizer.family == FAMILIES[name]
    assert not tokenizer.training
    assert not any(p.requires_grad for p in tokenizer.parameters())
    assert torch.equal(tokenizer.encode(toy.images), toy.image_ids)
    torch.testing.assert_close(tokenizer.decode(toy.ids), toy.decoded, atol=1e-4, rtol=1e-5)


def test_a_flax_file_becomes_the_ports_tokenizer(fixtures: Path, tmp_path: Path) -> None:
    """Its channels do not divide into groups, which is said, with nothing else in the way."""
    path = tmp_path / "tokenizer_imagenet256_checkpoint"
    shutil.copy(fixtures / "maskgit" / "flax_vqgan.msgpack", path)
    assert holds_tokenizer(path)
    with pytest.raises(InputError, match=r"widths \(.*\) must be multiples of 32"):
        load_published(path)


def test_the_files_inside_a_folder_can_be_given(fixtures: Path, tmp_path: Path) -> None:
    toy = make(fixtures, tmp_path, "amused")
    for path in (toy.path / "vqvae", toy.path / "vqvae" / "diffusion_pytorch_model.safetensors"):
        assert torch.equal(load_published(path).encode(toy.images), toy.image_ids)


def test_half_precision_files_are_widened(fixtures: Path, tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    state = source_state(fixtures, "maskgit_vqgan")
    torch.save({key: t.half() for key, t in state.items()}, path)
    assert {p.dtype for p in load_published(path).parameters()} == {torch.float32}


def test_what_amused_sees_is_an_option(fixtures: Path, tmp_path: Path) -> None:
    toy = make(fixtures, tmp_path, "amused")
    signed, unit = load_published(toy.path), load_published(toy.path, pixels="unit")
    assert (signed.native_range, unit.native_range) == ((-1.0, 1.0), (0.0, 1.0))
    grey = torch.full((1, 3, 32, 32), 0.25)
    torch.testing.assert_close(unit.latents(2 * grey), signed.latents(grey + 0.5))
    codes = signed.quantizer.lookup(toy.ids.view(2, 4, 4))
    torch.testing.assert_close(unit.render(codes), signed.render(codes) * 2 - 1)
    assert signed.identity != unit.identity, "their codes differ"
    with pytest.raises(InputError, match=r"pixels='unit': .* is MaskGITVQGAN, which has"):
        load_published(make(fixtures, tmp_path, "titok").path, pixels="unit")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"act_fn": "relu"}, "act_fn='relu' is another architecture than aMUSEd's"),
        ({"mid_block_add_attention": True}, "mid_block_add_attention=True is another"),
        ({"norm_num_groups": "many"}, "norm_num_groups='many' must be a whole number"),
        ({"norm_num_groups": 5}, r"widths \(.*\) must be multiples of 5"),
    ],
)
def test_another_vqmodel_is_refused(
    fixtures: Path, tmp_path: Path, values: dict, message: str
) -> None:
    config = make(fixtures, tmp_path, "amused").path / "vqvae" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **values}))
    with pytest.raises(InputError, match=message):
        load_published(config.parent)
    config.write_text("{")
    with pytest.raises(InputError, match="is not valid JSON"):
        load_published(config.parent)


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("never"),))


def test_a_pickle_that_wants_to_run_code_is_refused(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = source_state(fixtures, "taming_vqgan")
    torch.save({"state_dict": state, "callbacks": Harmful()}, "last.ckpt")
    with pytest.raises(InputError, match="cannot be read as plain weights") as error:
        load_published("last.ckpt")
    assert "\n" not in str(error.value)
    assert not Path("never").exists()


def test_the_stand_in_class_is_allowed_for_that_reading_alone(
    fixtures: Path, tmp_path: Path
) -> None:
    before = set(torch.serialization.get_safe_globals())
    load_published(make(fixtures, tmp_path, "taming").path)
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a.b": torch.zeros(1)}, "holds no tokenizer known here; it holds a.b"),
        ({"encoder.mid.attn_1.norm.weight": torch.zeros(1)}, "holds no tokenizer known here"),
        (
            {"encoder.mid.0.norm1.weight": torch.zeros(1), "quantize.embedding.weight": None},
            "is it of another network",
        ),
    ],
)
def test_other_files_are_one_line(tmp_path: Path, state: dict, message: str) -> None:
    filled = {key: torch.zeros(4, 4) if t is None else t for key, t in state.items()}
    torch.save(filled, tmp_path / "a.pt")
    with pytest.raises(InputError, match=re.escape(message)) as error:
        load_published(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_a_missing_part_is_named(fixtures: Path, tmp_path: Path) -> None:
    state = source_state(fixtures, "llamagen_vq")
    del state["decoder.conv_blocks.1.res.1.conv2.bias"]
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(InputError, match=r"do not fill 'decoder\.levels\.1\.blocks\.1\.conv2\.bi"):
        load_published(tmp_path / "a.pt")


def offline(*words: str) -> str:
    raise LocalEntryNotFoundError("no network\nand more")


@pytest.mark.parametrize("name", PUBLISHED)
def test_an_absent_file_says_what_to_download_and_where_to_put_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    entry = PUBLISHED[name]
    wanted = f"download {entry.url} and put it at {entry.file}, or give the path"
    with pytest.raises(InputError, match=re.escape(wanted)) as error:
        load_published(name)
    assert "\n" not in str(error.value)
    assert ("the hub says: no network" in str(error.value)) == (entry.hub is not None)


def test_an_unknown_name_comes_with_the_likely_one() -> None:
    with pytest.raises(InputError, match="did you mean 'amused-256'"):
        load_published("amused-265")


def place(fixtures: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """TiTok's file, at toy size, where its name is looked for; returns the codebook."""
    toy = make(fixtures, folder, "titok")
    monkeypatch.chdir(folder)
    return load_published(toy.path).quantizer.codebook


def test_a_name_is_found_in_the_working_directory(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "maskgit-vqgan-imagenet-f16-256"
    codebook = place(fixtures, tmp_path, monkeypatch)
    with pytest.raises(InputError, match=f"is not {name}: its network has other sizes"):
        load_published(name)
    network = load_published(PUBLISHED[name].file).config
    monkeypatch.setitem(published.PUBLISHED, name, replace(PUBLISHED[name], network=network))
    assert torch.equal(load_published(name).quantizer.codebook, codebook)


def test_a_name_is_fetched_from_the_hub(
    fixtures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy = make(fixtures, tmp_path, "llamagen")
    asked = []

    def fetch(*words: str) -> str:
        asked.append(words)
        return str(toy.path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.chdir(fixtures)
    name = "llamagen-vq-ds16-c2i"
    network = load_published(toy.path).config
    monkeypatch.setitem(published.PUBLISHED, name, replace(PUBLISHED[name], network=network))
    assert torch.equal(load_published(name).encode(toy.images), toy.image_ids)
    assert asked == [("FoundationVision/LlamaGen", "vq_ds16_c2i.pt")]


def test_every_recipes_published_tokenizer_has_its_tokens_and_grid() -> None:
    from unmask.recipes import RECIPES

    known = [recipe for recipe in RECIPES.values() if recipe.tokenizer in PUBLISHED]
    assert len(known) >= 3
    for recipe in known:
        network = PUBLISHED[recipe.tokenizer].network
        kind, count = recipe.network.space
        assert getattr(network, kind) == count, recipe.name
        assert (recipe.image_size // network.stride) ** 2 == recipe.network.length, recipe.name


def test_published_sizes_differ_where_they_should() -> None:
    strides = {name: entry.network.stride for name, entry in PUBLISHED.items()}
    assert strides.pop("dc-ae-f32c32-in-1.0") == 32
    assert set(strides.values()) == {16}
    taming = PUBLISHED["taming-vqgan-imagenet-f16-16384"].network
    assert isinstance(taming, VQGAN)
    assert PUBLISHED["llamagen-vq-ds16-c2i"].network == replace(
        taming, code_dim=8, l2_normalised=True
    )
