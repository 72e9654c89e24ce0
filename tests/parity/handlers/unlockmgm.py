"""UnlockMGM: logits, hidden states and loss of the PyTorch port of MaskGIT."""

from __future__ import annotations

import torch
from golden import Case
from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import load_state
from unmask.checkpoints.unlockmgm import TABLE, network_of
from unmask.model import MaskedModel
from unmask.types import Canvas


def network(case: Case) -> MaskedModel:
    """The case's plain network with its weights, in evaluation mode; an adapter is left aside."""
    model = network_of(case.config, origin=case.name).build()
    load_state(model, to_own(case.weights(), TABLE, case.name), case.name)
    return model.eval()


@torch.inference_mode()
def logits(case: Case) -> dict[str, Tensor]:
    model = network(case)
    ids = case.input("input_ids")  # (B, 1 + L): class + V, tokens with the mask as the last id
    case.leave("class_ids", "image_ids", "mask")  # the same once more, in parts
    classes, tokens = ids[:, 0] - case.config["codebook_size"], ids[:, 1:]
    masked = tokens == case.config["mask_token_id"]
    hidden = torch.cat(model.hidden(Canvas(tokens, masked), classes), dim=1)  # (B, 1 + L, D)
    outputs = {"hidden_states": hidden, "logits": model.head.logits(hidden)}
    labels = case.maybe("labels")
    for name in case.names("loss_ls*") if labels is not None else []:
        smoothing = float(name.removeprefix("loss_ls").replace("_", "."))
        seen = labels != -100
        each = model.head.loss(hidden[seen], labels[seen], label_smoothing=smoothing)
        outputs[name] = each.mean()
    return outputs


HANDLERS = {"unlockmgm.logits": logits}
