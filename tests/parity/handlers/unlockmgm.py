"""UnlockMGM: logits, hidden states and loss of the PyTorch port of MaskGIT."""

from __future__ import annotations

from pathlib import Path

import torch
from golden import Case
from torch import Tensor

from unmask.checkpoints.names import to_own
from unmask.checkpoints.store import load_state
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.nn.model import MaskedModel
from unmask.projects.project import Checkpoint
from unmask.projects.unlockmgm import TABLE, network_of
from unmask.types import Canvas


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, and its adapter if it has one, for evaluation."""
    weights, grid = case.weights(), (1, case.config["num_vq_tokens"])
    sizes = network_of(Checkpoint(weights, Path(case.name), config=case.config, grid=grid))
    check_told(case, sizes)
    model = sizes.build()
    load_state(model, to_own(weights, TABLE, case.name), case.name)
    return model.eval()


def check_told(case: Case, sizes: MaskGITBertNetwork) -> None:
    """What the configuration tells twice, and what it tells of other networks or of training."""
    case.told(mask_token_id=sizes.codes + sizes.classes)
    # of architectures that its flags exclude, of initial weights, and of the adapter's training
    case.aside("encoder_hidden_size", "initializer_range")
    case.aside("lambda_var", "train_head", "predict_all")


def read_ids(case: Case, ids: Tensor) -> tuple[Canvas, Tensor]:
    """Canvas and classes of ``(B, 1 + L)``: class + V, then tokens with the mask as the last id."""
    tokens = ids[:, 1:]
    mask = case.config["codebook_size"] + case.config["num_classes"]
    return Canvas(tokens, tokens == mask), (ids[:, 0] - case.config["codebook_size"])


@torch.inference_mode()
def logits(case: Case) -> dict[str, Tensor]:
    model = network(case)
    case.leave("class_ids", "image_ids", "mask")  # the ids once more, in parts
    hidden = torch.cat(model.hidden(*read_ids(case, case.input("input_ids"))), 1)  # (B, 1 + L, D)
    outputs = {"hidden_states": hidden, "logits": model.head.logits(hidden)}
    labels = case.maybe("labels")
    for name in case.names("loss_ls*") if labels is not None else []:
        smoothing = float(name.removeprefix("loss_ls").replace("_", "."))
        seen = labels != -100
        each = model.head.loss(hidden[seen], labels[seen], label_smoothing=smoothing)
        outputs[name] = each.mean()
    return outputs


HANDLERS = {"unlockmgm.logits": logits}
