"""MAGE downstream: features, probe head, fine-tuning, mixing, crops, rates, layer decay."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from golden import Case
from handlers.mage import check_mask_rates, check_pretrain_groups, check_remask_counts
from handlers.mar import whole_steps
from torch import Tensor, nn

from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.data.crops import clipped_box
from unmask.image_size import checked_size, height_width
from unmask.nn.embed import SLOT
from unmask.probe.classifier import sizes_of, table_of
from unmask.probe.encoder import (
    Encoder,
    EncoderSizes,
    Pool,
    TokenClassifier,
    build_head,
    initialize_head,
    resize_positions,
)
from unmask.probe.finetune import layer_decay_groups
from unmask.probe.linear import LARS
from unmask.probe.mixing import MixPlan, mix, mix_targets, soft_targets
from unmask.probe.training import ClassifierObjective
from unmask.projects.mage import split_tokenizer
from unmask.recipes import RECIPES
from unmask.recipes.training import Training
from unmask.tokenizers.image_tokenizer import ImageTokenizer
from unmask.tokenizers.published import translate
from unmask.train.loop import optimise_step
from unmask.train.optim import learning_rate

OTHER_NORM = {"mean": "norm.", "class": "fc_norm."}  # the file holds both variants


def classifier(case: Case, pool: Pool) -> TokenClassifier:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    vit, _ = split_tokenizer(case.weights())
    vit = {key: t for key, t in vit.items() if not key.startswith(OTHER_NORM[pool])}
    own = to_own(vit, table_of(pool), case.name)
    grid = height_width(checked_size(config["grid"]))
    sizes = sizes_of(own, case.name, heads=config["num_heads"], grid=grid)
    case.told(codebook_size=sizes.codes, embed_dim=sizes.width, depth=sizes.depth)
    case.told(fake_class_label=sizes.codes + SLOT, num_classes=len(own["head.weight"]))
    case.aside("vit_img_size", "patch_size")  # of timm's patches, which nothing uses
    assert sizes.feed_forward == int(sizes.width * config.get("mlp_ratio", 4.0))
    encoder = Encoder(sizes, pool=pool)
    model = TokenClassifier(encoder, build_head(sizes.width, len(own["head.weight"]), normed=False))
    load_state(model, own, case.name)
    for norm in (m for m in encoder.modules() if isinstance(m, nn.LayerNorm)):
        norm.eps = norm.eps if norm is encoder.embed.norm else config.get("norm_eps", norm.eps)
    return model.eval()


def pools(case: Case) -> dict[str, Pool]:
    """The variants whose last norm is in the file."""
    found = {"pool": ("mean", "fc_norm.weight"), "cls": ("class", "norm.weight")}
    return {name: pool for name, (pool, key) in found.items() if key in case.weights()}


def tokenizer(case: Case) -> ImageTokenizer:
    network, state = translate(split_tokenizer(case.weights())[1], {}, case.name)
    made = network.build()
    load_state(made, state, case.name)
    return made.eval()


@torch.inference_mode()
def probe_features(case: Case) -> dict[str, Tensor]:
    codes, images = case.input("token_indices"), case.maybe("images")
    outputs: dict[str, Tensor] = {}
    if images is not None:
        outputs["image_tokens"] = tokenizer(case).encode(images)
    for name, pool in pools(case).items():
        model = classifier(case, pool)
        outputs[f"features_{name}"] = model.encoder(codes)
        outputs[f"logits_{name}"] = model(codes)
        if images is not None:
            outputs[f"image_features_{name}"] = model.encoder(outputs["image_tokens"])
    return outputs


def probe_head_steps(case: Case) -> dict[str, Tensor]:
    """The training loop's own step with LARS."""
    config, features, labels = case.config, case.input("features"), case.input("labels")
    assert config.get("optimizer", "LARS") == "LARS"
    assert not config.get("bn_affine", False)
    head = build_head(features.shape[-1], config["num_classes"], normed=True)
    norm, linear = head
    norm.eps, norm.momentum = config.get("bn_eps", 1e-6), config.get("bn_momentum", 0.1)
    initialize_head(head, torch.Generator())
    linear.weight.data.copy_(case.input("init_weight"))
    if case.has("init_bias"):
        linear.bias.data.copy_(case.input("init_bias"))
    optimizer = LARS(
        head.parameters(),
        lr=config["lr"],
        weight_decay=config.get("weight_decay", 0.0),
        momentum=config.get("momentum", 0.9),
        trust=config.get("trust_coefficient", 0.001),
    )
    objective = ClassifierObjective(
        head, nn.Identity(), batch_size=features.shape[1], optimizer=lambda _: optimizer
    )
    epochs = case.input("epoch").tolist()
    each = whole_steps(config["epochs"], config["warmup_epochs"])
    training = course(config, each)
    rates, losses = [], []
    for part, truth, epoch in zip(features, labels, epochs, strict=True):
        rates.append(learning_rate(training, epoch * each))
        values = optimise_step(
            objective,
            [(part, truth)],
            optimizer=optimizer,
            settings=Training(steps=1, lr=rates[-1], schedule="constant"),
            step=0,
            accelerator=Accelerator(cpu=True),
        )
        losses.append(values["loss"])
    return {
        "lr": torch.tensor(rates, dtype=torch.float64),
        "loss": torch.stack(losses).double(),
        "weight": linear.weight,
        "bias": linear.bias,
        "running_mean": norm.running_mean,
        "running_var": norm.running_var,
        "eval_logits": head.eval()(features[0]),
    }


