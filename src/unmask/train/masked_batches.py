"""Training batches of cached codes or latents, each a pure function of (seed, step).

Rows, views, masks and dropped labels have their places in streams of the whole global batch, so any
number of processes sees the same examples. What costs more than its random numbers, such as ranking
them, a process does for its own share alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate, groupby, pairwise
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from unmask.data.batches import check_batch_size, epoch_rows, share_rows
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.masking import Masking
from unmask.nn.gaussian import STEPS as DIFFUSION_STEPS
from unmask.objectives.masked import LocatedBatch, locate
from unmask.objectives.substitution import SubstitutionBatch
from unmask.recipes.objectives import Substitution
from unmask.recipes.training import Training
from unmask.types import MaskedBatch


class TokenCache(Protocol):
    """What is read of a latent cache."""

    labels: Tensor
    """``(N,)`` int64."""
    views: int
    """1, or 2 with the mirrored image."""
    length: int
    """L."""

    @property
    def channels(self) -> int:
        """C of latents; 0 of codes."""

    def __len__(self) -> int:
        """N, images."""
        ...

    def tokens(self, rows: Tensor, views: Tensor, noise: Tensor | None = None) -> Tensor:
        """``(n, L)`` codes of some images in the given views, or ``(n, L, C)`` latents of them,
        drawn with noise of that shape."""
        ...


def micro_batches_of(training: Training, rank: int, world: int) -> list[slice]:
    """Parts of the global batch that one process takes, see :func:`unmask.data.batches.share_rows`.

    Raises:
        InputError: the batch does not divide among the processes.
    """
    return share_rows(
        torch.arange(training.batch_size),
        rank=rank,
        world=world,
        accumulate=training.accumulate,
        micro_batch_size=training.micro_batch_size,
    )


class StepMasks(NamedTuple):
    """What the n images of one process hide.

    Args:
        masked: ``(n, L)`` bool.
        weight: ``(n,)`` float32, what each hidden token of an image counts.
        kept: Images that were drawn together, and the ``(k, K)`` positions that the encoder sees of
            them; see :class:`unmask.types.Canvas`.
        groups: Each of those groups' range of the batch, and the ``(G,)`` hidden tokens of its
            images, those of other processes among them.
    """

    masked: Tensor
    weight: Tensor
    kept: list[tuple[slice, Tensor | None]]
    groups: list[tuple[slice, Tensor]]

    def pieces(self, part: slice) -> Iterator[tuple[slice, Tensor | None]]:
        """A part of the rows, cut where the encoder sees another number of tokens."""
        within = []
        for rows, kept in self.kept:
            start, stop = max(rows.start, part.start), min(rows.stop, part.stop)
            if start < stop:
                of = None if kept is None else kept[start - rows.start : stop - rows.start]
                within.append((slice(start, stop), of))
        for _, alike in groupby(within, lambda group: group[1] is not None and len(group[1].T)):
            groups = list(alike)
            rows = slice(groups[0][0].start, groups[-1][0].stop)
            seen = [kept for _, kept in groups if kept is not None]
            yield rows, torch.cat(seen) if seen else None


class MaskedBatches(Dataset):
    """Masked training batches, by step.

    Masks are drawn for a group of images at a time, and the loss is the mean over the images of the
    mean over their group's hidden tokens: as where processes that have drawn each for itself
    average their gradients (MAR, ``main_mar.py``). A group is what the masking says, by default the
    whole batch, or with ``normalize="micro"`` a micro-batch of all processes (maskgit-pytorch).

    Where the encoder sees unequally many tokens of two groups, they are micro-batches of their own,
    one after the other: nothing is padded.

    Args:
        cache: codes or moments, and labels.
        masking: which tokens are hidden.
        training: batch size, micro-batches, normalisation, label dropout, seed.
        classes: 0 for an unconditional model; the null class is ``classes``.
        rank: this process, in [0, world).
        world: number of processes.

    Raises:
        InputError: if the batch exceeds the images, or does not divide among the processes.
    """

    def __init__(
        self,
        cache: TokenCache,
        masking: Masking,
        *,
        training: Training,
        classes: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        check_batch_size(len(cache), training.batch_size)
        self.cache, self.masking, self.training = cache, masking, training
        self.classes = classes
        self.own = micro_batches_of(training, rank, world)
        self.groups = self._groups(world)
        """Ranges of the batch whose masks are drawn together."""
        self.places = torch.cat([torch.arange(part.start, part.stop) for part in self.own])
        """``(n,)`` int64, ascending: this process's images, by their places in the batch."""
        ends = list(accumulate(part.stop - part.start for part in self.own))
        self.parts = [slice(*pair) for pair in pairwise([0, *ends])]
        """Micro-batches, as ranges of this process's images."""

    def _groups(self, world: int) -> list[slice]:
        size = self.training.batch_size
        if self.training.normalize == "micro":
            first, last = (micro_batches_of(self.training, rank, world) for rank in (0, world - 1))
            return [slice(a.start, b.stop) for a, b in zip(first, last, strict=True)]
        group = self.masking.group or size
        return [slice(start, min(start + group, size)) for start in range(0, size, group)]

    def __getitem__(self, step: int) -> list[LocatedBatch]:
        """This process's micro-batches of a step."""
        return self.located(step, self.masks(step))

    def located(self, step: int, masks: StepMasks) -> list[LocatedBatch]:
        """This process's micro-batches under the masks of the step."""
        size, seed = self.training.batch_size, self.training.seed
        rows = epoch_rows(len(self.cache), size, seed=seed, step=step)[self.places]  # (n,)
        views = self.views(step)[self.places]
        labels = self._labels(rows, step)
        return [
            self._locate(
                MaskedBatch(
                    tokens=self._tokens(rows, views, cut, step),
                    masked=masks.masked[cut],
                    class_labels=None if labels is None else labels[cut],
                    weight=masks.weight[cut],
                    kept=kept,
                ),
                cut,
                step,
            )
            for part in self.parts
            for cut, kept in masks.pieces(part)
        ]

    def views(self, step: int) -> Tensor:
        """``(B,)`` int64, which view of each image of the whole batch."""
        count = (self.training.batch_size,)
        return torch.randint(self.cache.views, count, generator=self._stream("view", step))

    def _tokens(self, rows: Tensor, views: Tensor, cut: slice, step: int) -> Tensor:
        if not self.cache.channels:
            return self.cache.tokens(rows[cut], views[cut])
        noise = torch.empty(len(rows[cut]), self.cache.length, self.cache.channels)
        for row, stream in zip(noise, self._each("posterior", step, cut), strict=True):
            row.normal_(generator=stream)
        return self.cache.tokens(rows[cut], views[cut], noise)

    def _locate(self, batch: MaskedBatch, cut: slice, step: int) -> LocatedBatch:
        """With what a head that diffuses learns from: drawn an image, over its hidden tokens."""
        if not self.cache.channels:
            return locate(batch)
        counts = batch.masked.sum(1).tolist()
        times = torch.empty(self.training.noise_repeats, sum(counts), dtype=torch.int64)  # (R, M)
        noise = torch.empty(*times.shape, self.cache.channels)  # (R, M, C)
        parts = zip(times.split(counts, 1), noise.split(counts, 1), strict=True)
        for (at, drawn), stream in zip(parts, self._each("diffusion", step, cut), strict=True):
            at.copy_(torch.randint(DIFFUSION_STEPS, at.shape, generator=stream))
            drawn.copy_(torch.randn(drawn.shape, generator=stream))
        return locate(batch, times=times, noise=noise)

    def _each(self, purpose: str, step: int, cut: slice) -> list[torch.Generator]:
        """One stream for each image of a part of the batch, whoever draws it."""
        return [self._stream(purpose, step, place) for place in self.places[cut].tolist()]

    def _stream(self, purpose: str, *key: int) -> torch.Generator:
        return keyed_generator(self.training.seed, purpose, *key)

    def _labels(self, rows: Tensor, step: int) -> Tensor | None:
        if self.classes == 0:
            return None
        labels = torch.as_tensor(self.cache.labels)[rows].long()  # (n,)
        u = torch.rand(self.training.batch_size, generator=self._stream("drop", step))
        return labels.masked_fill(u[self.places] < self.training.label_dropout, self.classes)

    def masks(self, step: int) -> StepMasks:
        """Masks of this process's images; groups in which it has none are not drawn."""
        masked, weights, kept, groups, start = [], [], [], [], 0
        for number, group in enumerate(self.groups):
            stop = int(torch.searchsorted(self.places, group.stop))
            if start == stop:
                continue
            size, inside = group.stop - group.start, self.places[start:stop] - group.start
            stream = self._stream("mask", step, *([] if self._as_one else [number]))
            drawn, hidden = self.masking.part(size, self.cache.length, stream, inside)
            weight = torch.ones(len(inside)) if drawn.weight is None else drawn.weight
            share = self.training.batch_size / size
            weights.append(weight / (hidden.sum().clamp(min=1) * share))
            masked.append(drawn.masked)
            kept.append((slice(start, stop), drawn.kept))
            groups.append((group, hidden))
            start = stop
        return StepMasks(torch.cat(masked), torch.cat(weights), kept, groups)

    @property
    def _as_one(self) -> bool:
        """Whether the whole batch is one group."""
        return len(self.groups) == 1 and self.training.normalize == "global"


