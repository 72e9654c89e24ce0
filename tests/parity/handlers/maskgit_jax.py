"""MaskGIT's JAX original: logits with both activations, from a flax file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from golden import Case
from torch import Tensor

from unmask.checkpoints.flax import decode_flax, flatten
from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import load_state
from unmask.nn.block import Gelu
from unmask.nn.model import MaskedModel
from unmask.projects.maskgit_jax import TABLE, network_of
from unmask.projects.project import Checkpoint
from unmask.projects.unlockmgm import TABLE as PORT_TABLE
from unmask.types import Canvas


def network(case: Case, gelu: Gelu = "tanh") -> MaskedModel:
    """The network of a case that has a flax file, in evaluation mode."""
    leaves = flatten(decode_flax(case.file().read_bytes()))
    source = {key: leaf for key, leaf in leaves.items() if isinstance(leaf, Tensor)}
    grid = (1, case.input("input_ids").shape[1] - 1)
    config = network_of(
        Checkpoint(source, Path(case.name), classes=case.spec["num_classes"], grid=grid)
    )
    sizes = {
        "hidden_size": config.width,
        "num_layers": config.depth,
        "num_heads": config.heads,
        "intermediate_size": config.feed_forward,
        "codebook_size": config.codes,
    }
    for name, found in sizes.items():
        assert case.spec.get(name, found) == found, name
    model = replace(config, gelu=gelu).build()
    load_state(model, to_own(source, TABLE, case.name), case.name)
    return model.eval()


@torch.inference_mode()
def logits(case: Case) -> dict[str, Tensor]:
    ids = case.input("input_ids")  # (B, 1 + L), class + V first; the mask is -1
    classes, tokens = ids[:, 0] - case.spec["codebook_size"], ids[:, 1:]
    last = case.spec["codebook_size"] + case.spec["num_classes"]
    canvas = Canvas(tokens.clamp(min=0), (tokens == -1) | (tokens == last))
    outputs: dict[str, Tensor] = {}
    for gelu in ("tanh", "erf"):
        model = network(case, gelu)
        hidden = torch.cat(model.hidden(canvas, classes), dim=1)
        outputs[f"logits_{gelu}"] = model.head.logits(hidden)
    if case.weights():  # the same weights as the PyTorch port writes them
        port = to_own(case.weights(), PORT_TABLE, case.name)
        for name, tensor in network(case).state_dict().items():
            torch.testing.assert_close(port[name], tensor, rtol=0, atol=0)
    return outputs


HANDLERS = {"maskgit_jax.logits": logits}
