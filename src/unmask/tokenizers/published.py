"""The tokenizers that other projects publish: their sizes, where they lie, and how to load them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask.checkpoints.locate import fetch_file
from unmask.checkpoints.names import Cast, rename, to_own
from unmask.checkpoints.store import is_ours, single
from unmask.checkpoints.tensor_files import read_tensors
from unmask.checkpoints.write_tensors import halved
from unmask.errors import InputError, did_you_mean
from unmask.files.json_files import read_json
from unmask.results import Result, scores
from unmask.tokenizers import dc_ae, names
from unmask.tokenizers.dc_ae import DCAE
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, filled
from unmask.tokenizers.vq_tokenizer import NEVER
from unmask.tokenizers.vqgan import KLVAE, VQGAN, MaskGITVQGAN


@dataclass(frozen=True, kw_only=True)
class Published:
    """One tokenizer as it is published.

    Args:
        network: Sizes, which the file must have.
        file: Name under which it is looked for in the working directory.
        url: Address to download it from.
        hub: Repository and file on the Hugging Face hub; None where it is not there.
        results: Published scores, with their sources.
    """

    network: ImageConfig
    file: str
    url: str
    hub: tuple[str, str] | None = None
    results: tuple[Result, ...] = ()


def _on_hub(repository: str, inside: str, *, folder: str = "", **entry: Any) -> Published:
    """An entry that is fetched when it is not in the working directory, in ``folder`` there."""
    return Published(
        file=folder + inside,
        url=f"https://huggingface.co/{repository}/resolve/main/{inside}",
        hub=(repository, inside),
        **entry,
    )


def _readme(**values: float) -> tuple[Result, ...]:
    return scores("ImageNet validation, 256x256", "xyfJASON/maskgit-pytorch, README", **values)


def _jax(size: int, rfid: float) -> Published:
    """MaskGIT's own tokenizer, as a flax file."""
    file, setting = f"tokenizer_imagenet{size}_checkpoint", f"ImageNet validation, {size}x{size}"
    return Published(
        network=MASKGIT_F16,
        file=file,
        url="https://storage.googleapis.com/maskgit-public/checkpoints/" + file,
        results=scores(setting, "google-research/maskgit, README", rfid=rfid),
    )


DIFFUSERS = "diffusion_pytorch_model.safetensors"
HEIDELBERG = "https://heibox.uni-heidelberg.de/"
MASKGIT_F16 = MaskGITVQGAN()
TAMING_F16 = VQGAN()
AMUSED_F16 = VQGAN(
    widths=(128, 256, 256, 512, 768),
    attention=(),
    middle_attention=False,
    latent_channels=64,
    codes=8192,
    code_dim=64,
)

