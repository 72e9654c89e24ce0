"""What all tokenizers of codes share: a codebook between an encoder and a decoder."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from unmask.networks.sizes import Space
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, Reconstruction, Seen
from unmask.tokenizers.quantizer import VectorQuantizer, perplexity
from unmask.tokenizers.tokenizer import resolve_grid


class VQTokenizer(ImageTokenizer):
    """A tokenizer of codes made of three parts, which a family's class builds.

    A family's ``__init__`` sets ``encoder``, ``quantizer`` and ``decoder``, in this order (that of
    the weights in :attr:`identity`). The encoder takes images in the native range to ``(B, D, h,
    w)`` latents, the decoder takes code vectors of that shape back.
    """

    quantizer: VectorQuantizer

    def __init__(self, config: ImageConfig, codes: int) -> None:
        super().__init__(config)
        self.codes = codes

    @property
    def space(self) -> Space:
        """("codes", V)."""
        return "codes", self.codes

    def latents(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, h, w, D)`` encoder outputs."""
        return self.encode_map(images).permute(0, 2, 3, 1)

    def render(self, values: Tensor) -> Tensor:
        """``(B, h, w, D)`` code vectors to ``(B, C, H, W)`` on the scale of [0, 1], unclamped."""
        return self.decode_map(values.permute(0, 3, 1, 2))

    def forward(self, images: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """Encode, quantise and decode with gradients.

        Args:
            images: ``(B, C, H, W)`` in [0, 1].
            noise: not looked at; codes are without chance.
        """
        latents = self.latents(images)  # (B, h, w, D)
        codes = self.quantizer(latents)
        return Reconstruction(
            images=self.render(codes.values),
            penalties={"codebook": codes.codebook_loss, "commitment": codes.commitment_loss},
            figures={"perplexity": perplexity(codes.ids, self.codes)},
            latents=latents,
            ids=codes.ids,
        )

    def infer(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, L)`` int64 ids, row-major; unchecked."""
        return self.quantizer(self.latents(images)).ids.flatten(1)

    def vectors(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """``(B, L)`` ids to ``(B, h, w, D)`` code vectors."""
        rows, columns = resolve_grid(tokens, self.codes, grid)
        return self.quantizer.lookup(tokens.view(-1, rows, columns))

    def after_step(self, seen: Seen, generator: torch.Generator | None, patience: int) -> None:
        """Count which codes a training step used, and put dead ones onto latents.

        Every process calls it with equal generators. Use is counted over all processes and the
        first one's latents replace dead codes everywhere, so that the copies of the codebook stay
        equal.

        Args:
            seen: latents and ids of this process's micro-batches.
            generator: picks latents for dead codes; None lets them be.
            patience: steps without use after which a code is dead.
        """
        together = dist.is_available() and dist.is_initialized()
        used = torch.zeros_like(self.quantizer.idle, dtype=torch.uint8)  # (V,)
        for _, ids in seen:
            used[ids.flatten()] = 1
        if together:
            dist.all_reduce(used, op=dist.ReduceOp.MAX)
        self.quantizer.track(used.bool())
        if seen and generator is not None:
            latents = seen[-1][0].float().flatten(0, -2).contiguous()  # (N, D)
            if together:
                dist.broadcast(latents, src=0)
            self.quantizer.revive(latents, generator, patience=patience)
