"""The way back: what is exported is what the source project's own files hold, key by key."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toy_latents import LATENT_TOY
from toy_system import TOY, toy_tokenizer
from toy_tokenizers import source_config, source_state

from unmask.commands.export import To
from unmask.convert import convert
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.export import FORMS, Exported, export, open_for
from unmask.memory import skeleton
from unmask.networks.latent import LatentNetwork
from unmask.networks.mage import MageNetwork
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.networks.network import Network
from unmask.nn.feedback import Feedback
from unmask.pipeline import Pipeline
from unmask.projects import mage
from unmask.projects.foreign import load_foreign
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.dc_ae import DCAE, DCAETokenizer
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.vqgan import (
    KLVAE,
    VQGAN,
    KLVAETokenizer,
    MaskGITVQGAN,
    MaskGITVQGANTokenizer,
    VQGANTokenizer,
)

State = dict[str, Tensor]

# The file of each form, and the entry of the state dict inside.
PLACES = {
    "maskgit-pytorch": ("ckpt/step0000000/model.pt", "model"),
    "unlockmgm": ("pytorch_model.bin", ""),
    "mage": ("checkpoint-last.pth", "model"),
    "mar": ("checkpoint-last.pth", "model"),
    "emigm": ("checkpoint-last.pth", "model_ema"),
    "maskgit-vqgan": ("pytorch_model.bin", ""),
    "mage-vqgan": ("vqgan_jax_strongaug.ckpt", ""),
    "taming-vqgan": ("last.ckpt", "state_dict"),
    "llamagen-vq": ("vq_ds16_c2i.pt", "model"),
    "amused-vq": ("diffusion_pytorch_model.safetensors", ""),
    "kl16": ("kl16.ckpt", "model"),
    "dc-ae": ("diffusion_pytorch_model.safetensors", ""),
}
VIT = MaskGITVitNetwork(codes=20, width=24, depth=3, heads=4, length=12, grid=(3, 4), classes=5)
BERT = MaskGITBertNetwork(
    codes=20, width=24, depth=2, heads=2, feed_forward=40, length=9, classes=6, dropout=0.2
)
LATENT = LatentNetwork(
    channels=6,
    width=24,
    depth=2,
    heads=3,
    decoder_width=24,
    decoder_depth=1,
    decoder_heads=3,
    length=9,
    head_width=20,
    head_depth=2,
    classes=4,
    buffer=5,
    dropout=0.1,
)
MAGE = MageNetwork(
    codes=24,
    width=64,
    depth=2,
    heads=1,
    decoder_width=32,
    decoder_depth=1,
    decoder_heads=4,
    length=16,
    position_rows=257,
)
INVENTED: dict[str, tuple[str, Network]] = {
    "classes and a grid": ("maskgit-pytorch", VIT),
    "no classes": ("maskgit-pytorch", replace(VIT, classes=0, grid=None, length=16, dropout=0.1)),
    "bert": ("unlockmgm", BERT),
    "bert, tied, of a grid": (
        "unlockmgm",
        replace(BERT, tie_embeddings=True, length=12, grid=(3, 4)),
    ),
    "self-guidance": (
        "unlockmgm",
        replace(BERT, codes=1024, feedback=Feedback(factor=3, blank=False)),
    ),
    "mar": ("mar", LATENT),
    "mar, unequal widths": ("mar", replace(LATENT, decoder_width=18, mlp_ratio=2.0)),
    "mar, unequal heads": ("mar", replace(LATENT, decoder_heads=2)),
    "emigm, tied": ("emigm", replace(LATENT, tied=True)),
    "emigm, untied": ("emigm", LATENT),
    "mage": ("mage", MAGE),
}
VQ = MaskGITVQGAN(stem=32, widths=(32, 64), blocks=1, middle=2, codes=24, code_dim=8)
TAMING = VQGAN(
    stem=32, widths=(32, 64), blocks=1, attention=(1,), latent_channels=8, codes=24, code_dim=4
)
KL = KLVAE(stem=128, widths=(128, 256), attention=(), channels=4)
DC = DCAE(
    widths=(32, 64),
    encoder_blocks=(1, 1),
    decoder_blocks=(1, 1),
    attention=(1,),
    channels=8,
)
TOKENIZERS: dict[str, tuple[str, Any]] = {
    "maskgit": ("maskgit-vqgan", replace(VQ, blocks=2)),
    "maskgit, grey": ("maskgit-vqgan", replace(VQ, blocks=2, image_channels=1)),
    "mage": ("mage-vqgan", VQ),
    "taming": ("taming-vqgan", TAMING),
    "taming, no attention": ("taming-vqgan", replace(TAMING, attention=(), widths=(32, 32, 96))),
    "llamagen": ("llamagen-vq", replace(TAMING, l2_normalised=True)),
    "llamagen, other widths down than up": (
        "llamagen-vq",
        replace(TAMING, l2_normalised=True, decoder_widths=(64, 64)),
    ),
    "amused": (
        "amused-vq",
        replace(TAMING, attention=(), middle_attention=False, widths=(32, 48), groups=8),
    ),
    "kl": ("kl16", KL),
    "dc-ae": ("dc-ae", DC),
}


def random(module: nn.Module, key: str) -> None:
    """Weights of which no two are alike, so that a tensor in the wrong place shows."""
    generator = keyed_generator("export", key)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))


def tokenizer(config: Any) -> ImageTokenizer:
    """Of these sizes, with random weights."""
    made = {
        MaskGITVQGAN: MaskGITVQGANTokenizer,
        VQGAN: VQGANTokenizer,
        KLVAE: KLVAETokenizer,
        DCAE: DCAETokenizer,
    }[type(config)](config)
    random(made, repr(config))
    return made.eval()


def system(network: Network) -> Pipeline:
    """A generator with random weights; MAGE's with the tokenizer that its files hold."""
    model = network.build()
    random(model, repr(network))
    rows, columns = network.grid or (int(network.length**0.5),) * 2
    base: Recipe = LATENT_TOY if isinstance(network, LatentNetwork) else TOY
    if isinstance(network, MageNetwork):
        mage_base = get("mage-base")
        recipe = replace(
            mage_base,
            network=network,
            image_size=(2 * rows, 2 * columns),
            plan=replace(mage_base.plan, steps=4),
        )
        return Pipeline(recipe, model, tokenizer(VQ))
    training = replace(base.training, label_dropout=0.1 if network.has_null_class else 0.0)
    guidance = replace(base.plan.guidance, scale=1.0)
    recipe = replace(
        base,
        network=network,
        image_size=(4 * rows, 4 * columns),
        training=training,
        plan=replace(base.plan, guidance=guidance),
    )
    return Pipeline(recipe, model, None)


