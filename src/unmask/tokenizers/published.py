"""The tokenizers that other projects publish: their sizes, where they lie, and how to load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from unmask.checkpoints.hub import fetch_file
from unmask.checkpoints.names import Cast, rename, to_own
from unmask.checkpoints.store import is_ours, single
from unmask.checkpoints.tensor_files import read_tensors
from unmask.checkpoints.write_tensors import halved
from unmask.errors import InputError, did_you_mean
from unmask.files.json_files import read_json
from unmask.results import Result
from unmask.tokenizers import dc_ae
from unmask.tokenizers import names as flax_vqgan
from unmask.tokenizers import names as vqgan
from unmask.tokenizers.dc_ae import DCAE, DCAETokenizer
from unmask.tokenizers.image_tokenizer import filled
from unmask.tokenizers.latent_tokenizer import LatentTokenizer
from unmask.tokenizers.maskgit_vqgan import MaskGITVQGAN, MaskGITVQGANTokenizer
from unmask.tokenizers.names import KL_MARKS, is_kl_vae, translate_kl_vae
from unmask.tokenizers.quantizer import NEVER
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.tokenizers.vqgan import KLVAE, VQGAN, KLVAETokenizer, Pixels, VQGANTokenizer

CodesNetwork = MaskGITVQGAN | VQGAN
Sizes = TypeVar("Sizes")


@dataclass(frozen=True, kw_only=True)
class Published(Generic[Sizes]):
    """One tokenizer as it is published."""

    network: Sizes
    """Sizes."""
    parameters: int
    """Trained numbers, without buffers."""
    file: str
    """Name under which it is looked for in the working directory."""
    url: str
    """What to download."""
    hub: tuple[str, str] | None = None
    """Repository and file on the Hugging Face hub, where it is there."""
    results: tuple[Result, ...] = ()
    """Published scores."""


def _scores(psnr: float, ssim: float, lpips: float, rfid: float) -> tuple[Result, ...]:
    values = {"PSNR": psnr, "SSIM": ssim, "LPIPS": lpips, "rFID": rfid}
    return tuple(
        Result(
            metric=metric,
            value=value,
            setting="ImageNet validation, 256x256",
            source="xyfJASON/maskgit-pytorch, README",
        )
        for metric, value in values.items()
    )


def _jax_score(rfid: float, size: int) -> tuple[Result, ...]:
    setting = f"ImageNet validation, {size}x{size}"
    source = "google-research/maskgit, README"
    return (Result(metric="rFID", value=rfid, setting=setting, source=source),)


HUB = "https://huggingface.co/{}/resolve/main/{}"
TITOK = ("fun-research/TiTok", "maskgit-vqgan-imagenet-f16-256.bin")
LLAMAGEN = ("FoundationVision/LlamaGen", "vq_ds16_c2i.pt")
INSIDE_AMUSED = "vqvae/diffusion_pytorch_model.safetensors"
AMUSED, AMUSED_512 = ("amused/amused-256", INSIDE_AMUSED), ("amused/amused-512", INSIDE_AMUSED)
JAX = "https://storage.googleapis.com/maskgit-public/checkpoints/"
HEIDELBERG = "https://heibox.uni-heidelberg.de/"

MASKGIT_F16 = MaskGITVQGAN()
TAMING_F16 = VQGAN()
LLAMAGEN_F16 = replace(TAMING_F16, code_dim=8, l2_normalised=True)
AMUSED_F16 = VQGAN(
    widths=(128, 256, 256, 512, 768),
    attention=(),
    middle_attention=False,
    latent_channels=64,
    codes=8192,
    code_dim=64,
)

PUBLISHED: dict[str, Published[CodesNetwork]] = {
    "maskgit-vqgan-imagenet-f16-256": Published(
        network=MASKGIT_F16,
        parameters=54_515_587,
        file=TITOK[1],
        url=HUB.format(*TITOK),
        hub=TITOK,
        results=_scores(18.15, 0.43, 0.20, 2.12),
    ),
    "maskgit-jax-vqgan-256": Published(
        network=MASKGIT_F16,
        parameters=54_515_587,
        file="tokenizer_imagenet256_checkpoint",
        url=JAX + "tokenizer_imagenet256_checkpoint",
        results=_jax_score(2.28, 256),
    ),
    "maskgit-jax-vqgan-512": Published(
        network=MASKGIT_F16,
        parameters=54_515_587,
        file="tokenizer_imagenet512_checkpoint",
        url=JAX + "tokenizer_imagenet512_checkpoint",
        results=_jax_score(1.97, 512),
    ),
    "mage-vqgan": Published(
        network=MASKGIT_F16,
        parameters=54_515_587,
        file="vqgan_jax_strongaug.ckpt",
        url="https://drive.google.com/file/d/13S_unB87n6KKuuMdyMnyExW0G1kplTbP/view",
    ),
    "taming-vqgan-imagenet-f16-16384": Published(
        network=TAMING_F16,
        parameters=76_073_859,
        file="vqgan_imagenet_f16_16384.ckpt",
        url=HEIDELBERG + "f/867b05fc8c4841768640/?dl=1",
        results=_scores(20.01, 0.50, 0.17, 5.00),
    ),
    "taming-vqgan-imagenet-f16-1024": Published(
        network=replace(TAMING_F16, codes=1024),
        parameters=72_141_699,
        file="vqgan_imagenet_f16_1024.ckpt",
        url=HEIDELBERG + "d/8088892a516d4e3baf92/ (checkpoints/last.ckpt)",
    ),
    "llamagen-vq-ds16-c2i": Published(
        network=LLAMAGEN_F16,
        parameters=71_883_403,
        file=LLAMAGEN[1],
        url=HUB.format(*LLAMAGEN),
        hub=LLAMAGEN,
        results=_scores(20.79, 0.56, 0.14, 2.19),
    ),
    "amused-256": Published(
        network=AMUSED_F16,
        parameters=146_244_675,
        file="amused-256/" + AMUSED[1],
        url=HUB.format(*AMUSED),
        hub=AMUSED,
        results=_scores(21.81, 0.58, 0.14, 4.41),
    ),
    "amused-512": Published(
        network=AMUSED_F16,
        parameters=146_244_675,
        file="amused-512/" + INSIDE_AMUSED,
        url=HUB.format(*AMUSED_512),
        hub=AMUSED_512,
    ),
}
# What maskgit-pytorch's configurations and options call them.
SOURCE_NAMES = {
    "taming/vqgan_imagenet_f16_16384": "taming-vqgan-imagenet-f16-16384",
    "taming/vqgan_imagenet_f16_1024": "taming-vqgan-imagenet-f16-1024",
    "llamagen/vq_ds16_c2i": "llamagen-vq-ds16-c2i",
    "amused/amused-256": "amused-256",
    "amused/amused-512": "amused-512",
}

# Names of tensors, one of which every tokenizer of codes has.
MARKS = (vqgan.CODEBOOK, flax_vqgan.FLAX_CODEBOOK)
# What a folder of weights may hold, in the order of preference.
INSIDE = (
    "diffusion_pytorch_model.safetensors",
    "vqvae/diffusion_pytorch_model.safetensors",
    "pytorch_model.bin",
)


def load_published(
    name_or_path: str | Path, *, pixels: Pixels | None = None, half: bool = False
) -> VQTokenizer:
    """A published tokenizer in evaluation mode, frozen.

    Args:
        name_or_path: a key of :data:`PUBLISHED`, looked for in the working directory under its file
            name and then on the hub; or the path of a downloaded file (TiTok's ``.bin``, MAGE's,
            taming's and LlamaGen's checkpoints, MaskGIT's flax file) or folder (UnlockMGM's,
            aMUSEd's). What a path holds, at whatever sizes, is seen from its keys.
        pixels: the range that aMUSEd's network sees, see :class:`unmask.tokenizers.vqgan.VQGAN`.
        half: floats in float16 instead of float32, to be saved so.

    Raises:
        InputError: when nothing is there (saying what to download and where to put it), or it is no
            such tokenizer.
    """
    name = published_name(name_or_path)
    path = (
        find_file(name, PUBLISHED[name]) if name in PUBLISHED else weights_file(Path(name_or_path))
    )
    if path is None:
        known = did_you_mean(name, PUBLISHED)
        raise InputError(f"{name} is no file or folder of tokenizer weights; {known}")
    cast = halved if half else single
    network, state = translate(read_tensors(path, MARKS), config_beside(path), str(path), cast=cast)
    if name in PUBLISHED and network != PUBLISHED[name].network:
        raise InputError(f"{path} is not {name}: its network has other sizes; download it again")
    if pixels is not None:
        if not isinstance(network, VQGAN):
            raise InputError(f"pixels={pixels!r}: {path} sees [0, 1] only; leave it out")
        network = replace(network, pixels=pixels)
    return filled(partial(build, network), state, str(path))


def published_name(name: str | Path) -> str:
    """A key of :data:`PUBLISHED` for another project's name of it; any other name as it is."""
    text = str(name)
    return SOURCE_NAMES.get(text, text) if not Path(name).exists() else text


def tokenizer_of(
    state: Mapping[str, Tensor], config: Mapping[str, object], origin: str, *, half: bool = False
) -> VQTokenizer:
    """The tokenizer of a checkpoint's tensors; arguments and errors as of :func:`translate`.

    With ``half`` its floats are float16, in which it can be saved and not run.
    """
    network, own = translate(state, config, origin, cast=halved if half else single)
    return filled(partial(build, network), own, origin)


def build(network: CodesNetwork) -> VQTokenizer:
    """The tokenizer of these sizes, with random weights."""
    if isinstance(network, VQGAN):
        return VQGANTokenizer(network)
    return MaskGITVQGANTokenizer(network)


def holds_tokenizer(name_or_path: str | Path) -> bool:
    """Whether :func:`load_published` can take it, for which a file's keys are looked at.

    Raises:
        InputError: when a file cannot be read.
    """
    path = weights_file(Path(name_or_path))
    if published_name(name_or_path) in PUBLISHED or path is None:
        return published_name(name_or_path) in PUBLISHED
    state = read_tensors(path, MARKS)
    return flax_vqgan.is_flax_tokenizer(state) or vqgan.layout_of(state) is not None


def translate(
    state: Mapping[str, Tensor],
    config: Mapping[str, object],
    origin: str,
    *,
    cast: Cast = single,
) -> tuple[CodesNetwork, dict[str, Tensor]]:
    """A checkpoint's tensors by our names, and the sizes that they have.

    Args:
        state: by the source's keys.
        config: aMUSEd's ``config.json``; may be empty.
        origin: file, named in errors.
        cast: what becomes of each tensor; see :func:`unmask.checkpoints.names.to_own`.

    Raises:
        InputError: when it is no tokenizer known here.
    """
    kind = vqgan.layout_of(state)
    network: CodesNetwork
    if flax_vqgan.is_flax_tokenizer(state):
        own = to_own(state, flax_vqgan.flax_table(state, origin), origin, cast=cast)
    elif kind is not None:
        layout = vqgan.LAYOUTS[kind]
        table = vqgan.table_of(layout, vqgan.count_levels(state, layout))
        own = to_own(state, table, origin, cast=cast)
    else:
        some = ", ".join(sorted(state)[:3]) or "nothing"
        some = "a KL autoencoder, which makes latents and no codes" if is_kl_vae(state) else some
        raise InputError(f"{origin} holds no tokenizer known here; it holds {some}")
    if kind in (None, "maskgit-vqgan", "mage-vqgan"):
        network = vqgan.maskgit_network(own, origin)
    else:
        network = vqgan.vqgan_network(own, kind, config, origin)
    idle = torch.full((network.codes,), NEVER, dtype=torch.int64)  # bookkeeping of training
    return network, {**own, vqgan.OWN_IDLE: idle}


def weights_file(path: Path) -> Path | None:
    """The file of weights at a path, or inside a folder in another project's form."""
    if path.is_file():
        return path
    return next((path / name for name in INSIDE if (path / name).is_file()), None)


def find_file(name: str, entry: Published[Sizes]) -> Path:
    """The file of a published tokenizer, in the working directory or fetched from the hub.

    Raises:
        InputError: saying what to download and where to put it.
    """
    here = Path(entry.file)
    if here.is_file():
        return here
    where = f"download {entry.url} and put it at {here}, or give the path where it lies"
    if entry.hub is None:
        raise InputError(f"{name} is not here: {where}")
    return fetch_file(*entry.hub, otherwise=where)


def config_beside(path: Path) -> dict[str, object]:
    """The ``config.json`` beside a safetensors file; empty where there is none.

    Raises:
        InputError: when it is not JSON.
    """
    config = path.parent / "config.json"
    if path.suffix != ".safetensors" or not config.is_file():
        return {}
    found = read_json(config)
    return found if isinstance(found, dict) else {}


LatentsNetwork = KLVAE | DCAE
DC_AE = ("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers", "diffusion_pytorch_model.safetensors")

PUBLISHED_LATENTS: dict[str, Published[LatentsNetwork]] = {
    "kl16": Published(
        network=KLVAE(),
        parameters=66_456_019,
        file="kl16.ckpt",
        url="https://www.dropbox.com/scl/fi/hhmuvaiacrarfg28qxhwz/kl16.ckpt"
        "?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=0",
    ),
    "dc-ae-f32c32-in-1.0": Published(
        network=DCAE(),
        parameters=323_356_460,
        file="dc-ae-f32c32-in-1.0-diffusers/" + DC_AE[1],
        url=HUB.format(*DC_AE),
        hub=DC_AE,
    ),
}


def load_published_latents(
    name_or_path: str | Path, *, scale: float | None = None
) -> LatentTokenizer:
    """A published tokenizer of latents in evaluation mode, frozen.

    Args:
        name_or_path: a key of :data:`PUBLISHED_LATENTS`, looked for in the working directory under
            its file name and then on the hub; or the path of a downloaded file (MAR's ``kl16.ckpt``
            or latent diffusion's own, read as plain weights) or of a DC-AE folder in diffusers'
            form.
        scale: of latents to tokens, where it is not that of KL-16 or of eMIGM's DC-AE: no file of
            theirs tells it.

    Raises:
        InputError: when nothing is there (saying what to download and where to put it), or it is no
            such tokenizer.
    """
    entry = PUBLISHED_LATENTS.get(str(name_or_path))
    if entry is not None:
        path = find_file(str(name_or_path), entry)
    else:
        found = weights_file(Path(name_or_path))
        if found is None:
            known = did_you_mean(str(name_or_path), PUBLISHED_LATENTS)
            raise InputError(f"{name_or_path} is no file of autoencoder weights; {known}")
        path = found
    network, state = _read(path, entry.network if entry else None)
    if entry is not None and network != entry.network:
        raise InputError(
            f"{path} is not {name_or_path}: its network has other sizes; download it again"
        )
    if scale is not None:
        network = replace(network, scale=scale)
    if isinstance(network, DCAE):
        return filled(partial(DCAETokenizer, network), state, str(path))
    return filled(partial(KLVAETokenizer, network), state, str(path))


def _read(path: Path, expected: LatentsNetwork | None) -> tuple[LatentsNetwork, dict[str, Tensor]]:
    """Sizes and weights; ``expected`` are the sizes of a DC-AE file without its config."""
    tensors, config = read_tensors(path, KL_MARKS), config_beside(path)
    if isinstance(expected, DCAE) or config.get("_class_name") == dc_ae.CLASS:
        sizes = dc_ae.sizes_of(config, str(path.parent / "config.json")) if config else expected
        assert isinstance(sizes, DCAE), "a file without config is only taken by name"
        return sizes, to_own(tensors, (rename("{rest}", "{rest}"),), str(path), cast=single)
    return translate_kl_vae(tensors, str(path))


def check_efficientvit(folder: Path) -> None:
    """Refuse a folder of DC-AE in its authors' own form, naming the form that is read.

    Raises:
        InputError: for such a folder.
    """
    config = folder / "config.json"
    told = read_json(config) if config.is_file() else None
    name = told.get("model_name") if isinstance(told, dict) else None
    if isinstance(name, str) and name.startswith("dc-ae") and not is_ours(folder):
        raise InputError(
            f"{folder} is DC-AE as efficientvit stores it, which is not read; fetch the "
            f"repository mit-han-lab/{name}-diffusers and give its folder"
        )


def holds_latents(path: Path) -> bool:
    """Whether a place of foreign weights holds a tokenizer of latents, by its config or keys.

    Raises:
        InputError: when a file cannot be read.
    """
    file = weights_file(path)
    if file is None:
        return False
    return config_beside(file).get("_class_name") == dc_ae.CLASS or is_kl_vae(
        read_tensors(file, KL_MARKS)
    )
