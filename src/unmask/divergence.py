"""Latents that no data looks like, and why a falling loss does not exclude them.

The loss averages over all diffusion steps. Sampling begins at the noisiest, where a small error of
the predicted noise can become a large one of the latents, and no later step takes it back.
"""

from __future__ import annotations

from torch import Tensor

from unmask.nn.diffusion import DiffusionDraw
from unmask.nn.gaussian import STEPS, process
from unmask.nn.guided import HeadDraw

LIMIT = 4.0
"""Root mean square of drawn latents over the data's, from which on they count as diverged."""


def divergence(latents: Tensor, draw: HeadDraw, *, usual: float = 1.0) -> str | None:
    """One line about drawn latents that are not finite or far larger than the data's.

    Args:
        latents: ``(B, L, C)``; of ids there is nothing to say.
        draw: how they were drawn.
        usual: root mean square of the data's latents; tokenizers scale them to about 1.

    Returns:
        What is wrong, the likely cause and the way out; None if nothing is.
    """
    if not isinstance(draw, DiffusionDraw):
        return None
    size = latents.float().square().mean().sqrt().item()
    if size <= LIMIT * usual:  # never true of NaN
        return None
    first = draw.stages()[0]
    cause = "the network has not learnt enough yet, or guidance is too strong"
    way_out = "train longer, or lower plan.guidance.scale"
    if first.time == STEPS - 1:
        cause = (
            f"plan.draw.respacing={draw.respacing!r} begins at step {STEPS - 1}, where the "
            "predicted clean latents contain the error of the predicted noise "
            f"{process().clean_noise[-1]:,.0f} times, and a young head makes some"
        )
        way_out = (
            "set plan.draw.respacing to 'ddim25', or plan.draw.solver to 'dpm-solver' and "
            "respacing to '14' (unmask sample: --respacing and --solver)"
        )
    return (
        f"diverged: drawn latents have root mean square {size:.3g}, the data's {usual:.3g}. "
        f"Likely cause: {cause}. Way out: {way_out}"
    )