def written(out: Path, to: str) -> State:
    """The state dict in an export, read as plain weights."""
    name, entry = PLACES[to]
    if name.endswith(".safetensors"):
        return load_file(out / name)
    whole = torch.load(out / name, weights_only=True)
    return whole[entry] if entry else whole


def assert_same(found: State, wanted: State, zeros: tuple[str, ...] = ()) -> None:
    """Keys, shapes, types and values."""
    assert found.keys() == wanted.keys()
    for key, tensor in wanted.items():
        assert (found[key].shape, found[key].dtype) == (tensor.shape, tensor.dtype), key
        assert found[key].is_contiguous(), key
        if key in zeros:
            assert not found[key].any(), key
        else:
            assert torch.equal(found[key], tensor), key


def test_the_command_offers_every_form() -> None:
    assert get_args(To) == tuple(FORMS)
    assert PLACES.keys() == FORMS.keys()


@pytest.mark.parametrize("name", INVENTED)
def test_what_is_loaded_again_is_ours_bit_for_bit(name: str, tmp_path: Path) -> None:
    to, network = INVENTED[name]
    made = system(network)
    told = export(made, tmp_path / "out", to)
    assert all((tmp_path / "out" / file).is_file() for file in told.files)
    heads = None if to == "unlockmgm" else network.heads
    stated = {"heads": heads, "decoder_heads": getattr(network, "decoder_heads", None)}
    found = load_foreign(tmp_path / "out", to, grid=network.grid, **stated)  # type: ignore[arg-type]
    ours = made.model.state_dict()
    assert_same(found.state, {name: t.contiguous() for name, t in ours.items()})
    if isinstance(network, MaskGITBertNetwork):  # equal values need not be one tensor
        network = replace(network, tie_embeddings=False)
    if isinstance(network, MageNetwork):
        assert_same(
            load_any_tokenizer_of(found.tokenizer), dict(made.tokenizer.state_dict().items())
        )
    assert found.network == network


