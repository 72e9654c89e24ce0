"""A network: embed, trunk and head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unmask.nn.categorical import CategoricalHead
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.embed import IdEmbed, JointEmbed, LatentEmbed
from unmask.nn.encoder_decoder import EncoderDecoder, Trunk
from unmask.nn.positions import FEWEST_ROWS, widened
from unmask.types import Canvas, Hidden

AnyEmbed = IdEmbed | JointEmbed | LatentEmbed
AnyTrunk = Trunk | EncoderDecoder
AnyHead = CategoricalHead | DiffusionHead


class MaskedModel(nn.Module):
    """Predicts every token of a partly known image.

    Args:
        embed: canvas and class to ``(B, P + L, D)``.
        trunk: ``(B, P + L, D)`` to the same.
        head: reads token features; applied only where it is needed, by whoever needs it.
        length: L, tokens of a full canvas.
        grid: (h, w) tokens, h w = L.
        classes: N; 0 for an unconditional model.
        feedback: the adapter of self-guidance: ``(model, hidden, canvas, class_labels)`` to the
            ``(B, L, D)`` features of its second pass.
    """

    def __init__(
        self,
        embed: AnyEmbed,
        trunk: AnyTrunk,
        head: AnyHead,
        *,
        length: int,
        grid: tuple[int, int],
        classes: int,
        feedback: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.trunk = trunk
        self.head = head
        self.length = length
        self.grid = grid
        self.classes = classes
        self.feedback = feedback

    @property
    def null_class(self) -> int | None:
        """The label that means "no class"; None for a model that was never taught one."""
        return self.embed.null_class

    @property
    def drops(self) -> bool:
        """Whether the encoder sees known tokens only, of which every row then has equally many."""
        return self.trunk.drops

    @property
    def channels(self) -> int | None:
        """C of latents; None where tokens are ids."""
        return self.embed.project.in_features if isinstance(self.embed, LatentEmbed) else None

    def hidden(
        self, canvas: Canvas, class_labels: Tensor | None, read: Tensor | None = None
    ) -> Hidden:
        """Features of every position, or of those that are read; the head is not applied.

        Args:
            canvas: ``(B, L)``.
            class_labels: ``(B,)`` int64 in [0, classes) or the null class, not checked here; None
                for an unconditional model.
            read: ``(B, N)`` int64, image positions whose features are wanted; None means all. The
                last block works only there.
        """
        x, prefix = self.embed(canvas, class_labels)  # (B, P + L, D)
        if read is None:
            x = self.trunk(x, canvas)
            return Hidden(x[:, :prefix], x[:, prefix:])
        x = self.trunk(x, canvas, widened(read + prefix, FEWEST_ROWS))
        return Hidden(x[:, :0], x[:, : read.shape[1]])

    forward = hidden


@torch.no_grad()
def initialize(model: nn.Module, generator: torch.Generator) -> None:
    """Fill all weights as the published trainings began.

    Biases 0, norms 1 and 0. In MaskGIT matrices, tables and positions are normal with deviation
    0.02, cut at +-2 (an absolute bound, so practically never reached). In trunks of two halves
    (MAGE, MAR, eMIGM) matrices are uniform (Xavier), and vectors and tables normal with deviation
    0.02; a diffusion head begins in its own way.

    Args:
        model: on the generator's device.
        generator: read in the order of ``model.modules()``.
    """
    halves = any(isinstance(module, EncoderDecoder) for module in model.modules())
    tables = {m.weight for m in model.modules() if isinstance(m, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            if halves and module.weight not in tables:  # MAGE's output layer reads a table
                nn.init.xavier_uniform_(module.weight, generator=generator)
            else:
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
        if isinstance(module, (IdEmbed, LatentEmbed, EncoderDecoder)):
            for vectors in module.parameters(recurse=False):
                nn.init.trunc_normal_(vectors, std=0.02, generator=generator)
    for module in model.modules():
        if isinstance(module, DiffusionHead):
            module.initialize(generator)