def course(config: Mapping[str, float], each: int) -> Training:
    """A schedule of ``each`` steps an epoch."""
    return Training(
        steps=round(config["epochs"] * each),
        lr=config["lr"],
        min_lr=config.get("min_lr", 0.0),
        warmup_steps=round(config["warmup_epochs"] * each),
    )


class Replay(nn.Module):
    """Dropout with recorded masks, one a call."""

    def __init__(self, masks: list[Tensor], rate: float) -> None:
        super().__init__()
        self.masks, self.rate = masks, rate

    def forward(self, x: Tensor) -> Tensor:
        keep = self.masks.pop(0)
        return x * keep.view(*keep.shape, *[1] * (x.ndim - keep.ndim)) / (1 - self.rate)


def finetune_forward(case: Case) -> dict[str, Tensor]:
    config = case.config
    pool: Pool = "mean" if config.get("global_pool", True) else "class"
    model = classifier(case, pool).train()
    encoder, rates = model.encoder, config["drop_path_per_block"]
    encoder.set_drop_path(config["drop_path_rate"])
    dropout = config.get("embedding_dropout", encoder.embed.dropout.p)
    kept = case.maybe("keep:token_emb.dropout")
    assert (kept is None) == (dropout == 0)
    encoder.embed.dropout = nn.Identity() if kept is None else Replay([kept], dropout)
    for index, (block, rate) in enumerate(zip(encoder.blocks, rates, strict=True)):
        assert abs(block.drop_path.p - rate) < 1e-6
        masks = [case.input(name) for name in case.names(f"keep:blocks.{index}.drop_path.*")]
        assert bool(masks) == (rate > 0)
        if masks:
            block.drop_path = Replay(masks, rate)
    logits = model(case.input("token_indices"))
    lam = case.maybe("lam")
    share = torch.ones(1) if lam is None else lam.float().view(1)
    smoothing = config.get("smoothing", 0.0)
    hard = soft_targets(case.input("labels"), logits.shape[1], smoothing=smoothing)
    targets = mix_targets(hard, share)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    own = {name: p.grad for name, p in model.named_parameters()}
    gradients = {f"grad:{k}": g for k, g in to_source(own, table_of(pool)).items()}
    for name in (n for n in case.names("grad:*") if "word_embeddings" in n):
        gradients[name] = gradients[name][: len(case.tensors[name])]  # the rows that are used
    assert not set(case.names("grad:*")) - gradients.keys()
    return {
        "targets": targets,
        "logits": logits,
        "loss": loss,
        "loss_label_smoothing": F.cross_entropy(logits, hard),
        **gradients,
    }


def mixup(case: Case) -> dict[str, Tensor]:
    config, realised = case.config, case.config["realised"]
    case.aside("mixup_alpha", "cutmix_alpha")  # of the draws, which are given
    assert config.get("mode", "batch") == "batch"
    outputs: dict[str, Tensor] = {}
    smoothing = config.get("smoothing", 0.0)
    hard = soft_targets(case.input("labels"), config["num_classes"], smoothing=smoothing)
    for name, drawn in realised.items():
        box = torch.tensor([drawn.get("bbox", [0, 0, 0, 0])])
        drawn.read.add("raw")  # the share before the box is cut
        share = torch.ones(1) if "bbox" in drawn else torch.tensor([drawn["lam"]])
        images, share = mix(case.input("images"), MixPlan(share, box))
        assert abs(float(share) - drawn["lam"]) < 1e-6
        outputs |= {f"{name}_images": images, f"{name}_targets": mix_targets(hard, share)}
    return outputs


