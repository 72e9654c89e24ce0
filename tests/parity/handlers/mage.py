"""MAGE: pre-training with every random number explicit, generation, mask rates and counts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from golden import Case
from handlers.mar import whole_steps
from tape import Tape
from torch import Tensor, nn

from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.counts import FixedCounts
from unmask.decode import Plan, blank_canvas, decode
from unmask.draws import Draws
from unmask.image_size import checked_size, height_width
from unmask.masking import Masks, NormalMasking, lowest
from unmask.nn.block import Attention
from unmask.nn.embed import CLASS_ROWS, SLOT
from unmask.nn.model import MaskedModel
from unmask.nn.positions import take
from unmask.objectives.masked import MaskedObjective
from unmask.orders import KNOWN, Confidence
from unmask.projects.mage import TABLE, network_of, split_tokenizer
from unmask.projects.project import Checkpoint
from unmask.recipes.mage import TRAINING
from unmask.recipes.training import Training
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.published import translate
from unmask.train.loop import optimise_step
from unmask.train.optim import learning_rate, make_optimizer, parameter_groups
from unmask.types import Canvas, MaskedBatch, Moment, Reading


def smoothing(case: Case) -> float:
    """Of labels: MAGE's own number unless the case has another."""
    return case.config.get("label_smoothing", TRAINING.label_smoothing)


def grid_of(config: Mapping[str, Any], length: int) -> tuple[int, int]:
    """Rows and columns of tokens: a pair, the side of a square, or what the image size makes."""
    stated = config.get("grid")
    if stated is None:
        height, width = height_width(checked_size(config["img_size"]))
        stated = height // config["patch_size"], width // config["patch_size"]
    rows, columns = height_width(checked_size(stated))
    assert rows * columns == length
    return rows, columns