class SubstitutionBatches(Dataset):
    """Masked batches in which some visible tokens are chosen to be replaced.

    What is replaced, and by which random number, is drawn for the whole batch and then cut. Every
    replaced token of a group of the masked batches counts equally, and a group by its images.

    Args:
        masked: this process's masked batches, of codes.
        options: which tokens are replaced.
    """

    def __init__(self, masked: MaskedBatches, options: Substitution) -> None:
        self.masked, self.options = masked, options

    def __getitem__(self, step: int) -> list[SubstitutionBatch]:
        """This process's micro-batches of a step."""
        masks, places = self.masked.masks(step), self.masked.places
        size, length = self.masked.training.batch_size, masks.masked.shape[1]
        stream = keyed_generator(self.masked.training.seed, "replace", step)
        score, uniform = torch.rand(2, size, length, generator=stream)[:, places]  # (n, L) each
        u = torch.rand(size, generator=stream)
        replaced = self.options.choose(masks.masked, score, u[places])  # (n, L)
        weights, batches = self._weights(masks, u), []
        cuts = [cut for part in self.masked.parts for cut, _ in masks.pieces(part)]
        for (batch, *_), cut in zip(self.masked.located(step, masks), cuts, strict=True):
            where = replaced[cut].flatten().nonzero().squeeze(1)  # (M,)
            chosen = uniform[cut].flatten()[where]  # (M,)
            weighted = batch._replace(weight=weights[cut])
            batches.append(SubstitutionBatch(weighted, where, chosen, torch.tensor(1 / size)))
        return batches

    def _weights(self, masks: StepMasks, u: Tensor) -> Tensor:
        """``(n,)`` float32: what each replaced token of an image counts."""
        weights = []
        for (rows, _), (group, hidden) in zip(masks.kept, masks.groups, strict=True):
            visible = masks.masked.shape[1] - hidden  # (G,)
            total = self.options.replaced(visible, u[group]).sum().clamp(min=1)
            share = len(u) / len(hidden)
            weights.append((1 / (total * share)).expand(rows.stop - rows.start))
        return torch.cat(weights)


