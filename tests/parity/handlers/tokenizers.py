"""Published tokenizers: latents, codes and images, and the renaming of MaskGIT's flax file."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from golden import Case
from PIL import Image
from torch import Tensor, nn
from toy_tokenizers import soft_codes

from unmask.checkpoints.flax import decode_flax, flatten
from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.data.crops import center_crop, covering, halved, resized_part, short_sides
from unmask.evaluate.lpips import psnr, ssim
from unmask.image_size import checked_size
from unmask.pictures import to_uint8
from unmask.tokenizers import names as flax_vqgan
from unmask.tokenizers import names as vqgan
from unmask.tokenizers.latent_tokenizer import posterior, to_map
from unmask.tokenizers.published import translate
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import KLVAE, VQGAN, MaskGITVQGAN


def tokenizer(case: Case) -> VQTokenizer:
    """The case's network with its weights, its sizes read off the shapes."""
    config: Mapping[str, object] = case.config if case.kind == "tokenizer.amused" else {}
    network, state = translate(case.weights(), config, case.name)
    check_told(case, network)
    made = network.build()
    load_state(made, state, case.name)
    return made.eval()


def check_told(case: Case, sizes: VQGAN | MaskGITVQGAN) -> None:
    """Sizes that the projects' configurations tell, and the weights as well."""
    config = case.config
    nested = config.get("ddconfig", config)
    unit = nested.get("ch", nested.get("hidden_channels"))
    lists = {
        "ch_mult": sizes.widths,
        "channel_mult": sizes.widths,
        "encoder_ch_mult": sizes.widths,
        "decoder_ch_mult": getattr(sizes, "decoder_widths", ()) or sizes.widths,
    }
    for name, widths in lists.items():
        if name in nested:
            assert [unit * multiple for multiple in nested[name]] == list(widths), name
    assert nested.get("block_out_channels", list(sizes.widths)) == list(sizes.widths)
    blocks = nested.get("num_res_blocks", nested.get("layers_per_block", sizes.blocks))
    assert blocks == sizes.blocks
    for name in ("n_embed", "num_embeddings", "codebook_size", "num_vq_embeddings"):
        assert config.get(name, sizes.codes) == sizes.codes, name
    for name in ("embed_dim", "codebook_embed_dim"):
        assert config.get(name, sizes.code_dim) == sizes.code_dim, name
    assert config.get("vq_embed_dim") in (None, sizes.code_dim)
    for half, kind in (("down", "DownEncoderBlock2D"), ("up", "UpDecoderBlock2D")):
        assert set(config.get(f"{half}_block_types", [kind])) == {kind}
    for name in ("in_channels", "out_ch", "num_channels", "out_channels"):
        assert nested.get(name, sizes.image_channels) == sizes.image_channels, name
    assert config.get("downsample_factor", sizes.stride) == sizes.stride
    # of training, of sizes of images, what the keys tell, and what these networks never vary
    nested.read.update(("dropout", "resolution", "attn_resolutions", "double_z", "z_channels"))
    nested.read.update(
        ("latent_channels", "num_resolutions", "sample_size", "force_upcast", "scaling_factor")
    )


def channels_first(values: Tensor) -> Tensor:
    return values.permute(0, 3, 1, 2)


def by_place(ids: Tensor, latents: Tensor) -> Tensor:
    """``(B, L)`` ids on the grid of ``(B, h, w, D)`` latents."""
    return ids.view(latents.shape[:3])


@torch.inference_mode()
def wrapped(case: Case) -> dict[str, Tensor]:
    """What maskgit-pytorch's wrappers, which speak [-1, 1], return."""
    made = tokenizer(case)
    latents = made.latents((case.input("x") + 1) / 2)
    quantized = made.quantizer(latents)
    codes = made.quantizer.lookup(quantized.ids)
    plain = made.render(codes)
    other = made.render(made.quantizer.lookup(by_place(case.input("random_indices"), latents)))
    if case.kind == "tokenizer.maskgit_vqgan":
        other = other.clamp(0, 1)  # its wrapper clamps here and nowhere else
    h = F.normalize(latents, dim=-1) if made.quantizer.l2_normalised else latents
    return {
        "h": channels_first(h),
        "indices": quantized.ids.flatten(1),
        "quant": channels_first(codes),
        "recon_forward": made.render(quantized.values) * 2 - 1,
        "decode_quant": plain * 2 - 1,
        "decode_random_indices": other * 2 - 1,
        "recon_0_1_unclamped": plain,
        **{name: soft(made, latents, name) for name in case.names("soft_code_temp*")},
    }


def soft(made: VQTokenizer, latents: Tensor, name: str) -> Tensor:
    """Shares of all codes at the temperature in a name, with "_" for the point."""
    temperature = float(name.removeprefix("soft_code_temp").replace("_", "."))
    return soft_codes(made.quantizer, latents, temperature).flatten(1, 2)


@torch.inference_mode()
def mage(case: Case) -> dict[str, Tensor]:
    made = tokenizer(case)
    output = made(case.input("images"))
    ids, penalties = output.ids, output.penalties
    assert ids is not None
    codes = made.quantizer.lookup(ids)
    other = made.quantizer.lookup(by_place(case.input("random_indices"), ids.unsqueeze(-1)))
    return {
        "z": channels_first(output.latents),
        "indices": ids.flatten(1),
        "codebook_loss": penalties["commitment"] + 0.25 * penalties["codebook"],
        "z_q": channels_first(codes),
        "recon": made.render(codes),
        "random_images": made.render(other),
    }


