"""Self-guidance of UnlockMGM: the adapter's two passes, and the loss that it learns from."""

from __future__ import annotations

import torch
from golden import Case
from handlers.unlockmgm import network, read_ids
from torch import Tensor

from unmask.checkpoints.names import to_source
from unmask.curves import masked_share
from unmask.masking import TrainMasking, lowest
from unmask.nn.feedback import FeedbackAdapter, FoldedAdapter
from unmask.nn.model import MaskedModel
from unmask.objectives.substitution import (
    Substitution,
    SubstitutionBatch,
    SubstitutionObjective,
)
from unmask.projects.unlockmgm import TABLE
from unmask.types import Canvas, Hidden, MaskedBatch

Pass = tuple[MaskedModel, Hidden, Canvas, Tensor]


def second_pass(blank: bool, folded: bool, model: MaskedModel, *first: object) -> Tensor:
    """Logits of the second pass, ``(B, 1 + L, outputs)``; folded, the class position is kept."""
    adapter = model.feedback
    adapter.blank = blank
    with torch.inference_mode() if folded else torch.no_grad():
        if not folded:
            return model.head.logits(adapter.states(model, *first)[-1])
        hidden, *rest = first
        whole = Hidden(hidden.tokens[:, :0], torch.cat(hidden, 1))  # the class position too
        return model.head.logits(FoldedAdapter(model, *rest)(whole, *rest))


@torch.no_grad()
def forward(case: Case) -> dict[str, Tensor]:
    model = network(case)
    adapter = model.feedback
    assert isinstance(adapter, FeedbackAdapter)
    canvas, classes = read_ids(case, case.input("input_ids"))
    hidden = model.hidden(canvas, classes)
    states = torch.cat(hidden, 1)  # (B, 1 + L, D)
    gate = adapter.gate(hidden, classes)
    passes = {}
    for blank in (True, False):
        plain, folded = (
            second_pass(blank, folded, model, hidden, canvas, classes) for folded in (False, True)
        )
        torch.testing.assert_close(folded, plain, atol=1e-5, rtol=1e-5)
        passes[blank] = folded
    first, codes = model.head.logits(states), model.head.codes
    return {
        "hidden_pass1": states,
        "logits_pass1": first,
        "anchor": adapter.anchor(classes),
        "gate": gate,
        "top_down_features": torch.stack(adapter.top_down(states * gate)),
        "logits_pass2": passes[True],
        "logits_pass2_not_blank": passes[False],
    } | {name: guided(name, first, passes[True], codes) for name in case.names("guided_logits_gs*")}


def guided(name: str, strong: Tensor, weak: Tensor, codes: int) -> Tensor:
    """The papers' s stands in the name, with "_" for the point; ours is 1 + s."""
    scale = 1 + float(name.removeprefix("guided_logits_gs").replace("_", "."))
    return (weak + scale * (strong - weak))[..., :codes]


def prepare_inputs(case: Case) -> dict[str, Tensor]:
    spec, tokens = case.spec, case.input("image_tokens")
    masking = TrainMasking(least_ratio=spec.get("min_masking_rate", 0.0))
    u, length = case.input("u_timestep"), tokens.shape[1]
    rank = case.input("u_perm").argsort(1)  # the source masks by this permutation's values
    masked = lowest(rank.float(), masking.counts(u, length))
    dynamic, rate = spec.get("use_dynamic_substitution", False), spec.get("substitution_rate", 0.3)
    # the source's own rate is a constant 0.6 u where it is dynamic
    options = Substitution(rate=0.3 if dynamic else rate, dynamic=dynamic)
    visible = (~masked).sum(1)
    replaced = options.counts(visible, case.input("u_substitution") if dynamic else u)
    ids = tokens.masked_fill(masked, spec["mask_id"])
    front = case.input("class_ids")[:, None]
    return {
        "input_ids": torch.cat([front + spec["codebook_size"], ids], 1),
        "labels": torch.cat([torch.full_like(front, -100), tokens.masked_fill(~masked, -100)], 1),
        "mask_prob": masked_share("cosine", u, total=length).clamp(min=masking.least_ratio),
        "num_substitute": replaced.float(),
    }


def finetune_loss(case: Case) -> dict[str, Tensor]:
    spec, config = case.spec, case.config
    model = network(case)
    if spec.get("use_dynamic_substitution", False):
        assert case.has("num_substitute"), "the caller draws the number"
    options = Substitution(
        rate=spec.get("substitution_rate", 0.3),
        proposal="double-softmax",
        fully_masked="mask",
        variational=max(0.0, config.get("lambda_var", 0.1)),
    )
    smoothing = spec.get("label_smoothing", 0.0)
    objective = SubstitutionObjective(model, options, label_smoothing=smoothing)
    assert not config.get("predict_all", False), "the loss is of replaced tokens alone"
    model.head.requires_grad_(config.get("train_head", False))  # ours never trains the head
    objective.train()
    canvas, classes = read_ids(case, case.input("input_ids"))
    case.leave("image_tokens")  # the truth at masked positions too, which this loss does not read
    batch = substituted(case, options, canvas, classes)
    with torch.no_grad():
        race = case.input("exp_noise").flatten(0, 1)[batch.where]  # (M, V)
        codes = (objective.proposals(batch) / race).argmax(-1)
    corrupted = objective.corrupt(batch, codes)
    found = objective.losses(batch, codes)
    found["loss"].backward()
    with torch.no_grad():
        hidden = model.hidden(corrupted, classes)
        states = model.feedback.states(model, hidden, corrupted, classes)
        logits = model.head.logits(states[-1])
    ids = corrupted.tokens.masked_fill(corrupted.masked, config["mask_token_id"])
    labels = torch.full_like(ids, -100).flatten()
    labels = labels.index_copy(0, batch.where, objective.targets(batch)).view_as(ids)
    front = case.input("input_ids")[:, :1]
    gradients = to_source(
        {name: p.grad for name, p in model.named_parameters() if p.requires_grad}, TABLE
    )
    assert sorted(gradients) == sorted(spec.get("trainable", gradients))
    return {
        "substituted_input": torch.cat([front, ids], 1),
        "substituted_labels": torch.cat([torch.full_like(front, -100), labels], 1),
        "logits": logits,
        "loss": found["repair"],
        "var_loss": found.get("variational", torch.zeros(())),
    } | {f"grad/{name}": gradient for name, gradient in gradients.items()}


def substituted(
    case: Case, options: Substitution, canvas: Canvas, classes: Tensor
) -> SubstitutionBatch:
    """The case's examples as a batch, their positions chosen from its own random numbers."""
    rows = len(classes)
    score, given = case.input("uniform"), case.maybe("num_substitute")
    if given is None:
        replaced = options.choose(canvas.masked, score, torch.zeros(rows))
    else:
        replaced = lowest(score.masked_fill(canvas.masked, 2.0), given.long())
    where = replaced.flatten().nonzero().squeeze(1)
    weight = torch.tensor(1 / len(where))
    return SubstitutionBatch(
        MaskedBatch(canvas.tokens, canvas.masked, classes, weight),
        where,
        torch.zeros(len(where)),
        torch.tensor(1 / rows),
    )


HANDLERS = {
    "unlockmgm.toast_forward": forward,
    "unlockmgm.prepare_inputs": prepare_inputs,
    "unlockmgm.toast_loss": finetune_loss,
}