def load_any_tokenizer_of(state: Any) -> State:
    """What lies beside MAGE's network, by our names."""
    from unmask.tokenizers.published import tokenizer_of

    return {n: t.contiguous() for n, t in tokenizer_of(state, {}, "file").state_dict().items()}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_is_loaded_again_is_ours_bit_for_bit(name: str, tmp_path: Path) -> None:
    to, config = TOKENIZERS[name]
    made = tokenizer(config)
    export(made, tmp_path / "out", to)
    again = load_tokenizer(
        tmp_path / "out" / PLACES[to][0] if to not in ("amused-vq", "dc-ae") else tmp_path / "out"
    )
    assert again.config == replace(config, **standard(config))
    ours = {name: t.contiguous() for name, t in made.state_dict().items()}
    assert_same({n: t.contiguous() for n, t in again.state_dict().items()}, ours)


def standard(config: Any) -> dict[str, Any]:
    """What a file does not tell: the scale of a DC-AE is then the published one."""
    return {"scale": type(config)().scale} if hasattr(config, "scale") else {}


def golden(fixtures: Path, case: str) -> State:
    state = load_file(fixtures / f"{case}.weights.safetensors")
    narrow = (torch.float16, torch.float8_e4m3fn)
    return {key: t.float() if t.dtype in narrow else t for key, t in state.items()}


@pytest.mark.parametrize(
    ("to", "case", "heads"),
    [
        ("maskgit-pytorch", "maskgit/mp_cond_logits", 4),
        ("maskgit-pytorch", "maskgit/mp_uncond_logits", 4),
        ("unlockmgm", "maskgit/um_logits", None),
        ("unlockmgm", "self_guidance/toast_forward", None),
        ("mar", "mar/mae_forward", 4),
        ("emigm", "emigm/mae_forward_nomae_tied", 3),
    ],
)
def test_a_golden_file_comes_back_as_it_was(
    fixtures: Path, tmp_path: Path, to: str, case: str, heads: int | None
) -> None:
    state = golden(fixtures, case)
    source = tmp_path / "source"
    source.mkdir()
    if to == "unlockmgm":
        config = json.loads((fixtures / f"{case}.json").read_text())["config"]
        (source / "config.json").write_text(json.dumps(config))
        torch.save(state, source / "pytorch_model.bin")
    else:
        name = "model.pt" if to == "maskgit-pytorch" else "checkpoint-last.pth"
        torch.save({"model": state}, source / name)
    made, _ = convert(source, to, heads=heads)  # type: ignore[arg-type]
    export(made, tmp_path / "out", to)
    assert_same(written(tmp_path / "out", to), state)
    if to == "unlockmgm":
        again = json.loads((tmp_path / "out" / "config.json").read_text())
        read = {key: value for key, value in again.items() if not key.startswith("_")}
        assert {key: config[key] for key in read} == read