def network(case: Case) -> MaskedModel:
    """The case's network with its weights, in evaluation mode."""
    config, state = case.config, split_tokenizer(case.weights())[0]
    own = to_own(state, TABLE, case.name)
    length = own["trunk.positions"].shape[1] - 1
    heads, decoder_heads = config["num_heads"], config["decoder_num_heads"]
    grid = grid_of(config, length)
    found = Checkpoint({}, Path(case.name), own=own, grid=grid)
    sizes = network_of(found._replace(heads=heads, decoder_heads=decoder_heads))
    case.told(
        codebook_size=sizes.codes,
        fake_class_label=sizes.codes + SLOT,
        mask_token_label=sizes.codes + CLASS_ROWS,
        vocab_size=sizes.codes + CLASS_ROWS + 1,
        embed_dim=sizes.width,
        depth=sizes.depth,
        decoder_embed_dim=sizes.decoder_width,
        decoder_depth=sizes.decoder_depth,
        seq_len=sizes.length,
        max_position_embeddings=sizes.position_rows,
    )
    case.aside("img_size", "patch_size")  # where the grid is told
    hidden = int(sizes.width * config.get("mlp_ratio", 4.0))
    assert hidden == round(sizes.width * sizes.mlp_ratio)
    model = replace(sizes, dropout=config.get("dropout", sizes.dropout)).build()
    load_state(model, own, case.name)
    for norm in (m for m in model.trunk.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = config.get("norm_eps", norm.eps)  # 1e-6 in every published model, as ours
    return model.eval()


def tokenizer(case: Case) -> ImageTokenizer:
    sizes, state = translate(split_tokenizer(case.weights())[1], {}, case.name)
    made = sizes.build()
    load_state(made, state, case.name)
    return made.eval()


def masks(case: Case, noise: Tensor, rate: Tensor) -> Masks:
    """The source's masks: the lowest noise is dropped, somewhat more is hidden."""
    masking = NormalMasking(mean=0.55, least=case.config.get("mask_ratio_min", 0.5), drop="least")
    return masking.hide(rate, noise)


def batch_of(tokens: Tensor, found: Masks) -> MaskedBatch:
    return MaskedBatch(tokens, found.masked, None, 1 / found.masked.sum(), found.kept)


def with_slot(mask: Tensor) -> Tensor:
    """``(B, 1 + L)``: the class slot is never hidden."""
    return F.pad(mask, (1, 0)).float()


def encode(model: MaskedModel, canvas: Canvas) -> Tensor:
    """The encoder's features of what it sees."""
    x, _ = model.embed(canvas)
    return model.trunk.encode(take(x, model.trunk.kept(canvas)), canvas.masked)


def gradients(model: MaskedModel) -> dict[str, Tensor]:
    own = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {f"grad:{key}": value for key, value in to_source(own, TABLE).items()}


def pretrain_forward(case: Case) -> dict[str, Tensor]:
    model, tokens = network(case), case.input("token_indices")
    found = masks(case, case.input("noise"), case.input("mask_rate"))
    assert found.kept is not None
    length = tokens.shape[1]
    dropped = torch.ones_like(found.masked).scatter(1, found.kept, False)
    canvas = Canvas(tokens, found.masked, found.kept)
    hidden = model.hidden(canvas, None)
    logits = model.head.logits(torch.cat([hidden.prefix, hidden.tokens], 1))
    ids = F.pad(tokens, (1, 0), value=model.head.codes + SLOT)
    share = smoothing(case)
    each = model.head.loss(hidden.tokens.flatten(0, 1), tokens.flatten(), label_smoothing=share)
    loss = MaskedObjective(model, label_smoothing=share)(batch_of(tokens, found))["loss"]
    loss.backward()
    outputs = gradients(model)
    assert not set(case.names("grad:*")) - outputs.keys()
    own = {key.removeprefix("grad:") for key in outputs}
    trained = set(split_tokenizer(case.weights())[0]) - {"token_emb.position_ids"}
    assert trained - own == set(case.spec.get("parameters_without_gradient", trained - own))
    return {
        "num_dropped": torch.tensor(length - found.kept.shape[1]),
        "num_masked": found.masked[0].sum(),
        "drop_mask": with_slot(dropped),
        "all_mask": with_slot(found.masked),
        "encoder_ids": ids.masked_fill(with_slot(found.masked) != 0, model.head.codes + CLASS_ROWS),
        "latent": encode(model, canvas),
        "logits": logits,
        "loss_per_position": each.view_as(tokens),
        "loss": loss,
        **outputs,
    }


def pretrain_from_images(case: Case) -> dict[str, Tensor]:
    with torch.no_grad():
        tokens = tokenizer(case).encode(case.input("images"))
    found = masks(case, case.input("noise"), case.input("mask_rate"))
    objective = MaskedObjective(network(case), label_smoothing=smoothing(case))
    return {
        "token_indices": tokens,
        "all_mask": with_slot(found.masked),
        "loss": objective(batch_of(tokens, found))["loss"],
    }


class Replay(nn.Module):
    """Dropout with a recorded mask."""

    def __init__(self, keep: Tensor, rate: float) -> None:
        super().__init__()
        self.keep, self.rate = keep, rate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.keep / (1 - self.rate)


class PlainAttention(Attention):
    """Attention written out, so that its probabilities can be dropped by a recorded mask."""

    replay: Replay

    def forward(self, x: Tensor, read: Tensor | None = None, extra: Tensor | None = None) -> Tensor:
        q, k, v = map(self.split, self.qkv(x).chunk(3, dim=-1))  # (B, H, S, D / H) each
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (B, H, S, S)
        mixed = self.merge(self.replay(scores.softmax(-1)) @ v)  # (B, S, D)
        return mixed if read is None else take(mixed, read)


def replay_dropout(case: Case, model: MaskedModel) -> None:
    """Put the recorded masks in the place of every dropout."""
    rate, left = case.config["dropout"], set(case.names("keep:*"))

    def recorded(name: str, dropout: float) -> Replay:
        assert dropout == rate, name
        left.discard(f"keep:{name}")
        return Replay(case.input(f"keep:{name}"), rate)

    model.embed.dropout = recorded("token_emb.dropout.0", model.embed.dropout.p)
    for half, blocks in (("blocks", model.trunk.encoder), ("decoder_blocks", model.trunk.decoder)):
        for index, block in enumerate(blocks):
            name, attention, mlp = f"{half}.{index}", block.attention, block.feed_forward
            attention.__class__ = PlainAttention
            attention.replay = recorded(f"{name}.attn.attn_drop.0", attention.dropout)
            attention.output_dropout = recorded(
                f"{name}.attn.proj_drop.0", attention.output_dropout.p
            )
            mlp.inner_dropout = recorded(f"{name}.mlp.drop.0", mlp.inner_dropout.p)
            mlp.dropout = recorded(f"{name}.mlp.drop.1", mlp.dropout.p)
    assert not left, f"no dropout for {sorted(left)}"


class EveryPosition(nn.Module):
    """Reads all positions, because the recorded masks are of all."""

    def __init__(self, model: MaskedModel) -> None:
        super().__init__()
        self.model, self.head = model, model.head

    def hidden(self, canvas: Canvas, labels: Tensor | None, read: Tensor) -> object:
        hidden = self.model.hidden(canvas, labels)
        return hidden._replace(tokens=take(hidden.tokens, read))


def pretrain_dropout(case: Case) -> dict[str, Tensor]:
    model = network(case).train()
    replay_dropout(case, model)
    found = masks(case, case.input("noise"), case.input("mask_rate"))
    objective = MaskedObjective(EveryPosition(model), label_smoothing=smoothing(case))
    loss = objective(batch_of(case.input("token_indices"), found))["loss"]
    loss.backward()
    outputs = gradients(model)
    assert not set(case.names("grad:*")) - outputs.keys()
    return {"all_mask": with_slot(found.masked), "loss": loss, **outputs}


def check_pretrain_groups(groups: Mapping[str, list[str]], model: MaskedModel) -> None:
    """The source's two groups, less what it never uses."""
    training = Training(steps=1, weight_decay=0.05, decay_only_matrices=True)
    names = {p: next(iter(to_source({n: p}, TABLE))) for n, p in model.named_parameters()}
    ours = parameter_groups(model, training)
    found = {g["weight_decay"]: {names[p] for p in g["params"]} for g in ours}
    assert found.keys() == {0.0, 0.05}
    golden = {0.0: set(groups["no_decay"]), 0.05: set(groups["decay"])}
    for decay, keys in found.items():
        unused = golden[decay] - keys
        assert keys <= golden[decay], keys - golden[decay]
        assert all(key.startswith(UNUSED) for key in unused), unused


UNUSED = ("cls_token", "mask_token", "patch_embed.", "decoder_pred.")


def pretrain_steps(case: Case) -> dict[str, Tensor]:
    """The training loop's own steps, so many an epoch that fractions of epochs are whole."""
    config, model = case.config, network(case)
    assert config.get("optimizer", "AdamW") == "AdamW"
    epochs = case.input("epoch").tolist()
    each = whole_steps(config["epochs"], config["warmup_epochs"])
    training = Training(
        steps=round(config["epochs"] * each),
        lr=config["base_lr_absolute"],
        min_lr=config.get("min_lr", 0.0),
        warmup_steps=round(config["warmup_epochs"] * each),
        betas=tuple(config.get("betas", (0.9, 0.95))),
        eps=config.get("eps", 1e-8),
        weight_decay=config["weight_decay"],
        decay_only_matrices=True,
        clip_grad_norm=config.get("grad_clip"),
        label_smoothing=smoothing(case),
        ema=None,
    )
    if "parameter_groups" in case.spec:
        check_pretrain_groups(case.spec["parameter_groups"], model)
    # without dropout: the network stays in evaluation
    objective = MaskedObjective(model, label_smoothing=smoothing(case))
    optimizer, steps = make_optimizer(objective, training), [e * each for e in epochs]
    batches = [
        batch_of(tokens, masks(case, noise, rate))
        for tokens, noise, rate in zip(
            *map(case.input, ("token_indices", "noise", "mask_rate")), strict=True
        )
    ]
    values = [
        optimise_step(
            objective,
            [batch],
            optimizer=optimizer,
            settings=training,
            step=step,
            accelerator=Accelerator(cpu=True),
        )
        for batch, step in zip(batches, steps, strict=True)
    ]
    after = to_source({k: v.detach() for k, v in model.state_dict().items()}, TABLE)
    outputs: dict[str, Tensor] = {}
    for name in case.names("param:*"):
        key = name.removeprefix("param:")
        rows = case.tensors[name].shape[0] if "word_embeddings" in key else None
        # what the network never uses is left as it was, there; here there is no such thing
        outputs[name] = case.weights()[key] if key.startswith(UNUSED) else after[key][:rows]
    if training.clip_grad_norm is not None:
        outputs["grad_norm"] = torch.stack([v["grad_norm"] for v in values]).double()
    return {
        "lr": torch.tensor([learning_rate(training, s) for s in steps], dtype=torch.float64),
        "loss": torch.stack([v["loss"] for v in values]).double(),
        "final_loss": objective(batches[0])["loss"],
        **outputs,
    }


class Seen(NamedTuple):
    """One step taken apart."""

    logits: Tensor
    """``(B, L, K)``."""
    probs: Tensor
    """``(B, L)`` of the drawn ids, inf where known."""
    score: Tensor
    """``(B, L)``."""
    tokens: Tensor
    """``(B, L)`` drawn or known."""
    masked: Tensor
    """``(B, L)`` masked again."""


@torch.inference_mode()
def take_apart(
    model: MaskedModel, canvas: Canvas, plan: Plan, draws: Draws, *, step: int, keep: Tensor
) -> Seen:
    """What one step of the loop computes, from its parts."""
    hidden, length = model.hidden(canvas, None).tokens, canvas.masked.shape[1]
    where = torch.arange(length).expand_as(canvas.tokens)
    drawn = model.head.draw(Reading(hidden, where, length, step), plan.draw, draws)
    assert drawn.log_prob is not None
    at = Moment(step, plan.steps, canvas.masked, None, drawn.log_prob)
    score = plan.order.score(at, draws).masked_fill(~canvas.masked, KNOWN)
    return Seen(
        logits=model.head.code_logits(hidden),
        probs=torch.where(canvas.masked, drawn.log_prob.exp(), KNOWN),
        score=score,
        tokens=torch.where(canvas.masked, drawn.values, canvas.tokens),
        masked=lowest(score, keep),
    )


def plan_of(case: Case) -> Plan:
    config = case.config
    case.aside("mask_ratio_min")  # of training
    return Plan(
        steps=config["num_iter"],
        counts=FixedCounts(curve=config.get("schedule", "cosine"), least=1),
        order=Confidence(temperature=config["choice_temperature"]),
    )


def tape_of(token: Tensor, order: Tensor) -> Tape:
    """Gumbel numbers, ``(S, B, L, K)`` and ``(S, B, L)``; a token's as those of a race."""
    return Tape({"token": torch.exp(-token.double()), "order": order}, token.shape[1])


def temperature(plan: Plan, step: int) -> float:
    assert isinstance(plan.order, Confidence)
    return plan.order.temperature_at(step, plan.steps)


def gen_step(case: Case) -> dict[str, Tensor]:
    model, plan, step = network(case), plan_of(case), int(case.input("step"))
    ids, mask_id = case.input("tokens_in"), model.head.codes + CLASS_ROWS
    canvas = Canvas(ids.masked_fill(ids == mask_id, 0), ids == mask_id)
    # The source counts by the whole grid, and by the first image alone.
    whole = blank_canvas(1, ids.shape[1]).masked
    share = plan.counts.table(plan.steps, 0, whole, Draws([0]))[step]
    keep = torch.minimum(share, canvas.masked[:1].sum(1) - 1).clamp(min=1)
    noise = [case.input(n).expand(plan.steps, *case.input(n).shape) for n in NOISE]
    seen = take_apart(model, canvas, plan, tape_of(*noise), step=step, keep=keep.expand(len(ids)))
    return {
        "logits": seen.logits,
        "selected_probs": seen.probs,
        "confidence": seen.score,
        "mask_len": keep[0],
        "temperature": torch.tensor(temperature(plan, step), dtype=torch.float64),
        "masking": seen.masked,
        "tokens_out": seen.tokens.masked_fill(seen.masked, mask_id),
    }


NOISE = ("token_gumbel", "confidence_gumbel")


def trajectory(
    model: MaskedModel, plan: Plan, draws: Draws, *, batch: int, length: int
) -> Iterator[tuple[Canvas, Seen]]:
    """The loop's steps, each beside the same taken apart."""
    canvas = blank_canvas(batch, length)
    counts = plan.counts.table(plan.steps, 0, canvas.masked, draws)
    for step in decode(model, None, plan, draws, canvas):
        seen = take_apart(model, canvas, plan, draws, step=step.index, keep=counts[step.index])
        assert torch.equal(seen.tokens, step.tokens)
        last = step.index == plan.steps - 1  # where the source masks one for nothing
        assert not step.masked.any() if last else torch.equal(seen.masked, step.masked)
        yield canvas, seen
        canvas = Canvas(step.tokens, step.masked)


def gen_trajectory(case: Case) -> dict[str, Tensor]:
    model, plan = network(case), plan_of(case)
    tape = tape_of(*map(case.input, NOISE))
    batch, length = case.input(NOISE[1]).shape[1:]
    before, seen = zip(*trajectory(model, plan, tape, batch=batch, length=length), strict=True)
    mask_id = model.head.codes + CLASS_ROWS
    every = range(plan.steps)
    return {
        **({"images": painted(case, seen[-1].tokens)} if case.has("images") else {}),
        "tokens_in": torch.stack([c.tokens.masked_fill(c.masked, mask_id) for c in before]),
        "mask_len": torch.stack([s.masked[0].sum() for s in seen]),
        "selected_probs": torch.stack([s.probs for s in seen]),
        "masking": torch.stack([s.masked for s in seen]),
        "temperature": torch.tensor([temperature(plan, s) for s in every], dtype=torch.float64),
        "final_ids": seen[-1].tokens,
        "logits": torch.stack([seen[0].logits, seen[-1].logits]),
    }


@torch.inference_mode()
def painted(case: Case, ids: Tensor) -> Tensor:
    """The tokenizer's images of ``(B, L)`` ids, unclamped."""
    made = tokenizer(case)
    placed = ids.unflatten(1, grid_of(case.config, ids.shape[1]))
    return made.render(made.quantizer.lookup(placed))


def gen_seeded(case: Case) -> dict[str, Tensor]:
    """The source's own streams: torch's race for the tokens, numpy's Gumbel noise."""
    config, model, plan = case.config, network(case), plan_of(case)
    shape = (config["batch"], model.length)
    results = []
    for seed in case.input("seed").tolist():
        torch_stream, numpy_stream = (
            torch.Generator().manual_seed(seed),
            np.random.RandomState(seed),
        )
        race, noise = [], []
        for step in range(plan.steps):
            flat = torch.empty(shape[0] * shape[1], model.head.codes)
            race.append(flat.exponential_(1, generator=torch_stream).view(*shape, -1))
            gumbel = temperature(plan, step) * numpy_stream.gumbel(size=shape)
            scale = temperature(plan, step) or 1.0
            noise.append(torch.tensor(gumbel).float() / scale)
        tape = Tape({"token": torch.stack(race), "order": torch.stack(noise)}, shape[0])
        *_, last = decode(model, None, plan, tape, blank_canvas(*shape))
        results.append(last.tokens)
    found = torch.stack(results)
    if config["torch"] == torch.__version__:
        assert torch.equal(found, case.tensors["final_ids"])
    return {"final_ids": found}


def check_mask_rates(spec: Mapping) -> None:
    """The distribution of mask rates, and how many tokens they hide and drop."""
    rule = spec["tolerance"]
    for table in spec["mask_rate"].values():
        masking = NormalMasking(mean=table["mu"], std=table["std"], least=table["min"],
                                most=table["max"], drop="least")  # fmt: skip
        u, wanted = torch.tensor(table["ppf"], dtype=torch.float64).unbind(1)
        torch.testing.assert_close(masking.ratio(u), wanted, **tolerances(rule))
        first = torch.tensor(table["first_five_after_numpy_seed_0"], dtype=torch.float64)
        drawn = torch.from_numpy(np.random.RandomState(0).uniform(size=len(first)))
        torch.testing.assert_close(masking.ratio(drawn), first, **tolerances(rule))
        fine = masking.ratio((torch.arange(1_000_000, dtype=torch.float64) + 0.5) / 1_000_000)
        assert abs(float(fine.mean()) - table["mean"]) < 1e-8
        for name in (n for n in table if n.startswith("mean_num_masked_")):
            length = int(name.removeprefix("mean_num_masked_"))
            masked = float((fine * length).ceil().mean())
            assert abs(masked - table[name]) < 1.0, (name, masked)  # drawn, there
        assert abs(float(fine.std()) - table["std_of_truncated"]) < 1e-6
    for row in spec["num_masked"]:
        score = torch.rand(2, row["seq_len"], generator=torch.Generator().manual_seed(0))
        for least, dropped in row["num_dropped_for_min"].items():
            masking = NormalMasking(mean=0.55, least=float(least), drop="least")
            found = masking.hide(torch.tensor(row["rate"], dtype=torch.float64), score)
            assert found.masked.sum(1).tolist() == [row["num_masked"]] * 2
            assert found.kept is not None
            assert found.kept.shape[1] == row["seq_len"] - dropped


def tolerances(rule: Mapping) -> dict[str, float]:
    return {"atol": rule["atol"], "rtol": rule["rtol"]}


def check_remask_counts(spec: Mapping) -> None:
    """How many tokens stay masked after each step, with and without the least of one."""
    for name, wanted in spec["mask_len"].items():
        length, steps = map(int, name.split("x"))
        canvas = blank_canvas(1, length).masked
        found = FixedCounts(least=1).table(steps, 0, canvas, Draws([0]))
        assert found[:, 0].tolist() == wanted, name
    for name, wanted in spec["cosine_floor_unclamped"].items():
        length, steps = map(int, name.split("x"))
        canvas = blank_canvas(1, length).masked
        assert FixedCounts().table(steps, 0, canvas, Draws([0]))[:, 0].tolist() == wanted, name


HANDLERS = {
    "mage.pretrain_forward": pretrain_forward,
    "mage.pretrain_from_images": pretrain_from_images,
    "mage.pretrain_dropout": pretrain_dropout,
    "mage.pretrain_steps": pretrain_steps,
    "mage.gen_step": gen_step,
    "mage.gen_trajectory": gen_trajectory,
    "mage.gen_seeded": gen_seeded,
}
