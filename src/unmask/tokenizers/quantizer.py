"""Vector quantisation: the nearest code, its straight-through gradient, and dead codes."""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.machine.devices import full_precision
from unmask.ranges import Between

NEVER = 1 << 30  # steps that a code counts as idle before its first use


class Quantized(NamedTuple):
    """Latents after quantisation, and what training wants to know about it."""

    values: Tensor
    """``(..., D)`` the chosen codes; the gradient passes to the latents unchanged."""
    ids: Tensor
    """``(...)`` int64 in [0, V)."""
    codebook_loss: Tensor
    """Scalar: mean squared distance, moving the codes only."""
    commitment_loss: Tensor
    """Scalar: the same number, moving the latents only."""


Codebook = Annotated[int, Between(2, 2**24)]


class VectorQuantizer(nn.Module):
    """A codebook of V vectors of D numbers.

    Nearest is meant by squared Euclidean distance, the first index on ties (VQ-VAE,
    arXiv 1711.00937, eq. 1-3). With ``l2_normalised`` latents and codes are put on the unit
    sphere first, so that nearest means the largest cosine, and what is handed on is the normalised
    code (improved VQGAN, arXiv 2110.04627, sec. 3.2).

    The arithmetic is in float32 whatever the autocast type, because a rounded distance picks
    another code.

    Args:
        codes: V, at least 2.
        dim: D, at least 1.
        l2_normalised: compare and hand on directions instead of vectors.
    """

    idle: Tensor

    def __init__(self, codes: int, dim: int, *, l2_normalised: bool = False) -> None:
        super().__init__()
        if codes < 2 or dim < 1:
            raise InputError(f"codes={codes}, code_dim={dim}: wanted are at least 2 codes of 1")
        self.codes = codes
        self.dim = dim
        self.l2_normalised = l2_normalised
        self.codebook = nn.Parameter(torch.empty(codes, dim))
        self.register_buffer("idle", torch.full((codes,), NEVER, dtype=torch.int64))
        self.reset()

    def reset(self, generator: torch.Generator | None = None) -> None:
        """Draw the codes anew, normal with variance 1/D, and forget what was used."""
        with torch.no_grad():
            nn.init.normal_(self.codebook, std=self.dim**-0.5, generator=generator)
        self.idle.fill_(NEVER)

    def table(self) -> Tensor:
        """The vectors that ids stand for, ``(V, D)`` float32."""
        codebook = self.codebook.float()
        return F.normalize(codebook, dim=-1) if self.l2_normalised else codebook

    def nearest(self, latents: Tensor, table: Tensor) -> Tensor:
        """Index of the nearest row of the table.

        Args:
            latents: ``(N, D)``.
            table: ``(V, D)``.

        Returns:
            ``(N,)`` int64, the first index on ties.
        """
        # |z|^2 is the same for every code, so it is left out: one matrix product does the rest.
        half_norms = 0.5 * table.square().sum(-1)  # (V,)
        return torch.addmm(half_norms, latents, table.t(), alpha=-1).argmin(-1)

    def lookup(self, ids: Tensor) -> Tensor:
        """``(...)`` ids to ``(..., D)`` code vectors, as the decoder sees them."""
        return F.embedding(ids, self.table())

    def forward(self, latents: Tensor) -> Quantized:
        """Replace each latent by its nearest code.

        Args:
            latents: ``(..., D)`` of any floating type.

        Returns:
            values and losses in float32.
        """
        with full_precision(latents.device.type):
            table = self.table()
            z = latents.float()
            z = F.normalize(z, dim=-1) if self.l2_normalised else z
            with torch.no_grad():
                ids = self.nearest(z.reshape(-1, self.dim), table).view(z.shape[:-1])
            q = F.embedding(ids, table)  # (..., D)
            return Quantized(
                values=z + (q - z).detach(),
                ids=ids,
                codebook_loss=F.mse_loss(q, z.detach()),
                commitment_loss=F.mse_loss(z, q.detach()),
            )

    @torch.no_grad()
    def track(self, used: Tensor) -> None:
        """Count one more step; codes that it used start again at 0.

        Args:
            used: ``(V,)`` bool, codes used by the step on any process.
        """
        self.idle.copy_(torch.where(used, 0, self.idle + 1).clamp_(max=NEVER))

    @torch.no_grad()
    def revive(self, latents: Tensor, generator: torch.Generator, *, patience: int = 1) -> Tensor:
        """Put codes that have been idle too long onto latents picked at random.

        (Jukebox, arXiv 2005.00341, sec. 3.) Codes never used count as idle for ever, so that the
        first call starts the codebook from data. The outcome depends on the arguments and this
        module's state alone: processes that pass equal latents and equal generators stay equal.

        Args:
            latents: ``(N, D)`` encoder outputs of the present batch.
            generator: draws which latents; the same number of draws whatever is dead.
            patience: steps without use after which a code is dead.

        Returns:
            Scalar int64, the codes replaced (left on the device).
        """
        count = len(latents)
        order = torch.randperm(count, generator=generator, device=generator.device)
        picks = order[torch.arange(self.codes, device=order.device) % count].to(latents.device)
        dead = self.idle >= patience  # (V,)
        fresh = latents[picks].to(self.codebook.dtype)  # (V, D)
        self.codebook.copy_(torch.where(dead.unsqueeze(-1), fresh, self.codebook))
        self.idle.masked_fill_(dead, 0)
        return dead.sum()


def perplexity(ids: Tensor, codes: int) -> Tensor:
    """How many codes are used, in effect: the exponential of the entropy of their frequencies.

    Args:
        ids: int64 of any shape.
        codes: V.

    Returns:
        Scalar float32 in [1, V].
    """
    flat = ids.reshape(-1)
    counts = torch.zeros(codes, device=ids.device)
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
    return torch.special.entr(counts / flat.numel()).sum().exp()
