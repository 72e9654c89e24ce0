"""An encoder with a head that names classes, and how it lies on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from unmask.checkpoints.store import load_state, load_weights, save_weights
from unmask.errors import InputError
from unmask.probe.encoder import Encoder, EncoderSizes
from unmask.recipes.serial import from_dict, to_dict
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.tokenizers.vq_tokenizer import VQTokenizer

FORMAT = "unmask-classifier"
INSIDE = "tokenizer"
PROBE_DEVIATION, FINETUNE_DEVIATION = 0.01, 2e-5  # of the published heads' first weights


class TokenClassifier(nn.Module):
    """Codes to class scores.

    Args:
        encoder: codes to features.
        head: features to scores.
    """

    def __init__(self, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def forward(self, codes: Tensor) -> Tensor:
        """``(B, L)`` int64 codes to ``(B, K)`` scores."""
        return self.head(self.encoder(codes))


def build_head(width: int, classes: int, *, normed: bool) -> nn.Sequential | nn.Linear:
    """A linear head, or the probe's, which first normalises features over the batch.

    MAGE, ``main_linprobe.py`` and ``models_vit_mage.py``. The statistics are of each process's own
    micro-batch, as published.
    """
    linear = nn.Linear(width, classes)
    return (
        nn.Sequential(nn.BatchNorm1d(width, eps=1e-6, affine=False), linear) if normed else linear
    )


def last_layer(head: nn.Module) -> nn.Linear:
    """The linear layer that ends every head."""
    last = head[-1] if isinstance(head, nn.Sequential) else head
    assert isinstance(last, nn.Linear), "every head ends in a linear layer"
    return last


def initialize_head(head: nn.Module, generator: torch.Generator) -> None:
    """Weights normal with the published deviation and cut at +-2 (an absolute bound), biases 0."""
    deviation = PROBE_DEVIATION if isinstance(head, nn.Sequential) else FINETUNE_DEVIATION
    nn.init.trunc_normal_(last_layer(head).weight, std=deviation, generator=generator)
    nn.init.zeros_(last_layer(head).bias)


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A classifier with what belongs to it."""

    model: TokenClassifier
    """Encoder and head."""
    tokenizer: VQTokenizer
    """Frozen."""
    class_names: tuple[str, ...] = ()
    """In label order; empty if unknown."""

    @property
    def encoder(self) -> Encoder:
        """The model's encoder."""
        assert isinstance(self.model.encoder, Encoder), "only an encoder of codes is ever saved"
        return self.model.encoder

    @property
    def classes(self) -> int:
        """K."""
        return last_layer(self.model.head).out_features


def save_classifier(saved: Saved, folder: Path, facts: Mapping[str, object] | None = None) -> None:
    """Write a folder that :func:`load_saved` reads: the tokenizer first, the weights last.

    Args:
        saved: what to write.
        folder: new, or an earlier classifier to replace.
        facts: further entries of its ``config.json``, such as its accuracy.

    Raises:
        InputError: when the disk refuses; a classifier that was there is whole.
    """
    config = {
        **(facts or {}),
        "format": FORMAT,
        "encoder": to_dict(saved.encoder.sizes),
        "pool": saved.encoder.pool,
        "probe": isinstance(saved.model.head, nn.Sequential),
        "classes": saved.classes,
        "class_names": list(saved.class_names),
    }
    if not (folder / INSIDE).exists():
        save_tokenizer(saved.tokenizer, folder / INSIDE)
    save_weights(folder, saved.model.state_dict(), config)


def load_saved(folder: Path) -> Saved:
    """A classifier that :func:`save_classifier` wrote, in evaluation mode.

    Raises:
        InputError: when the folder holds something else.
    """
    state, config = load_weights(folder)
    if config.get("format") != FORMAT:
        raise InputError(f"{folder} holds no classifier, but {config.get('format')!r}")
    sizes = from_dict(EncoderSizes, config["encoder"], str(folder))
    with torch.device("meta"):
        head = build_head(sizes.width, config["classes"], normed=config["probe"])
        model = TokenClassifier(Encoder(sizes, pool=config["pool"]), head)
    load_state(model, state, str(folder))
    tokenizer = load_tokenizer(folder / INSIDE)
    return Saved(model=model.eval(), tokenizer=tokenizer, class_names=tuple(config["class_names"]))