PUBLISHED: dict[str, Published] = {
    "maskgit-vqgan-imagenet-f16-256": _on_hub(
        "fun-research/TiTok",
        "maskgit-vqgan-imagenet-f16-256.bin",
        network=MASKGIT_F16,
        results=_readme(psnr=18.15, ssim=0.43, lpips=0.20, rfid=2.12),
    ),
    "maskgit-jax-vqgan-256": _jax(256, 2.28),
    "maskgit-jax-vqgan-512": _jax(512, 1.97),
    "mage-vqgan": Published(
        network=MASKGIT_F16,
        file="vqgan_jax_strongaug.ckpt",
        url="https://drive.google.com/file/d/13S_unB87n6KKuuMdyMnyExW0G1kplTbP/view",
    ),
    "taming-vqgan-imagenet-f16-16384": Published(
        network=TAMING_F16,
        file="vqgan_imagenet_f16_16384.ckpt",
        url=HEIDELBERG + "f/867b05fc8c4841768640/?dl=1",
        results=_readme(psnr=20.01, ssim=0.50, lpips=0.17, rfid=5.00),
    ),
    "taming-vqgan-imagenet-f16-1024": Published(
        network=replace(TAMING_F16, codes=1024),
        file="vqgan_imagenet_f16_1024.ckpt",
        url=HEIDELBERG + "d/8088892a516d4e3baf92/ (checkpoints/last.ckpt)",
    ),
    "llamagen-vq-ds16-c2i": _on_hub(
        "FoundationVision/LlamaGen",
        "vq_ds16_c2i.pt",
        network=replace(TAMING_F16, code_dim=8, l2_normalised=True),
        results=_readme(psnr=20.79, ssim=0.56, lpips=0.14, rfid=2.19),
    ),
    "amused-256": _on_hub(
        "amused/amused-256",
        f"vqvae/{DIFFUSERS}",
        folder="amused-256/",
        network=AMUSED_F16,
        results=_readme(psnr=21.81, ssim=0.58, lpips=0.14, rfid=4.41),
    ),
    "amused-512": _on_hub(
        "amused/amused-512", f"vqvae/{DIFFUSERS}", folder="amused-512/", network=AMUSED_F16
    ),
    "kl16": Published(
        network=KLVAE(),
        file="kl16.ckpt",
        url="https://www.dropbox.com/scl/fi/hhmuvaiacrarfg28qxhwz/kl16.ckpt"
        "?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=0",
    ),
    "dc-ae-f32c32-in-1.0": _on_hub(
        "mit-han-lab/dc-ae-f32c32-in-1.0-diffusers",
        DIFFUSERS,
        folder="dc-ae-f32c32-in-1.0-diffusers/",
        network=DCAE(),
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

# Names of tensors, one of which every file has that is recognised by its keys.
MARKS = (names.CODEBOOK, names.FLAX_CODEBOOK, *names.LAYOUTS["kl16"].marks)
# What a folder of weights may hold, in the order of preference.
INSIDE = (DIFFUSERS, f"vqvae/{DIFFUSERS}", "pytorch_model.bin")


def load_published(
    name_or_path: str | Path, *, half: bool = False, **untold: Any
) -> ImageTokenizer:
    """A published tokenizer in evaluation mode, frozen.

    Args:
        name_or_path: a key of :data:`PUBLISHED`, looked for in the working directory under its file
            name and then on the hub; or the path of a downloaded file (TiTok's ``.bin``, MAGE's,
            taming's and LlamaGen's checkpoints, MaskGIT's flax file, MAR's ``kl16.ckpt`` or latent
            diffusion's own) or folder (UnlockMGM's, aMUSEd's, DC-AE's in diffusers' form). What a
            path holds, at whatever sizes, is seen from its keys and its ``config.json``.
        half: floats in float16 instead of float32, to be saved so.
        untold: sizes that no file tells, where they are not the published ones: ``pixels`` of
            aMUSEd (see :class:`unmask.tokenizers.vqgan.VQGAN`), ``scale`` of latents.

    Raises:
        InputError: when nothing is there (saying what to download and where to put it), or it is no
            such tokenizer.
    """
    name = published_name(name_or_path)
    entry = PUBLISHED.get(name)
    path = _find_file(name, entry) if entry else weights_file(Path(name_or_path))
    if path is None:
        known = did_you_mean(name, PUBLISHED)
        raise InputError(f"{name} is no file or folder of tokenizer weights; {known}")
    config = config_beside(path)
    if not config and entry and isinstance(entry.network, DCAE):  # whose keys tell no sizes
        config = {"_class_name": dc_ae.CLASS, **dc_ae.arguments(entry.network)}
    cast = halved if half else single
    network, state = translate(read_tensors(path, MARKS), config, str(path), cast=cast)
    if entry and network != entry.network:
        raise InputError(f"{path} is not {name}: its network has other sizes; download it again")
    for option, value in untold.items():
        if not hasattr(network, option):
            raise InputError(
                f"{option}={value!r}: {path} is {type(network).__name__}, which has no such "
                "option; leave it out"
            )
    return filled(replace(network, **untold).build, state, str(path))


def published_name(name: str | Path) -> str:
    """A key of :data:`PUBLISHED` for another project's name of it; any other name as it is."""
    text = str(name)
    return SOURCE_NAMES.get(text, text) if not Path(name).exists() else text


def tokenizer_of(
    state: Mapping[str, Tensor], config: Mapping[str, object], origin: str, *, half: bool = False
) -> ImageTokenizer:
    """The tokenizer of a checkpoint's tensors; arguments and errors are those of :func:`translate`.

    With ``half`` its floats are float16, in which it can be saved and not run.
    """
    network, own = translate(state, config, origin, cast=halved if half else single)
    return filled(network.build, own, origin)


def holds_tokenizer(name_or_path: str | Path) -> bool:
    """Whether :func:`load_published` can take it, for which a file's keys are looked at.

    Raises:
        InputError: when a file cannot be read.
    """
    path = weights_file(Path(name_or_path))
    if published_name(name_or_path) in PUBLISHED or path is None:
        return published_name(name_or_path) in PUBLISHED
    if config_beside(path).get("_class_name") == dc_ae.CLASS:
        return True
    state = read_tensors(path, MARKS)
    return names.FLAX_CODEBOOK in state or names.layout_of(state) is not None


def translate(
    state: Mapping[str, Tensor], config: Mapping[str, object], origin: str, *, cast: Cast = single
) -> tuple[ImageConfig, dict[str, Tensor]]:
    """A checkpoint's tensors by our names, and the sizes that they have.

    Args:
        state: by the source's keys.
        config: the ``config.json`` of aMUSEd or DC-AE; may be empty for any other.
        origin: file, named in errors.
        cast: what becomes of each tensor; see :func:`unmask.checkpoints.names.to_own`.

    Raises:
        InputError: when it is no tokenizer known here.
    """
    if config.get("_class_name") == dc_ae.CLASS:
        sizes = dc_ae.sizes_of(config, str(Path(origin).parent / "config.json"))
        return sizes, to_own(state, (rename("{rest}", "{rest}"),), origin, cast=cast)
    kind = names.layout_of(state)
    if names.FLAX_CODEBOOK in state:
        table = names.flax_table(state, origin)
    elif kind is not None:
        layout = names.LAYOUTS[kind]
        table = names.table_of(layout, names.count_levels(state, layout))
    else:
        some = ", ".join(sorted(state)[:3]) or "nothing"
        raise InputError(f"{origin} holds no tokenizer known here; it holds {some}")
    own = to_own(state, table, origin, cast=cast)
    network = names.network_of(own, kind, config, origin)
    if isinstance(network, KLVAE):
        return network, own
    idle = torch.full((network.codes,), NEVER, dtype=torch.int64)  # bookkeeping of training
    return network, {**own, names.OWN_IDLE: idle}


def weights_file(path: Path) -> Path | None:
    """The file of weights at a path, or inside a folder in another project's form."""
    if path.is_file():
        return path
    return next((path / name for name in INSIDE if (path / name).is_file()), None)


def _find_file(name: str, entry: Published) -> Path:
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


def check_efficientvit(folder: Path) -> None:
    """Refuse a folder of DC-AE in its authors' own form, naming the form that is read.

    Raises:
        InputError: for such a folder.
    """
    config = folder / "config.json"
    found = read_json(config) if config.is_file() else None
    name = found.get("model_name") if isinstance(found, dict) else None
    if isinstance(name, str) and name.startswith("dc-ae") and not is_ours(folder):
        raise InputError(
            f"{folder} is DC-AE as efficientvit stores it, which is not read; fetch the "
            f"repository mit-han-lab/{name}-diffusers and give its folder"
        )