def flax(case: Case) -> dict[str, Tensor]:
    leaves = flatten(decode_flax(case.file().read_bytes(), case.name))
    source = {key: leaf for key, leaf in leaves.items() if isinstance(leaf, Tensor)}
    table = flax_vqgan.flax_table(source, case.name)
    own = to_own(source, table, case.name)
    again = to_source(own, table)
    assert again.keys() == source.keys()
    assert all(torch.equal(again[key], source[key]) for key in source)
    layout = vqgan.LAYOUTS["maskgit-vqgan"]
    port = to_source(own, vqgan.table_of(layout, len(case.spec["channel_mult"])))
    assert port.keys() == case.tensors.keys()
    spec, (codes, width) = case.spec, port["quantize.embedding.weight"].shape
    assert (spec["num_embeddings"], spec["z_channels"]) == (codes, width)
    widths = [spec["hidden_channels"] * each for each in spec["channel_mult"]]
    for level, wide in enumerate(widths):
        blocks = [key for key in port if key.startswith(f"encoder.down.{level}.block.")]
        found = {port[key].shape[0] for key in blocks if key.endswith("conv2.weight")}
        assert found == {wide}
        assert len({key.split(".")[4] for key in blocks}) == spec["num_res_blocks"]
    return port


def image_ops(case: Case) -> dict[str, Tensor]:
    """Crops, scores and bytes around a tokenizer."""
    case.leave("muse_pipeline_uint8")  # UnlockMGM truncates; nothing here does
    size, outputs = case.spec["size"], dict[str, Tensor]()
    for name in case.names("in*"):
        image, index = Image.fromarray(case.input(name).numpy()), int(name.removeprefix("in"))
        outputs[f"center{index}"] = pixels(center_crop(image, size))
        stream = random.Random(100 + index)
        sides = short_sides(size)
        larger = stream.randrange(sides.start, sides.stop)
        image = halved(image, larger)
        width, height = covering(image, larger)
        top = stream.randrange(height - size + 1)
        left = stream.randrange(width - size + 1)
        cut = resized_part(image, (width, height), size, top=top, left=left)
        outputs[f"random{index}"] = pixels(cut)
    pair = case.input("metric_recon"), case.input("metric_target")
    raw = case.input("raw")
    outputs["save_image_uint8"] = to_uint8((raw.clamp(-1, 1) + 1) / 2)
    return {**outputs, "psnr": psnr(*pair), "ssim": ssim(*pair)}


@torch.inference_mode()
def kl16(case: Case) -> dict[str, Tensor]:
    """The autoencoder of MAR and eMIGM; its images are about [-1, 1], and leave it a little."""
    config = case.config
    told = {"norm_num_groups": config.get("norm_groups", 32)}
    sizes, state = translate(case.weights(), told, case.name)
    assert isinstance(sizes, KLVAE)
    assert sizes.stem == config.get("ch", sizes.stem)
    case.told(ch_mult=tuple(width // sizes.stem for width in sizes.widths))
    case.told(num_res_blocks=sizes.blocks, z_channels=sizes.channels)
    case.aside("image_hw", "encoder_attention")  # the images tell, and the keys
    made = replace(sizes, scale=config.get("scale", sizes.scale)).build().eval()
    load_state(made, state, case.name)
    for norm in (m for m in made.modules() if isinstance(m, nn.GroupNorm)):
        assert norm.eps == config.get("norm_eps", norm.eps)
    images, noise = (case.input("images") + 1) / 2, case.input("posterior_noise")
    moments = made.infer(images)
    told, extreme = posterior(moments), posterior(case.input("extreme_moments"))
    tokens = made.tokens(moments, noise)
    grid = (moments.shape[2], moments.shape[3])
    scaled = to_map(tokens, made.channels, grid)
    again = made.render(scaled / made.scale)
    assert torch.equal(made.decode(tokens, grid), again.clamp(0, 1))
    return {
        "moments": moments,
        "moments_flip": made.infer(images.flip(-1)),
        "mean": told.mean,
        "std": told.std,
        "latent_sample": told.sample(noise),
        "scaled_latent": scaled,
        "decoded": made.render(case.input("latents")) * 2 - 1,
        "decoded_roundtrip": again * 2 - 1,
        "extreme_logvar": extreme.logvar,
        "extreme_std": extreme.std,
    }


def center_crops(case: Case) -> dict[str, Tensor]:
    return {
        f"crop.{index}": pixels(
            center_crop(Image.fromarray(case.input(f"image.{index}").numpy()), checked_size(size))
        )
        for index, size in enumerate(case.config["sizes"])
    }


def pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image))


HANDLERS = {
    "tokenizer.image_ops": image_ops,
    "tokenizer.maskgit_vqgan": wrapped,
    "tokenizer.taming": wrapped,
    "tokenizer.llamagen": wrapped,
    "tokenizer.amused": wrapped,
    "mage.tokenizer": mage,
    "flax.vqgan": flax,
    "mar.kl16": kl16,
    "mar.center_crop": center_crops,
}
