"""A network: embed, trunk and head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from unmask.nn.categorical import CategoricalHead
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.embed import Embed
from unmask.nn.encoder_decoder import EncoderDecoder, Trunk
from unmask.nn.positions import FEWEST_ROWS, widened
from unmask.nn.weights import fill
from unmask.types import Canvas, Hidden

AnyTrunk = Trunk | EncoderDecoder
AnyHead = CategoricalHead | DiffusionHead
Compiler = Callable[[Callable], Callable]


class MaskedModel(nn.Module):
    """Predicts every token of a partly known image.

    Args:
        embed: canvas and class to ``(B, P + L, D)``.
        trunk: ``(B, P + L, D)`` to ``(B, P + L, E)``; a plain trunk leaves D as it is.
        head: reads token features; applied only where it is needed, by whoever needs it.
        grid: (h, w) tokens of a full canvas.
        classes: N; 0 for an unconditional model.
        feedback: the adapter of self-guidance: ``(model, hidden, canvas, class_labels)`` to the
            ``(B, L, D)`` features of its second pass.
    """

    def __init__(
        self,
        embed: Embed,
        trunk: AnyTrunk,
        head: AnyHead,
        *,
        grid: tuple[int, int],
        classes: int,
        feedback: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.embed = embed
        self.trunk = trunk
        self.head = head
        self.grid = grid
        self.length = grid[0] * grid[1]
        self.classes = classes
        self.feedback = feedback
        self.compiler: Compiler | None = None

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
        return self.embed.channels

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
            x = self.trunk(x, canvas)  # (B, P + L, E)
            return Hidden(x[:, :prefix], x[:, prefix:])  # (B, P, E) and (B, L, E)
        x = self.trunk(x, canvas, widened(read + prefix, FEWEST_ROWS))  # (B, N or more, E)
        return Hidden(x[:, :0], x[:, : read.shape[1]])  # (B, 0, E) and (B, N, E)

    forward = hidden

    def compile(self, *args: Any, **named: Any) -> None:
        """Compile in place what every decoding step runs: this network and a head that diffuses.

        Args:
            *args: of ``torch.compile``.
            **named: of ``torch.compile``; ``dynamic`` is True unless given, so that few graphs
                serve every number of tokens and images.
        """
        self.compile_by(partial(torch.compile, *args, **{"dynamic": True} | named))

    def compile_by(self, compiler: Compiler | None) -> None:
        """Let what a compiler makes of them run in the place of network and head; None undoes it.

        Args:
            compiler: from a function to its compiled form.
        """
        self.compiler = compiler
        for module in (self, self.head):
            compiled = None if compiler is None else compiler(module._call_impl)
            module._compiled_call_impl = compiled


def initialize(model: MaskedModel, generator: torch.Generator) -> None:
    """Fill all weights as the published trainings began.

    Tables, positions and, in MaskGIT, matrices are normal; in trunks of two halves (MAGE, MAR,
    eMIGM) matrices are uniform (Xavier). A diffusion head begins in its own way.

    Args:
        model: on the generator's device.
        generator: read in the order of ``model.modules()``.
    """
    fill(model, generator, matrices=model.trunk.matrices)
    if isinstance(model.head, DiffusionHead):
        model.head.initialize(generator)
