"""Toy tokenizers in the containers of the projects that publish real ones."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.tokenizers.vq_tokenizer import VectorQuantizer

NARROW = (torch.float16, torch.float8_e4m3fn)
CALLBACK_MODULE = "pytorch_lightning.callbacks.model_checkpoint"


class Toy(NamedTuple):
    """A file or folder, and what the source project computed with its weights."""

    path: Path
    images: Tensor
    """``(2, 3, 32, 32)`` in [0, 1]."""
    image_ids: Tensor
    """``(2, L)``, their codes."""
    ids: Tensor
    """``(2, L)``, others."""
    decoded: Tensor
    """The images of these, on the scale of [0, 1], clamped."""


def source_state(fixtures: Path, case: str) -> dict[str, Tensor]:
    """The weights by the project's keys, float32."""
    state = load_file(fixtures / "tokenizers" / f"{case}.weights.safetensors")
    return {key: t.float() if t.dtype in NARROW else t for key, t in state.items()}


def source_config(fixtures: Path, case: str) -> dict:
    return json.loads((fixtures / "tokenizers" / f"{case}.json").read_text())["config"]


def write_titok(fixtures: Path, folder: Path) -> Path:
    path = folder / "maskgit-vqgan-imagenet-f16-256.bin"
    torch.save(source_state(fixtures, "maskgit_vqgan"), path)
    return path


def write_unlockmgm(fixtures: Path, folder: Path) -> Path:
    (folder / "tokenizer").mkdir()
    path = folder / "tokenizer" / "pytorch_model.bin"
    torch.save(source_state(fixtures, "maskgit_vqgan"), path)
    config = source_config(fixtures, "maskgit_vqgan")
    (folder / "tokenizer" / "config.json").write_text(json.dumps(config))
    return folder / "tokenizer"


def write_lightning(fixtures: Path, folder: Path) -> Path:
    """A Lightning checkpoint: a callback class as a key, losses among the weights."""
    path = folder / "last.ckpt"
    module = ModuleType(CALLBACK_MODULE)
    callback = type("ModelCheckpoint", (), {"__module__": CALLBACK_MODULE})
    module.ModelCheckpoint = callback  # type: ignore[attr-defined]
    state = source_state(fixtures, "taming_vqgan")
    state["loss.perceptual_loss.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    whole = {
        "epoch": 3,
        "callbacks": {callback: {"best_model_score": torch.tensor(0.5), "best_model_path": "a"}},
        "optimizer_states": [{"state": {0: {"step": 3}}, "param_groups": []}],
        "state_dict": state,
    }
    parents = [CALLBACK_MODULE.rsplit(".", depth)[0] for depth in (2, 1)]
    modules = {**{name: ModuleType(name) for name in parents}, CALLBACK_MODULE: module}
    sys.modules.update(modules)
    try:
        torch.save(whole, path)
    finally:
        for name in modules:
            del sys.modules[name]
    return path


def write_llamagen(fixtures: Path, folder: Path) -> Path:
    path = folder / "vq_ds16_c2i.pt"
    state = source_state(fixtures, "llamagen_vq")
    torch.save({"model": {**state, "quantize.codebook_used": torch.zeros(65536)}}, path)
    return path


def write_amused(fixtures: Path, folder: Path) -> Path:
    """A pipeline's folder of diffusers, the tokenizer in ``vqvae``."""
    inside = folder / "amused" / "vqvae"
    inside.mkdir(parents=True)
    save_file(source_state(fixtures, "amused_vq"), inside / "diffusion_pytorch_model.safetensors")
    config = {"_class_name": "VQModel", **source_config(fixtures, "amused_vq")}
    (inside / "config.json").write_text(json.dumps(config))
    (folder / "amused" / "model_index.json").write_text("{}")
    return folder / "amused"


WRITERS = {
    "titok": ("maskgit_vqgan", write_titok),
    "unlockmgm": ("maskgit_vqgan", write_unlockmgm),
    "taming": ("taming_vqgan", write_lightning),
    "llamagen": ("llamagen_vq", write_llamagen),
    "amused": ("amused_vq", write_amused),
}


def make(fixtures: Path, folder: Path, name: str) -> Toy:
    """Write the toy of that name into an empty folder."""
    case, write = WRITERS[name]
    io = load_file(fixtures / "tokenizers" / f"{case}.io.safetensors")
    images, decoded = (io["x"] + 1) / 2, (io["decode_random_indices"] + 1) / 2
    path = write(fixtures, folder)
    return Toy(path, images, io["indices"], io["random_indices"], decoded.clamp(0, 1))


def soft_codes(quantizer: VectorQuantizer, latents: Tensor, temperature: float) -> Tensor:
    """The softmax ``(..., V)`` of minus squared distance (open-muse's ``get_soft_code``)."""
    table = quantizer.table()
    z = F.normalize(latents, dim=-1) if quantizer.l2_normalised else latents
    scores = 2 * z @ table.t() - table.square().sum(-1)  # |z|^2 drops out of the softmax
    return (scores / temperature).softmax(-1)