def check_rates(case: Case) -> None:
    """The learning rates of the schedules case."""
    rule = case.spec["tolerance"]
    for name, table in case.spec["lr"].items():
        each = whole_steps(table["epochs"], table["warmup_epochs"])
        for epoch, rate in table["at"]:
            ours = learning_rate(course(table, each), epoch * each)
            assert abs(ours - rate) <= rule["atol"] + rule["rtol"] * rate, (name, epoch, ours)


def check_crops(case: Case) -> None:
    """The crop geometry of the schedules case; areas, shapes and places replay its seeds."""
    for crop in case.spec["crop"]:
        stream = torch.Generator().manual_seed(crop["seed"])
        box = clipped_box(crop["width"], crop["height"], stream)
        assert box == (crop["top"], crop["left"], crop["crop_height"], crop["crop_width"]), crop


def schedules(case: Case) -> dict[str, Tensor]:
    check_rates(case)
    check_crops(case)
    check_mask_rates(case.spec)
    check_remask_counts(case.spec)
    case.leave("sincos_*")  # the fixed table that MAGE keeps in its files and never uses
    outputs: dict[str, Tensor] = {}
    grids = {grid_in(name): name for name in case.names("pos_embed_grid*")}
    largest = max(grids, key=math.prod)
    table = case.input(grids[largest])[0]
    for grid, name in grids.items():
        outputs[name] = resize_positions(table, largest, grid)[None]
    return outputs


def grid_in(name: str) -> tuple[int, int]:
    """Rows and columns in a name such as ``pos_embed_grid4`` or ``pos_embed_grid3x5``."""
    rows, _, columns = name.removeprefix("pos_embed_grid").partition("x")
    return int(rows), int(columns or rows)


def param_groups(case: Case) -> dict[str, Tensor]:
    """The fine-tuning's groups; what timm brings along and nothing uses is not ours."""
    spec = case.spec
    for name in (n for n in spec if n.startswith("finetune_")):
        spec[name].values()  # "cls_differences" too, whose decay is in the prose alone
    spec.read.add("group_order")  # the same once more, counted
    for name in (n for n in spec if re.fullmatch(r"finetune_vit_[a-z]+", n)):
        check_groups(spec[name], spec["layer_decay"], spec["weight_decay"])
    for name in (n for n in spec if n.startswith("pretrain_")):
        size = name.removeprefix("pretrain_vit_")
        with torch.device("meta"):
            check_pretrain_groups(spec[name], RECIPES[f"mage-{size}"].network.build())
    return {}


def check_groups(golden: Mapping[str, list[float]], layer_decay: float, decay: float) -> None:
    blocks = [int(found[1]) for n in golden if (found := re.match(r"blocks\.(\d+)\.", n))]
    pool: Pool = "mean" if "fc_norm.weight" in golden else "class"
    with torch.device("meta"):
        sizes = EncoderSizes(depth=max(blocks) + 1)
        model = TokenClassifier(Encoder(sizes, pool=pool), build_head(768, 1000, normed=False))
    groups = layer_decay_groups(model, layer_decay=layer_decay, weight_decay=decay)
    found = {p: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    source = to_source(dict(model.named_parameters()), table_of(pool))
    ours = {key: found[p] for key, p in source.items()}
    unused = ("cls_token", "pos_embed", "patch_embed.")
    assert ours.keys() == {key for key in golden if not key.startswith(unused)}
    for key, (scale, weight_decay) in ours.items():
        assert weight_decay == golden[key][1], key
        assert abs(scale - golden[key][0]) <= 1e-12 * golden[key][0], key


HANDLERS = {
    "mage.probe_features": probe_features,
    "mage.probe_head_steps": probe_head_steps,
    "mage.finetune_forward": finetune_forward,
    "mage.mixup": mixup,
    "mage.schedules": schedules,
    "mage.param_groups": param_groups,
}
