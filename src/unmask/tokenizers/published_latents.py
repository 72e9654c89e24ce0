"""The published tokenizers of continuous latents: sizes, where they lie, and how to load them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from unmask.checkpoints.kl_vae import MARKS, is_kl_vae, translate_kl_vae
from unmask.checkpoints.names import rename, to_own
from unmask.checkpoints.store import is_ours, single
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError, did_you_mean
from unmask.json_files import read_json
from unmask.tokenizers import dc_ae
from unmask.tokenizers.dc_ae import DCAE, DCAETokenizer
from unmask.tokenizers.image_tokenizer import filled
from unmask.tokenizers.kl_vae import KLVAE, KLVAETokenizer
from unmask.tokenizers.latent_tokenizer import LatentTokenizer
from unmask.tokenizers.published import HUB, Published, config_beside, find_file, weights_file

Network = KLVAE | DCAE
DC_AE = ("mit-han-lab/dc-ae-f32c32-in-1.0-diffusers", "diffusion_pytorch_model.safetensors")

PUBLISHED_LATENTS: dict[str, Published[Network]] = {
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


def _read(path: Path, expected: Network | None) -> tuple[Network, dict[str, Tensor]]:
    """Sizes and weights; ``expected`` are the sizes of a DC-AE file without its config."""
    tensors, config = read_tensors(path, MARKS), config_beside(path)
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
        read_tensors(file, MARKS)
    )
