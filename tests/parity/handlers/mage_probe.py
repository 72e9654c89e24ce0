"""MAGE downstream: features, probe head, fine-tuning, mixing, crops, rates, layer decay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from golden import Case
from handlers.mage import check_mask_rates, check_pretrain_groups, check_remask_counts
from torch import Tensor, nn

from unmask.checkpoints.mage import split_tokenizer
from unmask.checkpoints.names import to_own, to_source
from unmask.checkpoints.store import load_state
from unmask.checkpoints.vit import sizes_of, table_of
from unmask.data.resized_crop import clipped_box
from unmask.probe.classifier import TokenClassifier, build_head, initialize_head
from unmask.probe.encoder import Encoder, EncoderSizes, Pool, resize_positions
from unmask.probe.lars import LARS
from unmask.probe.layer_decay import layer_decay_groups
from unmask.probe.mixing import MixPlan, mix, mix_targets, soft_targets
from unmask.probe.objective import ClassifierObjective
from unmask.recipes import RECIPES
from unmask.tokenizers.published import build, translate
from unmask.tokenizers.vq_tokenizer import VQTokenizer
from unmask.train.loop import optimise_step
from unmask.train.optim import learning_rate
from unmask.train.settings import Training

OTHER_NORM = {"mean": "norm.", "class": "fc_norm."}  # the file holds both variants


def classifier(case: Case, pool: Pool) -> TokenClassifier:
    """The case's network with its weights, in evaluation mode."""
    config = case.config
    vit, _ = split_tokenizer(case.weights())
    vit = {key: t for key, t in vit.items() if not key.startswith(OTHER_NORM[pool])}
    own = to_own(vit, table_of(pool), case.name)
    sizes = sizes_of(own, case.name, heads=config["num_heads"], grid=(config["grid"],) * 2)
    assert (sizes.codes, sizes.depth) == (config["codebook_size"], config["depth"])
    assert sizes.feed_forward == int(sizes.width * config["mlp_ratio"])
    encoder = Encoder(sizes, pool=pool)
    assert encoder.norm.eps == config["norm_eps"]
    model = TokenClassifier(encoder, build_head(sizes.width, config["num_classes"], normed=False))
    load_state(model, own, case.name)
    return model.eval()


def tokenizer(case: Case) -> VQTokenizer:
    network, state = translate(split_tokenizer(case.weights())[1], {}, case.name)
    made = build(network)
    load_state(made, state, case.name)
    return made.eval()


@torch.inference_mode()
def probe_features(case: Case) -> dict[str, Tensor]:
    codes, outputs = case.input("token_indices"), dict[str, Tensor]()
    image_codes = tokenizer(case).encode(case.input("images"))
    for name, pool in (("pool", "mean"), ("cls", "class")):
        model = classifier(case, pool)
        outputs[f"features_{name}"] = model.encoder(codes)
        outputs[f"logits_{name}"] = model(codes)
        outputs[f"image_features_{name}"] = model.encoder(image_codes)
    return {**outputs, "image_tokens": image_codes}


def probe_head_steps(case: Case) -> dict[str, Tensor]:
    """The training loop's own step with LARS."""
    config, features, labels = case.config, case.input("features"), case.input("labels")
    assert config["optimizer"] == "LARS"
    assert not config["bn_affine"]
    head = build_head(features.shape[-1], config["num_classes"], normed=True)
    norm, linear = head
    assert (norm.eps, norm.momentum) == (config["bn_eps"], config["bn_momentum"])
    initialize_head(head, torch.Generator())
    linear.weight.data.copy_(case.input("init_weight"))
    optimizer = LARS(
        head.parameters(),
        lr=config["lr"],
        weight_decay=config["weight_decay"],
        momentum=config["momentum"],
        trust=config["trust_coefficient"],
    )
    objective = ClassifierObjective(
        head, nn.Identity(), batch_size=features.shape[1], optimizer=lambda _: optimizer
    )
    rate = partial(learning_rate, course(config))
    rates, losses = [], []
    for part, truth, epoch in zip(features, labels, case.input("epoch").tolist(), strict=True):
        rates.append(rate(epoch))
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


def course(config: Mapping) -> Training:
    """A schedule whose steps are epochs; fractions of a step are fractions of an epoch."""
    return Training(
        steps=config["epochs"],
        lr=config["lr"],
        min_lr=config.get("min_lr", 0.0),
        warmup_steps=config["warmup_epochs"],
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
    pool: Pool = "mean" if config["global_pool"] else "class"
    model = classifier(case, pool).train()
    encoder, rates = model.encoder, config["drop_path_per_block"]
    encoder.set_drop_path(config["drop_path_rate"])
    assert encoder.embed.dropout.p == config["embedding_dropout"]
    encoder.embed.dropout = Replay(
        [case.input("keep:token_emb.dropout")], config["embedding_dropout"]
    )
    for index, (block, rate) in enumerate(zip(encoder.blocks, rates, strict=True)):
        assert abs(block.drop_path.p - rate) < 1e-6
        masks = [case.input(name) for name in case.names(f"keep:blocks.{index}.drop_path.*")]
        assert bool(masks) == (rate > 0)
        if masks:
            block.drop_path = Replay(masks, rate)
    logits = model(case.input("token_indices"))
    share = case.input("lam").float().view(1)
    hard = soft_targets(case.input("labels"), logits.shape[1], smoothing=config["smoothing"])
    targets = mix_targets(hard, share)
    loss = F.cross_entropy(logits, targets)
    loss.backward()
    own = {name: p.grad for name, p in model.named_parameters()}
    rows = config["codebook_size"] + 77
    gradients = {f"grad:{k}": g for k, g in to_source(own, table_of(pool)).items()}
    gradients = {k: g[:rows] if "word_embeddings" in k else g for k, g in gradients.items()}
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
    assert config["mode"] == "batch"
    plans = {
        "mixup": MixPlan(torch.tensor([realised["mixup"]["lam"]]), torch.zeros(1, 4).long()),
        "cutmix": MixPlan(torch.ones(1), torch.tensor([realised["cutmix"]["bbox"]])),
    }
    outputs: dict[str, Tensor] = {}
    hard = soft_targets(case.input("labels"), config["num_classes"], smoothing=config["smoothing"])
    for name, plan in plans.items():
        images, share = mix(case.input("images"), plan)
        assert abs(float(share) - realised[name]["lam"]) < 1e-6
        outputs |= {f"{name}_images": images, f"{name}_targets": mix_targets(hard, share)}
    return outputs


def check_rates(case: Case) -> None:
    """The learning rates of the schedules case."""
    rule = case.spec["tolerance"]
    for name, table in case.spec["lr"].items():
        settings = course(table)
        for epoch, rate in table["at"]:
            ours = learning_rate(settings, epoch)
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
    grids = {int(n.removeprefix("pos_embed_grid")): n for n in case.names("pos_embed_grid*")}
    largest = max(grids)
    table = case.input(grids[largest])[0]
    for side, name in grids.items():
        outputs[name] = resize_positions(table, (largest,) * 2, (side,) * 2)[None]
    return outputs


def param_groups(case: Case) -> dict[str, Tensor]:
    """The fine-tuning's groups; what timm brings along and nothing uses is not ours."""
    spec = case.spec
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
