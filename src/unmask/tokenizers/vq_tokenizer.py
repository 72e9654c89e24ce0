"""The bottleneck of codes: nearest codes, dead codes, and the tokenizer around them."""

from __future__ import annotations

from itertools import chain
from typing import Annotated, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.errors import InputError
from unmask.machine.devices import full_precision
from unmask.ranges import Between
from unmask.tokenizers.image_tokenizer import ImageConfig, ImageTokenizer, Reconstruction, Seen
from unmask.tokenizers.tokenizer import resolve_grid

NEVER = 1 << 30  # steps that a code counts as idle before its first use


class Quantized(NamedTuple):
    """Latents after quantisation, and the losses of the bottleneck.

    Args:
        values: ``(..., D)`` the chosen codes; the gradient passes to the latents unchanged.
        ids: ``(...)`` int64 in [0, V).
        codebook_loss: Scalar: mean squared distance, moving the codes only.
        commitment_loss: Scalar: the same number, moving the latents only.
    """

    values: Tensor
    ids: Tensor
    codebook_loss: Tensor
    commitment_loss: Tensor


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


def usage(ids: Tensor, codes: int) -> Tensor:
    """``(V,)`` float32, how often each of ``codes`` codes occurs among ids of any shape."""
    flat = ids.reshape(-1)
    counts = torch.zeros(codes, device=ids.device)
    return counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))


def perplexity(counts: Tensor) -> Tensor:
    """How many codes are used, in effect: the exponential of the entropy of their frequencies.

    Args:
        counts: ``(V,)``, how often each code occurs; not all 0.

    Returns:
        Scalar in [1, V]: 1 for one code, V for V codes that occur equally often.
    """
    return torch.special.entr(counts / counts.sum()).sum().exp()


class VQTokenizer(ImageTokenizer):
    """A tokenizer of codes made of three parts, which a family's class builds.

    A family's ``__init__`` sets ``encoder``, ``quantizer`` and ``decoder``, in this order (that of
    the weights in :attr:`identity`). The encoder takes images in the native range to ``(B, D, h,
    w)`` latents, the decoder takes code vectors of that shape back.
    """

    quantizer: VectorQuantizer

    def __init__(self, config: ImageConfig, codes: int) -> None:
        super().__init__(config, ("codes", codes))
        self.codes = codes

    def latents(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, h, w, D)`` encoder outputs."""
        return self.encode_map(images).permute(0, 2, 3, 1)  # (B, h, w, D)

    def render(self, values: Tensor) -> Tensor:
        """``(B, h, w, D)`` code vectors to ``(B, C, H, W)`` on the scale of [0, 1], unclamped."""
        return self.decode_map(values.permute(0, 3, 1, 2))  # (B, C, H, W)

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
            figures={"perplexity": perplexity(usage(codes.ids, self.codes))},
            latents=latents,
            ids=codes.ids,
        )

    def infer(self, images: Tensor) -> Tensor:
        """``(B, C, H, W)`` in [0, 1] to ``(B, L)`` int64 ids, row-major; unchecked."""
        return self.quantizer(self.latents(images)).ids.flatten(1)  # (B, L)

    def vectors(self, tokens: Tensor, grid: tuple[int, int] | None) -> Tensor:
        """``(B, L)`` ids to ``(B, h, w, D)`` code vectors."""
        rows, columns = resolve_grid(tokens, self.codes, grid)
        return self.quantizer.lookup(tokens.view(-1, rows, columns))

    def after_step(self, seen: Seen, generator: torch.Generator | None, patience: int) -> None:
        """Count which codes a training step used, and put dead ones onto latents.

        Every process calls it with equal generators. Use is counted over the whole batch and any
        of its latents replace dead codes, however processes and micro-batches cut it, so that the
        copies of the codebook stay equal.

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
            parts = [latents.float().flatten(0, -2).contiguous() for latents, _ in seen]  # (N, D)
            if together:  # of a micro-batch, processes hold shares of equal size in their order
                every = [[torch.empty_like(p) for _ in range(dist.get_world_size())] for p in parts]
                for shares, part in zip(every, parts, strict=True):
                    dist.all_gather(shares, part)
                parts = list(chain(*every))
            self.quantizer.revive(torch.cat(parts), generator, patience=patience)
