"""Logits that are no numbers, and what is likely behind them."""

from __future__ import annotations

from torch import nn

from unmask.errors import InputError


def nonfinite_logits(model: nn.Module, scales: object) -> InputError:
    """The error for a network whose probabilities are not numbers.

    Args:
        model: the network, whose weights tell whether they are the cause.
        scales: guidance scales by weak branch, named where the weights are sound.

    Returns:
        One line with the likely cause and the way out.
    """
    bad = next((name for name, p in model.named_parameters() if not p.isfinite().all()), None)
    if bad is not None:
        return InputError(
            f"the network's logits are not finite, because its weight {bad!r} holds NaN or "
            "infinity: the training diverged or the file is damaged; use an earlier checkpoint, "
            "or train again with a lower learning rate"
        )
    return InputError(
        "the network's logits are not finite though its weights are: the plan's numbers are too "
        f"large for float32 (guidance scales {scales or 'none'}); lower guidance_scale, or raise "
        "the softmax temperature"
    )
