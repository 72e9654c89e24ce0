"""Scores of a system or a tokenizer, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from unmask.ranges import Between, Length, Ranged

Text = Annotated[str, Length(0, 1000)]

METRICS = {
    "fid": "FID",
    "fid_50k": "FID-50k",
    "inception": "IS",
    "rfid": "rFID",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "accuracy": "class accuracy",
    "linear_probe": "linear probe top-1",
    "fine_tune": "fine-tune top-1",
}
"""Names of metrics as lists print them, by their names in :func:`scores`."""


@dataclass(frozen=True, kw_only=True)
class Result(Ranged):
    """A score and where it comes from."""

    metric: Text
    """Name of the score, for example "FID-50k (ADM)" or "class accuracy"."""
    value: Annotated[float, Between()]
    """The score as its source prints it."""
    setting: Text
    """Part of the sampling plan or of the data that the score depends on."""
    source: Text
    """Paper, repository or report file that states the score."""


def scores(setting: str, source: str, **values: float) -> tuple[Result, ...]:
    """Results that one source states of one setting.

    Args:
        setting: part of the sampling plan or of the data that they depend on.
        source: paper, repository or report file.
        values: by metric, a key of :data:`METRICS`.
    """
    return tuple(
        Result(metric=METRICS[name], value=value, setting=setting, source=source)
        for name, value in values.items()
    )
