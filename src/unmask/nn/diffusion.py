"""The head of MAR and eMIGM: a small network that denoises each token on its own.

MAR (arXiv 2406.11838), section 3.2. A token's condition is the trunk's feature of it; the head
learns the distribution of its latents given that, so tokens need no codes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.draws import Draws, sent
from unmask.errors import InputError
from unmask.nn.block import Recomputable
from unmask.nn.dpm_solver import dpm_solver_stages
from unmask.nn.gaussian import STEPS, Stage, ddim_stages, ddpm_stages, loss_table, variational_bits
from unmask.nn.guided import HeadDraw, guided
from unmask.ranges import Between, Length
from unmask.types import Drawn, Reading

NORM_EPS = 1e-6
WAVES = 128  # frequencies of the embedding of times
SLOWEST = 10_000  # of their periods, over the fastest

Solver = Literal["ddpm", "ddim", "dpm-solver"]
SOLVERS = {"ddpm": ddpm_stages, "ddim": ddim_stages, "dpm-solver": dpm_solver_stages}


@dataclass(frozen=True, kw_only=True)
class DiffusionDraw(HeadDraw):
    """How a token's latents are drawn from noise."""

    of_codes: ClassVar[bool] = False

    solver: Solver = "ddpm"
    """Sampler inside the diffusion head: "ddpm" adds fresh noise in every step (MAR), "ddim" none,
    "dpm-solver" takes fewer and better steps without (eMIGM)."""
    respacing: Annotated[str, Length(0, 255)] = "ddim25"
    """Diffusion steps that are taken of the 1000: empty for all, "ddim25" for 25 at a whole stride,
    "100" for 100 spread evenly, "10,15,20" by section; for dpm-solver the number of network
    evaluations, such as "14"."""
    temperature: Annotated[float, Between(0, 1e6)] = 1.0
    """Factor of the fresh noise of ddpm; below 1 trades diversity for fidelity."""

    def __post_init__(self) -> None:
        """Reject steps that do not exist and a temperature that nothing would read."""
        super().__post_init__()
        if self.solver != "ddpm" and self.temperature != 1:
            raise InputError(
                f"draw.temperature={self.temperature} does nothing with {self.solver}, which adds "
                "no fresh noise; leave it at 1 or take ddpm"
            )
        self.stages()

    def stages(self) -> tuple[Stage, ...]:
        """The evaluations of the network, computed once for every plan of the same steps."""
        return SOLVERS[self.solver](self.respacing)


def frequencies(device: torch.device | str = "cpu") -> Tensor:
    """``(128,)`` float32 angles a diffusion step, falling geometrically from 1."""
    places = torch.arange(WAVES, dtype=torch.float32, device=device)
    return torch.exp(-math.log(SLOWEST) * places / WAVES)