def test_a_golden_mage_comes_back_but_for_what_nothing_reads(
    fixtures: Path, tmp_path: Path
) -> None:
    state = golden(fixtures, "mage/mage_model")
    state |= {f"vqgan.{key}": t for key, t in golden(fixtures, "mage/tokenizer").items()}
    torch.save({"model": state}, tmp_path / "checkpoint-last.pth")
    made, _ = convert(tmp_path / "checkpoint-last.pth", "mage", heads=4)
    export(made, tmp_path / "out", "mage")
    dead = [*mage.DEAD[:4], *(f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias"))]
    found = written(tmp_path / "out", "mage")
    state = {key: t for key, t in state.items() if key not in dead} | {
        key: torch.zeros_like(found[key]) for key in dead
    }
    state["token_emb.position_ids"] = torch.arange(257)[None]
    assert_same(found, state, zeros=tuple(dead))


LAYERS = ("patch_embed.proj", "decoder_pred")


@pytest.mark.parametrize(
    ("to", "case"),
    [
        ("maskgit-vqgan", "maskgit_vqgan"),
        ("taming-vqgan", "taming_vqgan"),
        ("llamagen-vq", "llamagen_vq"),
        ("amused-vq", "amused_vq"),
    ],
)
def test_a_golden_tokenizer_comes_back_as_it_was(
    fixtures: Path, tmp_path: Path, to: str, case: str
) -> None:
    state = source_state(fixtures, case)
    folder = tmp_path / "source"
    folder.mkdir()
    if to == "amused-vq":
        from safetensors.torch import save_file

        config = source_config(fixtures, case)
        (folder / "config.json").write_text(json.dumps(config))
        save_file(state, folder / "diffusion_pytorch_model.safetensors")
        made = load_tokenizer(folder)
    else:
        torch.save(state, folder / "weights.bin")
        made = load_tokenizer(folder / "weights.bin")
    if to == "llamagen-vq":
        state["quantize.codebook_used"] = torch.zeros(65536)  # stored narrow in the golden file
    export(made, tmp_path / "out", to)
    assert_same(written(tmp_path / "out", to), state)


MANIFESTS = {
    "maskgit_pytorch_imagenet256": ("maskgit-pytorch", "maskgit-pytorch-imagenet256"),
    "maskgit_pytorch_ffhq256": ("maskgit-pytorch", "maskgit-pytorch-ffhq256"),
    "unlockmgm_maskgit_256": ("unlockmgm", "maskgit-unlockmgm-imagenet256"),
    "unlockmgm_maskgit_512": ("unlockmgm", "maskgit-unlockmgm-imagenet512"),
    "unlockmgm_toast_256": ("unlockmgm", "selfguidance-imagenet256"),
    "unlockmgm_toast_512": ("unlockmgm", "selfguidance-imagenet512"),
    "mage_vit_base_patch16": ("mage", "mage-base"),
    "mage_vit_large_patch16": ("mage", "mage-large"),
    "mar_base": ("mar", "mar-base"),
    "mar_large": ("mar", "mar-large"),
    "mar_huge": ("mar", "mar-huge"),
    **{
        f"emigm_{size}_{side}": ("emigm", f"emigm-{size}-{side}")
        for side, sizes in ((256, "xsmall small base large huge"), (512, "xsmall small base large"))
        for size in sizes.split()
    },
    "maskgit_vqgan_titok_bin": ("maskgit-vqgan", MaskGITVQGAN()),
    "unlockmgm_maskgit_vqgan": ("maskgit-vqgan", MaskGITVQGAN()),
    "mage_vqgan": ("mage-vqgan", MaskGITVQGAN()),
    "taming_vqgan_f16_16384": ("taming-vqgan", VQGAN()),
    "taming_vqgan_f16_1024": ("taming-vqgan", VQGAN(codes=1024)),
    "llamagen_vq_ds16_c2i": ("llamagen-vq", VQGAN(code_dim=8, l2_normalised=True)),
    "kl16_vae": ("kl16", KLVAE()),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_published_system_is_exported_with_every_published_key(fixtures: Path, name: str) -> None:
    to, what = MANIFESTS[name]
    form = FORMS[to]
    with skeleton():
        if isinstance(what, str):
            config: Any = get(what).network
            own = config.build().state_dict()
        else:
            config, own = what, empty(what).state_dict()
        beside = empty(MaskGITVQGAN()) if to == "mage" else None
        form.check(config)
        found = form.state(config, own, beside)
    shapes = json.loads((fixtures / "manifests" / f"{name}.json").read_text())
    assert {key: list(tensor.shape) for key, tensor in found.items()} == shapes
    assert form.files is not None
    assert PLACES[to][0] in form.files(config, found)


def empty(config: Any) -> ImageTokenizer:
    made = {
        MaskGITVQGAN: MaskGITVQGANTokenizer,
        VQGAN: VQGANTokenizer,
        KLVAE: KLVAETokenizer,
    }[type(config)]
    return made(config)


@pytest.mark.parametrize(
    ("to", "config", "said"),
    [
        ("maskgit-pytorch", replace(VIT, feedback=Feedback()), r"network\.feedback=Feedback.*None"),
        ("unlockmgm", replace(BERT, gelu="tanh"), r"network\.gelu='tanh'.* has gelu='erf'"),
        ("unlockmgm", replace(BERT, drop_attention_output=True), "drop_attention_output=True"),
        ("unlockmgm", replace(BERT, feedback=Feedback()), r"network\.codes=20 .* codes=1024"),
        ("unlockmgm", VIT, "unlockmgm stores a MaskGITBertNetwork, and this is a MaskGITVit"),
        ("mar", replace(LATENT, classes=0), r"network\.classes=0 is beyond mar, .* classes=1"),
        ("mar", replace(LATENT, drops=False), "drops=False"),
        ("mar", replace(LATENT, tied=True), "tied=True"),
        ("mar", replace(LATENT, length=12, grid=(3, 4)), r"network\.grid=\(3, 4\)"),
        ("mage", replace(MAGE, position_rows=None), "position_rows=None .* position_rows=257"),
        ("mage", replace(MAGE, length=12, grid=(3, 4)), r"network\.grid=\(3, 4\)"),
        ("maskgit-vqgan", VQ, r"network\.middle=2 .* has middle=1"),
        ("maskgit-vqgan", replace(VQ, stem=64), r"network\.widths=\(32, 64\) .*\(64, 64\)"),
        ("mage-vqgan", replace(VQ, middle=1), "middle=1"),
        ("taming-vqgan", replace(TAMING, decoder_widths=(64, 64)), r"decoder_widths=\(64, 64\)"),
        ("taming-vqgan", replace(TAMING, pixels="unit"), "pixels='unit'"),
        ("llamagen-vq", TAMING, "l2_normalised=False"),
        ("llamagen-vq", replace(TAMING, l2_normalised=True, attention=(0,)), r"attention=\(0,\)"),
        ("amused-vq", TAMING, r"attention=\(1,\)"),
        ("kl16", replace(KL, groups=8), "groups=8"),
        ("kl16", replace(KL, stem=32), r"network\.stem=32 .* has stem=128"),
        ("kl16", replace(KL, attention=(1,)), r"attention=\(1,\) .* attention=\(\)"),
        ("kl16", TAMING, "kl16 stores a KLVAE, and this is a VQGAN"),
    ],
)
def test_what_a_project_cannot_build_is_refused_in_one_line(
    tmp_path: Path, to: str, config: Any, said: str
) -> None:
    made = system(config) if to in ("mage", "mar", "unlockmgm", "maskgit-pytorch") else None
    with pytest.raises(InputError, match=said) as error:
        export(made or tokenizer(config), tmp_path / "out", to)
    assert "\n" not in str(error.value)
    assert "keep this library's form" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_mage_wants_its_tokenizer(tmp_path: Path) -> None:
    made = system(MAGE)
    with pytest.raises(InputError, match="no tokenizer, which MAGE's files hold; convert or train"):
        export(Pipeline(made.recipe, made.model, None), tmp_path / "out", "mage")
    other = Pipeline(replace(made.recipe, network=replace(MAGE, codes=16)), made.model, None)
    other = Pipeline(other.recipe, made.model, toy_tokenizer())
    with pytest.raises(InputError, match="mage-vqgan stores a MaskGITVQGAN, and this is a ConvVQ"):
        export(other, tmp_path / "out", "mage")


def test_a_tokenizer_is_no_generator(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mar stores generators.* can go to: kl16"):
        export(tokenizer(KL), tmp_path / "out", "mar")
    with pytest.raises(InputError, match="unknown project to export to 'marr'; did you mean 'mar'"):
        open_for("fashion-vq", "marr")


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(InputError, match=r"holds 'thesis\.tex' but no export; name a new"):
        export(tokenizer(KL), tmp_path, "kl16")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_tokenizer_of_a_model_is_taken_where_tokenizers_are_stored(tmp_path: Path) -> None:
    made = system(MAGE)
    made.save_pretrained(tmp_path / "model")
    told = export(open_for(tmp_path / "model", "mage-vqgan"), tmp_path / "out", "mage-vqgan")
    assert isinstance(told, Exported)
    assert told.files == ("vqgan_jax_strongaug.ckpt",)
    assert told.untold["codes"] == 24
    export(made, tmp_path / "again", "mage-vqgan")
    assert_same(written(tmp_path / "again", "mage-vqgan"), written(tmp_path / "out", "mage-vqgan"))


def test_tied_vectors_that_differ_are_refused() -> None:
    form = FORMS["mage"]
    own = dict(system(MAGE).model.state_dict())
    own["head.out.weight"] = own["head.out.weight"] + 1
    with pytest.raises(InputError, match=r"'head\.out\.weight' differs from 'embed\.tokens"):
        form.state(MAGE, own, tokenizer(VQ))


def test_diffusers_reads_what_is_written_for_it(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    images = torch.rand(1, 3, 16, 16, generator=keyed_generator("images"))
    for name in ("amused", "dc-ae"):
        to, config = TOKENIZERS[name]
        made = tokenizer(config)
        export(made, tmp_path / name, to)
        classes = {"amused": diffusers.VQModel, "dc-ae": diffusers.AutoencoderDC}
        theirs, told = classes[name].from_pretrained(tmp_path / name, output_loading_info=True)
        assert not any(told.values())
        with torch.no_grad():
            encoded = theirs.eval().encode(2 * images - 1)
            mapped = encoded.latent if name == "dc-ae" else encoded.latents
            torch.testing.assert_close(made.encoder(2 * images - 1), mapped, rtol=1e-4, atol=1e-4)
