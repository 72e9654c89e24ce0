"""Smaller learning rates for earlier layers."""

from __future__ import annotations

from torch import nn

from unmask.probe.classifier import TokenClassifier


def layer_decay_groups(
    model: TokenClassifier, *, layer_decay: float, weight_decay: float
) -> list[dict[str, object]]:
    """Trainable parameters by learning rate and weight decay (BEiT; MAGE, ``util/lr_decay.py``).

    With N blocks, layer i of 0 (the embedding) to N + 1 (last norm and head) has the factor
    ``layer_decay ** (N + 1 - i)``. One-dimensional tensors are not decayed; tables are.

    Args:
        model: with a head.
        layer_decay: factor from one layer to the one before it; 1 means equal rates.
        weight_decay: of matrices and tables.

    Returns:
        Groups with ``lr_scale`` and ``weight_decay``, in order of first appearance.
    """
    encoder, head = model.encoder, model.head
    assert head is not None, "what names no classes is not trained"
    layers: list[list[nn.Module]] = [[encoder.embed], *([block] for block in encoder.blocks)]
    layers.append([encoder.norm, head])
    groups: list[dict[str, object]] = []
    for index, modules in enumerate(layers):
        found = [p for module in modules for p in module.parameters() if p.requires_grad]
        scale = layer_decay ** (len(layers) - 1 - index)
        for decay, params in (
            (0.0, [p for p in found if p.ndim == 1]),
            (weight_decay, [p for p in found if p.ndim > 1]),
        ):
            if params:
                groups.append({"params": params, "lr_scale": scale, "weight_decay": decay})
    return groups
