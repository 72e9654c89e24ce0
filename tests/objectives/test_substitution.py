"""Which tokens are replaced and by what, who learns from it, and that parts of a batch add up."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITBertNetwork, MaskGITVitNetwork
from unmask.nn.feedback import Feedback
from unmask.nn.model import MaskedModel, initialize
from unmask.objectives.substitution import (
    Substitution,
    SubstitutionBatch,
    SubstitutionObjective,
)
from unmask.types import MaskedBatch

LENGTH, CODES, CLASSES = 16, 12, 5
SIZES = {"codes": CODES, "width": 16, "depth": 2, "heads": 2, "length": LENGTH}
ADAPTER = Feedback(factor=4)
POST = MaskGITBertNetwork(
    **SIZES, feed_forward=24, classes=CLASSES, feedback=ADAPTER, dropout=0.0, attention_dropout=0.0
)
PRE = MaskGITVitNetwork(**SIZES, classes=CLASSES, feedback=ADAPTER)


def built(network: MaskGITBertNetwork | MaskGITVitNetwork = POST) -> MaskedModel:
    model = network.build()
    initialize(model, keyed_generator("weights"))
    for name, parameter in model.named_parameters():  # a network that has learnt something
        if not name.startswith("feedback") and parameter.ndim > 1:
            parameter.data.mul_(10)
    return model


def batch(options: Substitution, rows: int = 6, *, classes: bool = True) -> SubstitutionBatch:
    generator = keyed_generator("substitution")
    tokens = torch.randint(CODES, (rows, LENGTH), generator=generator)
    masked = torch.rand(rows, LENGTH, generator=generator) < 0.5
    masked[0] = True
    labels = torch.randint(CLASSES, (rows,), generator=generator) if classes else None
    score, uniform = torch.rand(2, rows, LENGTH, generator=generator)
    replaced = options.choose(masked, score, torch.rand(rows, generator=generator))
    weight = torch.full((rows,), 1 / int(replaced.sum()))
    where = replaced.flatten().nonzero().squeeze(1)
    examples = MaskedBatch(tokens, masked, labels, weight)
    return SubstitutionBatch(examples, where, uniform.flatten()[where], torch.tensor(1 / rows))


def rows_of(whole: SubstitutionBatch, cut: slice) -> SubstitutionBatch:
    """A part of a batch, which counts what it counted in the whole."""
    inside = (whole.where // LENGTH >= cut.start) & (whole.where // LENGTH < cut.stop)
    examples = MaskedBatch(*(None if part is None else part[cut] for part in whole.batch))
    where = whole.where[inside] - cut.start * LENGTH
    return SubstitutionBatch(examples, where, whole.uniform[inside], whole.share)


def test_the_share_is_rounded_half_to_even_and_at_least_one() -> None:
    visible, u = torch.tensor([0, 1, 5, 15, 16, 100]), torch.tensor([0.5] * 6)
    assert Substitution().counts(visible, u).tolist() == [1, 1, 2, 4, 5, 30]
    assert Substitution(rate=0.5).counts(visible, u).tolist() == [1, 1, 2, 8, 8, 50]
    dynamic = Substitution(dynamic=True)
    assert torch.equal(dynamic.counts(visible, u), Substitution().counts(visible, u))
    ends = torch.tensor([0.0, 0.999999])
    assert dynamic.counts(torch.tensor([100, 100]), ends).tolist() == [1, 60]


@pytest.mark.parametrize("dynamic", [False, True])
def test_only_visible_tokens_are_replaced_as_many_as_said(dynamic: bool) -> None:
    generator = keyed_generator("choose")
    masked = torch.rand(200, LENGTH, generator=generator) < torch.rand(200, 1, generator=generator)
    masked[:5] = True
    score, u = torch.rand(200, LENGTH, generator=generator), torch.rand(200, generator=generator)
    options = Substitution(dynamic=dynamic)
    replaced = options.choose(masked, score, u)
    assert not (replaced & masked).any()
    visible = (~masked).sum(1)
    assert torch.equal(replaced.sum(1), torch.minimum(options.counts(visible, u), visible))
    with_masks = replace(options, fully_masked="mask").choose(masked, score, u)
    assert torch.equal(with_masks[visible > 0], replaced[visible > 0])
    assert (with_masks[visible == 0].sum(1) == 1).all()


def test_every_visible_token_is_as_likely() -> None:
    masked = torch.arange(LENGTH).expand(4000, -1) % 2 == 0
    score = torch.rand(4000, LENGTH, generator=keyed_generator("likely"))
    shares = Substitution(rate=0.5).choose(masked, score, torch.zeros(4000)).float().mean(0)[1::2]
    torch.testing.assert_close(shares, torch.full_like(shares, 0.5), atol=0.035, rtol=0)  # 4 sigma


def test_replacements_follow_the_blank_prediction_or_hardly() -> None:
    for proposal in ("softmax", "double-softmax"):
        options = Substitution(proposal=proposal)
        examples, objective = batch(options), SubstitutionObjective(built(), options).eval()
        probs = objective.proposals(examples)
        assert probs.shape == (len(examples.where), CODES)
        torch.testing.assert_close(probs.sum(1), torch.ones(len(probs)))
        spread = probs.amax(1) / probs.amin(1)
        shown = examples._replace(batch=examples.batch._replace(tokens=examples.batch.tokens * 0))
        assert torch.equal(objective.proposals(shown), probs), "they see the class alone"
        assert bool((spread < torch.e).all()) == (proposal == "double-softmax")


def test_a_replaced_mask_is_to_be_named() -> None:
    options = Substitution(fully_masked="mask")
    examples, objective = batch(options), SubstitutionObjective(built(), options)
    canvas = objective.corrupt(examples, torch.full_like(examples.where, 3))
    assert (canvas.tokens.flatten()[examples.where] == 3).all()
    assert not canvas.masked.flatten()[examples.where].any()
    untouched = torch.ones(6 * LENGTH, dtype=torch.bool).index_fill(0, examples.where, False)
    for now, was in zip(canvas[:2], examples.batch[:2], strict=True):
        assert torch.equal(now.flatten()[untouched], was.flatten()[untouched])
    targets = objective.targets(examples)
    first = examples.where < LENGTH
    assert targets[first].tolist() == [CODES + CLASSES]  # the last row of the table
    assert torch.equal(targets[~first], examples.batch.tokens.flatten()[examples.where][~first])
    with pytest.raises(InputError, match=r"fully_masked='mask' needs a head that can name"):
        SubstitutionObjective(built(PRE), options)


@pytest.mark.parametrize("network", [POST, PRE, replace(PRE, classes=0)])
def test_the_adapter_learns_and_nothing_else(
    network: MaskGITBertNetwork | MaskGITVitNetwork,
) -> None:
    options = Substitution()
    model = built(network)
    objective = SubstitutionObjective(model, options, label_smoothing=0.1).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    examples = batch(options, classes=network.classes > 0)
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        found = objective(examples)
        found["loss"].backward()
        optimizer.step()
        losses.append(found)
    assert losses[-1]["repair"] < 0.8 * losses[0]["repair"]
    assert losses[-1]["variational"] < 0.8 * losses[0]["variational"]
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {n for n in before if n.startswith("feedback.")}


def test_the_variational_term_teaches_the_way_down_alone() -> None:
    options = Substitution()
    objective = SubstitutionObjective(built(), options)
    objective(batch(options))["variational"].backward()
    for name, parameter in objective.averaged.named_parameters():
        assert (parameter.grad is not None) == name.endswith("down.weight"), name
    without = SubstitutionObjective(built(), replace(options, variational=0.0))
    assert set(without(batch(options))) == {"loss", "repair"}


def test_parts_of_a_batch_add_up_to_the_whole() -> None:
    options = Substitution()
    objective = SubstitutionObjective(built(), options, label_smoothing=0.1)
    whole = batch(options)
    together = objective(whole)
    parts = [objective(rows_of(whole, cut)) for cut in (slice(0, 1), slice(1, 3), slice(3, 6))]
    for name, value in together.items():
        torch.testing.assert_close(sum(part[name] for part in parts), value)
    assert parts[0]["repair"] == 0  # its one image shows nothing


def test_the_frozen_networks_dropout_is_an_option() -> None:
    network = replace(POST, dropout=0.5)
    for active in (True, False):
        options = Substitution(base_dropout=active)
        objective = SubstitutionObjective(built(network), options).train()
        assert objective.model.trunk.training == active
        examples = batch(options)
        one, other = objective(examples)["loss"], objective(examples)["loss"]
        assert (one == other) != active
        assert not objective.eval().model.training


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, r"substitution\.rate=0\.0"),
        ({"rate": 1.1}, r"rate=1.1 must lie in \(0, 1\]"),
        ({"rate": 0.6, "dynamic": True}, r"rate=0.6 must lie in \(0, 0.5\]"),
        ({"variational": -1.0}, r"substitution\.variational=-1\.0"),
    ],
)
def test_numbers_out_of_range_are_refused(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Substitution(**values)
