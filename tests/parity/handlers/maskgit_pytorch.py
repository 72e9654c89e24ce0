"""maskgit-pytorch: logits, loss and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from golden import Case
from torch import Tensor

from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.data.batches import share_rows
from unmask.masking import TrainMasking, lowest
from unmask.networks.maskgit import MaskGITVitNetwork
from unmask.nn.model import MaskedModel
from unmask.objectives.masked import MaskedObjective
from unmask.projects.maskgit_pytorch import TABLE
from unmask.recipes.training import Ema, Training
from unmask.train.loop import optimise_step
from unmask.train.optim import EmaWeights, ema_decay, learning_rate, make_optimizer
from unmask.types import Canvas, MaskedBatch

SCHEDULERS = {
    "ConstantLR": "constant",
    "ConstantWarmupLR": "constant warmup",
    "LinearWarmupLR": "linear warmup",
    "CosineWarmupLR": "cosine warmup",
}
NORMS = "steps/grad_norm_before_clip"
EMA_WARMUPS = {
    None: "none",
    "none": "none",
    "tensorflow-like": "inverse",
    "tensorflow_like": "inverse",
    "crowsonkb": "power",
}


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    model = MaskGITVitNetwork(
        codes=config["vocab_size"],
        width=config["embed_dim"],
        depth=config["n_layers"],
        heads=config["n_heads"],
        length=config["n_tokens"],
        classes=config.get("n_classes") or 0,
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
    case.aside("mask_schedule_type")  # of training and sampling

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
    masking = TrainMasking(curve=curve_of(case.config, case.spec), shared=True, rounding="up")
    count = masking.counts(case.input("mask_r").view(1), ids.shape[1])
    mask = lowest(-case.input("mask_u"), count.expand(ids.shape[0]))  # the n largest
    labels = drop_labels(
        case, case.maybe("y"), case.maybe("drop_u"), case.spec.get("cond_drop_prob", 0.0)
    )
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


def curve_of(*places: Mapping[str, Any]) -> str:
    """The mask schedule under the source's name for it, wherever a case says it."""
    names = ("mask_schedule_type", "mask_schedule")
    return next((place[name] for place in places for name in names if name in place), "cosine")


def training_of(case: Case) -> Training:
    """The source's options in our words."""
    spec, optimizer, batch = case.spec, case.spec["optimizer"], len(case.input("step0/idx"))
    assert optimizer.get("name", "AdamW") == "AdamW"
    scheduler = spec.get("scheduler") or {"name": "ConstantLR"}
    schedule, _, warmup = SCHEDULERS[scheduler["name"]].partition(" ")
    assert scheduler.get("num_cycles", 0.5) == 0.5, "half a cosine is what every config asks for"
    return Training(
        steps=scheduler.get("training_steps", spec["n_steps"]),
        batch_size=batch,
        micro_batch_size=spec.get("micro_batch_size") or batch,
        lr=optimizer["lr"],
        betas=tuple(optimizer.get("betas", (0.9, 0.999))),
        eps=optimizer.get("eps", 1e-8),
        weight_decay=optimizer.get("weight_decay", 0.01),
        schedule=schedule,
        warmup_steps=scheduler.get("warmup_steps", 0) if warmup else 0,
        clip_grad_norm=spec.get("clip_grad_norm"),
        label_smoothing=spec.get("label_smoothing", 0.0),
        normalize="micro",
        ema=average_of(spec.get("ema") or {}),
    )


def average_of(ema: Mapping[str, Any]) -> Ema:
    """The source's average of weights."""
    assert ema.get("ema_warmup_gamma", ema.get("inv_gamma", 1.0)) == 1.0
    return Ema(
        decay=ema.get("decay", 0.9999),
        warmup=EMA_WARMUPS[ema.get("ema_warmup_type")],
        power=ema.get("ema_warmup_power", 2 / 3),
    )


def micro_batches(case: Case, training: Training, step: int) -> list[MaskedBatch]:
    """Consecutive parts of the step's batch, each counting by its images."""
    ids, labels = case.input(f"step{step}/idx"), case.maybe(f"step{step}/y")
    masked = case.input(f"step{step}/mask") != 0
    labels = drop_labels(
        case, labels, case.maybe(f"step{step}/drop_u"), case.spec.get("cond_drop_prob", 0.0)
    )
    return [
        MaskedBatch(
            ids[part],
            masked[part],
            None if labels is None else labels[part],
            len(ids[part]) / (len(ids) * masked[part].sum().float()),
        )
        for part in share_rows(ids, rank=0, world=1, micro_batch_size=training.micro_batch_size)
    ]


def optimiser_steps(case: Case, model: MaskedModel) -> dict[str, Tensor]:
    """Part (b): clipping, AdamW, average, learning rate: the training loop's own step."""
    training = training_of(case)
    assert training.ema is not None, "every case has an average"
    objective = MaskedObjective(model, label_smoothing=training.label_smoothing)
    optimizer, ema = make_optimizer(objective, training), EmaWeights(model, training.ema)
    steps = range(case.spec["n_steps"])
    losses, norms = [], []
    for step in steps:
        values = optimise_step(
            objective,
            micro_batches(case, training, step),
            optimizer=optimizer,
            settings=training,
            step=step,
            accelerator=Accelerator(cpu=True),
            ema=ema,
        )
        losses.append(values["loss"])
        norms.append(values.get("grad_norm", torch.tensor(torch.nan)))
    final = to_source({k: v.detach() for k, v in model.state_dict().items()}, TABLE)
    averaged = to_source(ema.state_dict(), TABLE)
    rates = [learning_rate(training, k) for k in range(len(steps) + 1)]
    decays = [ema_decay(training.ema, k + 1) for k in steps]
    return {
        **{f"final/{key}": value for key, value in final.items()},
        **{f"ema/{key}": value for key, value in averaged.items()},
        **{f"step{k}/loss": loss for k, loss in enumerate(losses)},
        "steps/loss": torch.stack(losses),
        **({} if training.clip_grad_norm is None else {NORMS: torch.stack(norms)}),
        "steps/lr_used": torch.tensor(rates[:-1], dtype=torch.float64),
        "steps/lr_logged": torch.tensor(rates[1:], dtype=torch.float64),
        "steps/ema_decay": torch.tensor(decays, dtype=torch.float64),
    }


def train_steps(case: Case) -> dict[str, Tensor]:
    outputs = loss_and_gradients(case, network(case).train())
    missing = set(case.names("grad/*")) - outputs.keys()
    assert not missing, f"no gradient for {sorted(missing)}"
    return outputs | optimiser_steps(case, network(case).train())


HANDLERS = {
    "maskgit_pytorch.logits": logits,
    "maskgit_pytorch.train_steps": train_steps,
}
