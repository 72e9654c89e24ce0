"""Scores of a system or a tokenizer, and where each comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from unmask.ranges import Between, Length, Ranged

Text = Annotated[str, Length(0, 1000)]


@dataclass(frozen=True, kw_only=True)
class Result(Ranged):
    """A score and where it comes from."""

    metric: Text
    """For example "FID-50k (ADM)" or "class accuracy"."""
    value: Annotated[float, Between()]
    """As printed by the source."""
    setting: Text
    """What of the sampling plan or the data it depends on."""
    source: Text
    """Paper, repository or report file."""
