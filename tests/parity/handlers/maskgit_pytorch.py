"""maskgit-pytorch: logits, loss and gradients."""

from __future__ import annotations

import torch
from golden import Case
from torch import Tensor

from unmask.checkpoints.maskgit_pytorch import TABLE
from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.masking import TrainMasking, lowest
from unmask.model import MaskedModel
from unmask.nn.pre_norm import PreNormNetwork
from unmask.types import Canvas


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    model = PreNormNetwork(
        codes=config["vocab_size"],
        width=config["embed_dim"],
        depth=config["n_layers"],
        heads=config["n_heads"],
        length=config["n_tokens"],
        classes=config.get("n_classes", 0),
        dropout=config.get("dropout", 0.0),
        grid=(1, config["n_tokens"]),
    ).build()
    load_state(model, to_own(case.weights(), TABLE, case.name), case.name)
    return model.eval()


def canvas_of(ids: Tensor, codes: int) -> Canvas:
    """The source marks unknown tokens by the id V."""
    return Canvas(ids, ids == codes)


def drop_labels(case: Case, labels: Tensor | None, u: Tensor | None, share: float) -> Tensor | None:
    """The source's label dropout: the null class where u < share."""
    if labels is None or u is None:
        return labels
    return labels.masked_fill(u.view(-1) < share, case.config["n_classes"])


@torch.inference_mode()
def logits(case: Case) -> dict[str, Tensor]:
    model = network(case)
    canvas = canvas_of(case.input("idx"), case.config["vocab_size"])
    labels = case.maybe("y")

    def predict(class_labels: Tensor | None) -> Tensor:
        return model.head.logits(model.hidden(canvas, class_labels).tokens)

    outputs = {"logits": predict(labels), "logits_no_class_token": predict(None)}
    if labels is None:
        return outputs
    outputs["logits_cond"] = outputs["logits"]
    outputs["logits_uncond"] = predict(torch.full_like(labels, case.config["n_classes"]))
    for name in case.names("logits_drop_p*"):
        share = float(name.removeprefix("logits_drop_p"))
        outputs[name] = predict(drop_labels(case, labels, case.maybe("drop_u"), share))
    return outputs


def loss_and_gradients(case: Case, model: MaskedModel) -> dict[str, Tensor]:
    """Part (a): one mask from explicit numbers, the masked loss, and every gradient."""
    codes, ids = case.config["vocab_size"], case.input("idx")
    masking = TrainMasking(curve="cosine", shared=True, rounding="up")
    count = masking.counts(case.input("mask_r").view(1), ids.shape[1])
    mask = lowest(-case.input("mask_u"), count.expand(ids.shape[0]))  # the n largest
    labels = drop_labels(case, case.maybe("y"), case.maybe("drop_u"), case.spec["cond_drop_prob"])
    hidden = model.hidden(Canvas(ids, mask), labels).tokens  # (B, L, D)
    each = model.head.loss(
        hidden[mask], ids[mask], label_smoothing=case.spec.get("label_smoothing", 0.0)
    )
    loss = each.mean()
    loss.backward()
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    gradients = {f"grad/{key}": value for key, value in to_source(own, TABLE).items()}
    return {
        "mask": mask,
        "masked_idx": ids.masked_fill(mask, codes),
        "loss": loss.detach(),
        **gradients,
    }


def train_steps(case: Case) -> dict[str, Tensor]:
    outputs = loss_and_gradients(case, network(case).train())
    missing = set(case.names("grad/*")) - outputs.keys()
    assert not missing, f"no gradient for {sorted(missing)}"
    case.leave("step*", "final/*", "ema/*")  # part (b), the optimiser's steps
    return outputs


HANDLERS = {
    "maskgit_pytorch.logits": logits,
    "maskgit_pytorch.train_steps": train_steps,
}
