"""Self-guidance of UnlockMGM: the adapter's two passes."""

from __future__ import annotations

import torch
from golden import Case
from handlers.unlockmgm import network, read_ids
from torch import Tensor

from unmask.model import MaskedModel
from unmask.nn.feedback import FeedbackAdapter
from unmask.types import Canvas, Hidden

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
        return model.head.logits(adapter.train(False)(model, whole, *rest))


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


HANDLERS = {"unlockmgm.toast_forward": forward}