def embed_waves(times: Tensor) -> Tensor:
    """``(...)`` diffusion times to their ``(..., 256)`` float32 cosines and sines."""
    angles = times.float().unsqueeze(-1) * frequencies(times.device)  # (..., 128)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ModulatedBlock(Recomputable):
    """A residual branch whose norm and gate follow the condition (DiT's adaLN; MAR, appendix A).

    Args:
        width: w.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 3 * width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)

    def forward(self, h: Tensor, active: Tensor) -> Tensor:
        """``(..., w)``, given the condition after its SiLU; the two may broadcast."""
        shift, scale, gate = self.modulation(active).chunk(3, dim=-1)  # (..., w) each
        u = torch.addcmul(shift, self.norm(h), 1 + scale)
        return torch.addcmul(h, gate, self.second(F.silu(self.first(u))))


class DiffusionHead(nn.Module):
    """Predicts the noise in a token's latents, and how much of it a step should leave.

    Letters: ``B`` batch, ``N`` positions read, ``M`` tokens, ``G`` branches of guidance with the
    strong one first, ``S`` evaluations, ``w`` the head's width.

    Args:
        channels: C, latents a token.
        condition: D, features a token.
        width: w.
        depth: blocks.
    """

    tables: Tensor

    def __init__(self, channels: int, condition: int, *, width: int, depth: int) -> None:
        super().__init__()
        self.channels = channels
        self.time = nn.Sequential(nn.Linear(2 * WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition, width)
        self.input = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(depth))
        self.modulation = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)
        self.out = nn.Linear(width, 2 * channels)
        self.register_buffer("tables", loss_table(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or convert the weights; the table of the loss is float32 beside any of them."""
        super()._apply(fn, recurse)
        if self.tables.dtype != torch.float32:
            self.tables = loss_table().to(self.tables.device)
        return self

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Fill the weights as MAR's training began: every block and the output start at zero.

        Args:
            generator: read in the order of the linear layers.
        """
        for name, module in self.named_modules():
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            if not isinstance(module, nn.Linear):
                continue
            nn.init.zeros_(module.bias)
            if name.endswith("modulation") or name == "out":
                nn.init.zeros_(module.weight)
            elif name.startswith("time."):
                nn.init.normal_(module.weight, std=0.02, generator=generator)
            else:
                nn.init.xavier_uniform_(module.weight, generator=generator)

    def embed_times(self, times: Tensor) -> Tensor:
        """``(...)`` times, whole or not, to ``(..., w)``."""
        return self.time(embed_waves(times).to(self.input.weight.dtype))

    def forward(self, x: Tensor, y: Tensor, *, outputs: int) -> Tensor:
        """The network on a state and what it is conditioned on, embedded and summed.

        Args:
            x: ``(..., C)``, broadcast against ``y``.
            y: ``(..., w)``.
            outputs: 2 C, or C to leave the variance out.

        Returns:
            ``(..., outputs)`` float32: predicted noise, then v, 1 and -1 meaning the bounds of the
            log variance.
        """
        active = F.silu(y)
        h = self.input(x.to(self.input.weight.dtype))  # (..., w)
        for block in self.blocks:
            h = block(h, active)
        shift, scale = self.modulation(active).chunk(2, dim=-1)  # (..., w) each
        h = torch.addcmul(shift, self.norm(h), 1 + scale)
        return F.linear(h, self.out.weight[:outputs], self.out.bias[:outputs]).float()

    def predict(self, x: Tensor, y: Tensor, *, outputs: int) -> Tensor:
        """The network, see :meth:`forward`, or what a compiler has made of it."""
        return self(x, y, outputs=outputs)

    def predict_at(self, x: Tensor, times: Tensor, features: Tensor) -> Tensor:
        """``(..., C)`` at ``(...)`` times given ``(..., D)``: ``(..., 2 C)`` float32."""
        y = self.embed_times(times) + self.condition(features)  # (..., w)
        return self.predict(x, y, outputs=2 * self.channels)

    def loss(self, features: Tensor, targets: Tensor, *, times: Tensor, noise: Tensor) -> Tensor:
        """Squared error of the noise, plus the bound's term that teaches the variance.

        Args:
            features: ``(M, D)`` of masked tokens alone.
            targets: ``(M, C)`` clean latents.
            times: ``(R, M)`` int64 in [0, 1000); a token's features serve R times.
            noise: ``(R, M, C)`` standard normal.

        Returns:
            ``(M,)`` float32, the mean over the repeats.
        """
        error, bits = self.loss_terms(features, targets, times=times, noise=noise)
        return (error + bits).mean(0)

    def loss_terms(
        self, features: Tensor, targets: Tensor, *, times: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The two terms of :meth:`loss`, ``(R, M)`` float32 each."""
        row = self.tables[times].unsqueeze(-2).unbind(-1)  # 5 of (R, M, 1)
        targets = targets.float()
        noised = row[0] * targets + row[1] * noise  # (R, M, C)
        table = self.embed_times(torch.arange(STEPS, device=times.device))  # (1000, w)
        y = F.embedding(times, table) + self.condition(features)  # (R, M, w)
        predicted, variance = self.predict(noised, y, outputs=2 * self.channels).chunk(2, dim=-1)
        error = predicted - noise
        bits = variational_bits(
            error.detach(), variance, clean=targets, first=(times == 0).unsqueeze(-1), row=row
        )
        return error.square().mean(-1), bits

    def draw(self, reading: Reading, options: DiffusionDraw, draws: Draws) -> Drawn:
        """Latents at each position read; a row's stream gives all noise of the step at once.

        Returns:
            ``(B, N, C)`` float32 latents, without a density.
        """
        where, count = reading.where, reading.where.shape[1]
        slots = 1 + sum(stage.spread > 0 for stage in options.stages())
        noise = draws.normal_at("diffusion", reading.step, where, slots, self.channels)
        features = torch.stack([reading.strong, *reading.weak]).flatten(1, 2)  # (G, B N, D)
        scales = [scale.repeat_interleave(count) for scale in reading.scales]  # (B N,) each
        states = self.denoise(features, scales, noise=noise.flatten(0, 1), options=options)
        values = deque(states, maxlen=1).pop()  # (B N, C): the last one alone is kept
        return Drawn(values.reshape(*where.shape, self.channels), None)

    def denoise(
        self, features: Tensor, scales: Sequence[Tensor], *, noise: Tensor, options: DiffusionDraw
    ) -> Iterator[Tensor]:
        """From noise to latents, yielding the state after every step.

        Guidance acts on the predicted noise, at every evaluation, and not on the variance.

        Args:
            features: ``(G, M, D)``.
            scales: ``(M,)`` each, one a weak branch.
            noise: ``(M, 1 + fresh, C)``: the first state, then one for each step that adds noise.
            options: see :class:`DiffusionDraw`.

        Yields:
            ``(M, C)`` float32.
        """
        stages = options.stages()
        told = torch.tensor([stage.time for stage in stages])
        times = self.embed_times(sent(told, features.device))  # (S, w)
        known = self.condition(features)  # (G, M, w)
        start, *fresh = noise.unbind(1)  # (M, C) each
        x, channels = start, self.channels
        predicted: list[Tensor] = []
        for stage, time in zip(stages, times, strict=True):
            outputs = 2 * channels if stage.spread else channels
            found = self.predict(x, known + time, outputs=outputs)  # (G, M, outputs)
            strong, *weak = found[..., :channels].unbind(0)
            predicted.append(guided(strong, weak, scales))
            x = start * stage.state
            for factor, noise_found in zip(stage.noises, predicted, strict=True):
                x = torch.add(x, noise_found, alpha=factor)
            if stage.spread:
                amount = torch.exp(found[0, :, channels:] * stage.tilt)
                share = options.temperature * stage.spread
                x = torch.addcmul(x, amount, fresh.pop(0), value=share)
            if stage.ends:
                start, predicted = x, []
                yield x
