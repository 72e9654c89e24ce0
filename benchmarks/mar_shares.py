"""What each saving of a system with a diffusion head is worth: operations against the plain form.

    python benchmarks/mar_shares.py [--recipe mar-base] [--report DIR]

Multiplications and additions of matrix products, forward and backward, counted exactly on the meta
device for one image; nothing is timed. Training hides the mean number of tokens of the recipe's
masks. Sampling is one guided step in the middle of its plan. Each row takes one saving away and
leaves the others; the last takes away all that the published code does not have.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from report import markdown_table, write_report
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unmask.draws import Draws, keyed_generator
from unmask.guidance import branches
from unmask.model import MaskedModel
from unmask.nn.diffusion import DiffusionHead
from unmask.nn.encoder_decoder import EncoderDecoder
from unmask.nn.positions import take
from unmask.nn.trunk import Blocks
from unmask.objectives.masked import LocatedBatch, MaskedObjective
from unmask.recipes import get
from unmask.recipes.recipe import Recipe
from unmask.types import Canvas, MaskedBatch

Way = Callable[[], AbstractContextManager]
