"""The published tokenizers of continuous latents: sizes, where they lie, and how to load them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from unmask.checkpoints.kl_vae import translate_kl_vae
from unmask.checkpoints.store import load_state
from unmask.checkpoints.tensor_files import read_tensors
from unmask.errors import InputError, did_you_mean
from unmask.tokenizers.kl_vae import KLVAE, KLVAETokenizer
from unmask.tokenizers.published import Published, find_file, weights_file

PUBLISHED_LATENTS: dict[str, Published[KLVAE]] = {
    "kl16": Published(
        network=KLVAE(),
        parameters=66_456_019,
        file="kl16.ckpt",
        url="https://www.dropbox.com/scl/fi/hhmuvaiacrarfg28qxhwz/kl16.ckpt"
        "?rlkey=l44xipsezc8atcffdp4q7mwmh&dl=0",
    ),
}


def load_published_latents(
    name_or_path: str | Path, *, scale: float | None = None
) -> KLVAETokenizer:
    """A published tokenizer of latents in evaluation mode, frozen.

    Args:
        name_or_path: a key of :data:`PUBLISHED_LATENTS`, looked for in the working directory under
            its file name; or the path of a downloaded file (MAR's ``kl16.ckpt`` or latent
            diffusion's own), read as plain weights.
        scale: of latents to tokens, where it is not KL-16's: no file tells it.

    Raises:
        InputError: when nothing is there (saying what to download and where to put it), or it is no
            such tokenizer.
    """
    name = str(name_or_path)
    if name in PUBLISHED_LATENTS:
        path = find_file(name, PUBLISHED_LATENTS[name])
    else:
        found = weights_file(Path(name_or_path))
        if found is None:
            known = did_you_mean(name, PUBLISHED_LATENTS)
            raise InputError(f"{name} is no file of autoencoder weights; {known}")
        path = found
    network, state = translate_kl_vae(read_tensors(path), str(path))
    if name in PUBLISHED_LATENTS and network != PUBLISHED_LATENTS[name].network:
        raise InputError(f"{path} is not {name}: its network has other sizes; download it again")
    if scale is not None:
        network = replace(network, scale=scale)
    with torch.device("meta"):
        tokenizer = KLVAETokenizer(network)
    load_state(tokenizer, state, str(path))
    return tokenizer.eval().requires_grad_(False)
