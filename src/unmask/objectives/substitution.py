"""Repair replaced tokens in a second pass: what teaches self-guidance's adapter.

Self-guidance (arXiv 2410.13136, section 4; UnlockMGM, ``gen_corr_loss_toast``): some visible
tokens are replaced, a frozen network sees the result, and the adapter's second pass must name the
tokens that were there. What it learns is to smooth out what does not fit its surroundings.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from unmask.draws import invert_cdf
from unmask.errors import InputError
from unmask.nn.categorical import CategoricalHead
from unmask.nn.embed import IdEmbed, JointEmbed
from unmask.nn.feedback import FeedbackAdapter
from unmask.nn.model import MaskedModel
from unmask.recipes.objectives import Substitution
from unmask.types import Canvas, MaskedBatch


class SubstitutionBatch(NamedTuple):
    """Masked examples, and which of their tokens are to be replaced.

    Args:
        batch: The examples as they were; its weight counts replaced tokens.
        where: ``(M,)`` int64, positions of the replaced tokens in the flattened ``(B, L)``,
            ascending.
        uniform: ``(M,)`` float32 in [0, 1), which decides what replaces each.
        share: Float scalar: what an image counts in a mean over the images of the whole batch.
    """

    batch: MaskedBatch
    where: Tensor
    uniform: Tensor
    share: Tensor


class SubstitutionObjective(nn.Module):
    """Cross entropy of the second pass at replaced tokens, and the variational term.

    Args:
        model: with a feedback adapter; everything else of it is frozen here.
        options: see :class:`Substitution`.
        label_smoothing: share of the target spread over all outputs, in [0, 1).

    Raises:
        InputError: the head has no output for the mask and ``options`` want one.
    """

    def __init__(
        self, model: MaskedModel, options: Substitution, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        assert isinstance(model.feedback, FeedbackAdapter), "there is no adapter to train"
        self.model = model.requires_grad_(False)
        self.averaged = model.feedback.requires_grad_(True)
        self.options = options
        self.label_smoothing = label_smoothing
        if options.fully_masked == "mask" and model.head.out.out_features <= self._mask_id:
            raise InputError(
                "substitution.fully_masked='mask' needs a head that can name the mask, and this "
                "network's cannot; use 'skip'"
            )

    @property
    def _mask_id(self) -> int:
        embed = self.model.embed
        assert isinstance(embed, (IdEmbed, JointEmbed)), "tokens are ids"
        return embed.mask_id

    def train(self, mode: bool = True) -> SubstitutionObjective:
        """Set the mode; the frozen part stays in evaluation unless its dropout is wanted."""
        super().train(mode)
        if mode and not self.options.base_dropout:
            self.model.eval()
        return self

    def forward(self, batch: SubstitutionBatch) -> dict[str, Tensor]:
        """The loss of one micro-batch.

        Returns:
            "loss", a float32 scalar already weighted, and its terms.
        """
        with torch.no_grad():
            codes = invert_cdf(self.proposals(batch), batch.uniform)
        return self.losses(batch, codes)

    @property
    def _head(self) -> CategoricalHead:
        head = self.model.head
        assert isinstance(head, CategoricalHead), "replacements are codes"
        return head

    def proposals(self, batch: SubstitutionBatch) -> Tensor:
        """``(M, V)`` float32, the probability of each replacement."""
        tokens, masked, labels, *_ = batch.batch
        hidden = self.model.hidden(Canvas(tokens, torch.ones_like(masked)), labels).tokens
        features = hidden.flatten(0, 1).index_select(0, batch.where)  # (M, D)
        probs = self._head.code_logits(features).softmax(-1)
        return probs if self.options.proposal == "softmax" else probs.softmax(-1)

    def corrupt(self, batch: SubstitutionBatch, codes: Tensor) -> Canvas:
        """The canvas with ``(M,)`` codes in the place of the replaced tokens."""
        tokens, masked, *_ = batch.batch
        return Canvas(
            tokens.flatten().index_copy(0, batch.where, codes).view_as(tokens),
            masked.flatten().index_fill(0, batch.where, False).view_as(masked),
        )

    def targets(self, batch: SubstitutionBatch) -> Tensor:
        """``(M,)`` int64, what stood there: a code, or the mask."""
        tokens, masked, *_ = batch.batch
        ids = tokens.masked_fill(masked, self._mask_id)
        return ids.flatten().index_select(0, batch.where)

    def losses(self, batch: SubstitutionBatch, codes: Tensor) -> dict[str, Tensor]:
        """The loss of given replacements, ``(M,)`` int64 codes, and its terms."""
        canvas, labels = self.corrupt(batch, codes), batch.batch.class_labels
        with torch.no_grad():
            hidden = self.model.hidden(canvas, labels)
        states = self.averaged.states(self.model, hidden, canvas, labels)  # (B, P + L, D) each
        repaired = states[-1][:, hidden.prefix.shape[1] :].flatten(0, 1)  # (B L, D)
        features = repaired.index_select(0, batch.where)  # (M, D)
        targets = self.targets(batch)  # (M,)
        each = self._head.loss(features, targets, label_smoothing=self.label_smoothing)
        rows, length = canvas.masked.shape
        weight = batch.batch.weight.expand(rows)[batch.where // length]  # (M,)
        terms = {"repair": (each * weight).sum()}
        if self.options.variational:
            error = self.averaged.inversion_error(states)
            terms["variational"] = self.options.variational * rows * batch.share * error
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}