class OtherViews(MaskedBatches):
    """The batches of the same images, each in another view and under another mask."""

    def _stream(self, purpose: str, *key: int) -> torch.Generator:
        return super()._stream(f"other {purpose}", *key)

    def views(self, step: int) -> Tensor:
        """``(B,)`` int64, none of them that of :class:`MaskedBatches`."""
        count = (self.training.batch_size,)
        first = torch.randint(self.cache.views, count, generator=super()._stream("view", step))
        apart = torch.randint(1, self.cache.views, count, generator=self._stream("view", step))
        return (first + apart) % self.cache.views


class TwoViewBatches(Dataset):
    """Masked batches with every image twice: rows i and b + i of 2 b are views of one image.

    Each view has a mask of its own, and its masked tokens count as much as the other's.

    Args:
        arguments: of :class:`MaskedBatches`.

    Raises:
        InputError: there is only one view of each image; see also :class:`MaskedBatches`.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.first, self.second = (
            kind(*arguments, **named) for kind in (MaskedBatches, OtherViews)
        )
        if self.first.cache.views < 2:
            raise InputError(
                "contrastive needs two views of each image, and the cache has one: build it with "
                "--flip, or give --data and a random crop instead"
            )

    def __getitem__(self, step: int) -> list[LocatedBatch]:
        """This process's micro-batches of a step."""
        pairs = zip(self.first[step], self.second[step], strict=True)
        return [locate(_joined(one.batch, two.batch)) for one, two in pairs]


def _joined(one: MaskedBatch, two: MaskedBatch) -> MaskedBatch:
    assert one.kept is not None, "MAGE's encoder sees a part"
    assert two.kept is not None
    return MaskedBatch(
        torch.cat([one.tokens, two.tokens]),
        torch.cat([one.masked, two.masked]),
        None,
        torch.cat([one.weight, two.weight]) / 2,
        torch.cat([one.kept, two.kept]),
    )
