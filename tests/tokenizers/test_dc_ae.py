"""DC-AE at toy size, by diffusers: the contract, files in diffusers' form, and bad input."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file, save_file

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers import published as published_latents
from unmask.tokenizers.dc_ae import DCAE, DCAETokenizer, sizes_of
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.tokenizers.latent_tokenizer import to_tokens
from unmask.tokenizers.published import PUBLISHED, load_published
from unmask.tokenizers.tokenizer import Tokenizer

TOY = DCAE(
    widths=(8, 8, 16),
    encoder_blocks=(0, 1, 1),
    decoder_blocks=(0, 1, 1),
    attention=(2,),
    head_dim=8,
    channels=4,
)
WEIGHTS = "diffusion_pytorch_model.safetensors"


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 16, 24, generator=keyed_generator("pictures"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as diffusers saves it, with unequal statistics in its batch norms."""
    diffusers = pytest.importorskip("diffusers", reason="DC-AE is built by diffusers")
    source = diffusers.AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(8, 8, 16),
        decoder_block_out_channels=(8, 8, 16),
        encoder_layers_per_block=(0, 1, 1),
        decoder_layers_per_block=(0, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
        decoder_norm_types=("batch_norm", "batch_norm", "rms_norm"),
        decoder_act_fns=("relu", "relu", "silu"),
        scaling_factor=0.5,
    )
    generator = keyed_generator("dc-ae")
    for tensor in source.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 - 0.1)
    for name, tensor in source.state_dict().items():
        if name.endswith("running_var"):
            tensor.add_(0.5)
    source.save_pretrained(tmp_path / "dc-ae")
    return tmp_path / "dc-ae"


def test_it_computes_what_diffusers_computes(folder: Path) -> None:
    import diffusers

    made = load_tokenizer(folder)
    assert isinstance(made, Tokenizer)
    assert made.config == TOY
    assert (made.stride, made.channels, made.moment_channels) == (4, 4, 4)
    assert not made.training
    source = diffusers.AutoencoderDC.from_pretrained(folder).eval()
    images = pictures()
    with torch.no_grad():
        latents = source.encode(images * 2 - 1).latent
        decoded = source.decode(latents).sample / 2 + 0.5
    moments = made.encode(images)
    torch.testing.assert_close(moments, latents, rtol=1e-5, atol=1e-6)
    tokens = made.tokens(moments)
    torch.testing.assert_close(tokens, to_tokens(latents) * 0.3189, rtol=1e-5, atol=1e-6)
    assert torch.equal(tokens, made.tokens(moments, torch.ones(3))), "noise is not looked at"
    torch.testing.assert_close(
        made.decode(tokens, (4, 6)), decoded.clamp(0, 1), rtol=1e-5, atol=1e-6
    )
    assert decoded.max() > 1 == made.decode(tokens, (4, 6)).max()


def test_it_is_saved_and_told_apart(folder: Path, tmp_path: Path) -> None:
    made = load_tokenizer(folder)
    assert isinstance(made, DCAETokenizer)
    save_tokenizer(made, tmp_path / "own")
    again = load_tokenizer(tmp_path / "own")
    assert (again.config, again.identity) == (made.config, made.identity)
    assert load_published(folder, scale=0.5).scale == 0.5
    name = next(name for name, _ in made.named_buffers() if name.endswith("running_mean"))
    made.get_buffer(name)[0] += 1e-3
    assert again.identity != made.identity, "statistics decide too"


def test_other_variants_and_damaged_files_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    weights = load_file(folder / WEIGHTS)

    def refused(message: str, **changes: object) -> None:
        (folder / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(InputError, match=message):
            load_tokenizer(folder)

    refused("downsample_block_type=conv is not supported", downsample_block_type="conv")
    refused(r"widths: .*x.* not of type int", encoder_block_out_channels=["x"])
    refused(r"encoder_blocks=\(1, 1\).* each of the 3 levels", encoder_layers_per_block=[1, 1])
    refused("do not|shape", latent_channels=8)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({k: v for k, v in weights.items() if k != "encoder.conv_out.bias"}, folder / WEIGHTS)
    with pytest.raises(InputError, match=r"do not fill 'encoder\.conv_out\.bias'"):
        load_tokenizer(folder)
    (folder / WEIGHTS).write_bytes(b"cut")
    with pytest.raises(InputError, match="is damaged"):
        load_tokenizer(folder)


def test_the_published_name_and_its_size(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dc-ae-f32c32-in-1.0"
    entry = PUBLISHED[name]
    with torch.device("meta"):
        made = DCAETokenizer(entry.network)
    assert sum(p.numel() for p in made.parameters()) == 323_356_460
    assert (made.stride, made.channels, made.scale) == (32, 32, 0.3189)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dc-ae-f32c32-in-1.0-diffusers").symlink_to(folder)
    with pytest.raises(InputError, match=r"is not dc-ae-f32c32-in-1\.0: its network has other"):
        load_tokenizer(name)
    monkeypatch.setitem(published_latents.PUBLISHED, name, replace(entry, network=TOY))
    wanted = load_tokenizer(folder).identity
    assert load_tokenizer(name).identity == wanted
    (folder / "config.json").unlink()  # as the hub's file comes
    assert load_tokenizer(name).identity == wanted


def offline(*words: str) -> str:
    raise LocalEntryNotFoundError("no network\nand more")


def test_absent_files_say_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    message = r"no network; download https://huggingface\.co/mit-han-lab/dc-ae-f32c32-in-1\.0.* put"
    with pytest.raises(InputError, match=message) as error:
        load_tokenizer("dc-ae-f32c32-in-1.0")
    assert "\n" not in str(error.value)


def test_bad_input_is_named(folder: Path) -> None:
    made = load_tokenizer(folder)
    with pytest.raises(InputError, match="images have 1 channels, this tokenizer takes 3"):
        made.encode(pictures()[:, :1])
    with pytest.raises(InputError, match="image width 10 does not divide by 4"):
        made.encode(pictures()[..., :10])
    with pytest.raises(InputError, match=r"image values span .* wanted is \[0, 1\]"):
        made.encode(pictures() * 2 - 1)
    with pytest.raises(InputError, match=r"are not \(B, L, 4\)"):
        made.decode(torch.zeros(1, 16, 32))


def test_without_diffusers_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r'pip install "unmask\[dcae\]"') as error:
        DCAETokenizer(TOY)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder_blocks": (1,)}, r"decoder_blocks=\(1,\) must give a number for each of the 3"),
        ({"attention": (3,)}, r"attention=\(3,\) names a level"),
        ({"channels": 3}, "channels=3 must divide the last of"),
        ({"scale": -1.0}, "scale=-1.0 must be above 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(TOY, **change)


def test_a_config_of_something_else_says_so() -> None:
    with pytest.raises(InputError, match=r"config\.json: head_dim: 'eight' is not of type int"):
        sizes_of({"attention_head_dim": "eight"}, "config.json")


def test_the_authors_own_form_is_named_with_the_one_that_is_read(tmp_path: Path) -> None:
    save_file({"encoder.project_in.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_name": "dc-ae-f32c32-in-1.0"}')
    with pytest.raises(InputError, match=r"mit-han-lab/dc-ae-f32c32-in-1\.0-diffusers"):
        load_tokenizer(tmp_path)
