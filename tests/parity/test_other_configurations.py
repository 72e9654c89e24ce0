"""The handlers on configurations that no recorded case has.

What is expected is computed here once more, from the description of each network in plain tensor
operations, at grids that are not square, other depths, heads, codes, batches and patches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from golden import Case, find_cases, find_handlers
from safetensors.torch import save_file
from torch import Tensor

from unmask.draws import keyed_generator

State = dict[str, Tensor]


def made(folder: Path, kind: str, config: dict, weights: State, io: State, **more: object) -> Case:
    """A case on disk as the recorded ones are."""
    spec = {"kind": kind, "config": config, "tolerance": {"atol": 2e-5, "rtol": 1e-5}, **more}
    (folder / "other.json").write_text(json.dumps(spec))
    for part, tensors in (("weights", weights), ("io", io)):
        apart = {k: v.clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
        save_file(apart, folder / f"other.{part}.safetensors")
    (case,) = find_cases(folder)
    return case


def check(case: Case) -> None:
    """The handler computes what was expected, reads all that was configured, and returns all."""
    outputs = find_handlers()[case.kind](case)
    case.check(outputs)
    assert case.unread() == []
    assert set(case.tensors) == case.used, "some tensor was neither read nor compared"


class Weights:
    """Random ones by name, in the order in which they are asked for."""

    def __init__(self, key: str) -> None:
        self.state: State = {}
        self.generator = keyed_generator("other configurations", key)

    def __call__(self, name: str, *shape: int, mean: float = 0.0) -> None:
        """Make one."""
        self.state[name] = torch.randn(shape, generator=self.generator) * 0.2 + mean

    def linear(self, name: str, wide: int, narrow: int, *, bias: bool = True) -> None:
        """Make a matrix from ``narrow`` to ``wide`` numbers."""
        self(f"{name}.weight", wide, narrow)
        if bias:
            self(f"{name}.bias", wide)

    def norm(self, name: str, width: int) -> None:
        """Make scale and shift."""
        self(f"{name}.weight", width, mean=1.0)
        self(f"{name}.bias", width)


def linear(s: State, name: str, x: Tensor) -> Tensor:
    return x @ s[f"{name}.weight"].T + s.get(f"{name}.bias", torch.zeros(()))


def norm(s: State, name: str, x: Tensor, eps: float) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
    return scaled * s[f"{name}.weight"] + s[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Softmax attention, ``(B, S, D)`` each; the heads are slices of D."""
    parts = []
    for at in q.shape[-1] // heads * torch.arange(heads):
        part = slice(int(at), int(at) + q.shape[-1] // heads)
        scores = q[..., part] @ k[..., part].mT / math.sqrt(q.shape[-1] // heads)
        parts.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(parts, -1)


# maskgit-pytorch ---------------------------------------------------------------------------------


def pytorch_weights(key: str, config: dict) -> State:
    make, d = Weights(key), config["embed_dim"]
    make("pos_emb", 1, config["n_tokens"], d)
    make("token_emb.weight", config["vocab_size"] + 1, d)
    if config["n_classes"]:
        make("class_emb.weight", config["n_classes"] + 1, d)
    for i in range(config["n_layers"]):
        make.norm(f"blocks.{i}.ln1", d)
        make.linear(f"blocks.{i}.attn.qkv", 3 * d, d, bias=False)
        make.linear(f"blocks.{i}.attn.out", d, d)
        make.norm(f"blocks.{i}.ln2", d)
        make.linear(f"blocks.{i}.mlp.0", 4 * d, d)
        make.linear(f"blocks.{i}.mlp.2", d, 4 * d)
    make.norm("classifier.0", d)
    make.linear("classifier.1", config["vocab_size"], d)
    return make.state


def pytorch_logits(s: State, config: dict, ids: Tensor, labels: Tensor | None) -> Tensor:
    x = s["token_emb.weight"][ids] + s["pos_emb"][:, : ids.shape[1]]
    if labels is not None:
        x = torch.cat([s["class_emb.weight"][labels][:, None], x], 1)
    for i in range(config["n_layers"]):
        at = f"blocks.{i}"
        q, k, v = linear(s, f"{at}.attn.qkv", norm(s, f"{at}.ln1", x, 1e-5)).chunk(3, -1)
        x = x + linear(s, f"{at}.attn.out", attend(q, k, v, config["n_heads"]))
        wide = gelu(linear(s, f"{at}.mlp.0", norm(s, f"{at}.ln2", x, 1e-5)))
        x = x + linear(s, f"{at}.mlp.2", wide)
    x = x if labels is None else x[:, 1:]
    return linear(s, "classifier.1", norm(s, "classifier.0", x, 1e-5))


PYTORCH = {
    "conditional": {"vocab_size": 9, "embed_dim": 24, "n_heads": 3, "n_layers": 1, "n_tokens": 15,
                    "n_classes": 4, "dropout": 0.3},
    "unconditional": {"vocab_size": 30, "embed_dim": 8, "n_heads": 1, "n_layers": 4, "n_tokens": 7,
                      "n_classes": 0, "dropout": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("name", PYTORCH)
@pytest.mark.parametrize("batch", [1, 5])
def test_maskgit_pytorch_logits(tmp_path: Path, name: str, batch: int) -> None:
    config = PYTORCH[name]
    s, generator = pytorch_weights(name, config), keyed_generator("ids", batch)
    shape = (batch, config["n_tokens"] - 2)  # a canvas may be shorter than the table
    io = {"idx": torch.randint(config["vocab_size"] + 1, shape, generator=generator)}
    classes = config["n_classes"]
    if not classes:
        io["logits"] = pytorch_logits(s, config, io["idx"], None)
    else:
        io["y"] = torch.randint(classes, (batch,), generator=generator)
        io["drop_u"] = torch.rand(batch, 1, generator=generator)
        dropped = io["y"].masked_fill(io["drop_u"][:, 0] < 0.25, classes)
        variants = {"cond": io["y"], "uncond": torch.full_like(io["y"], classes)}
        variants |= {"no_class_token": None, "drop_p0.25": dropped}
        for variant, labels in variants.items():
            io[f"logits_{variant}"] = pytorch_logits(s, config, io["idx"], labels)
    check(made(tmp_path, "maskgit_pytorch.logits", config, s, io))


GAMMA: dict[str, Callable[[float], float]] = {
    "cosine": lambda r: math.cos(r * math.pi / 2),
    "arccos": lambda r: math.acos(r) / (math.pi / 2),
    "linear": lambda r: 1 - r,
    "pow2.5": lambda r: 1 - r**2.5,
}


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("conditional", {"mask_schedule": "arccos", "cfg": 2.0, "cfg_schedule": "linear"}),
        ("conditional", {"strategy": "random", "topk": 3, "softmax_temp": 1.3}),
        ("conditional", {"cfg": 1.7, "base_gumbel_temp": 3.0}),
        ("unconditional", {"mask_schedule_type": "pow2.5", "topk": 50}),
        ("unconditional", {"mask_schedule": "linear", "base_gumbel_temp": 0.0}),
    ],
)
def test_maskgit_pytorch_sampling(tmp_path: Path, name: str, sampler: dict) -> None:
    """maskgit-pytorch, ``models/stage2/sampler.py``, step by step."""
    config, batch, steps = PYTORCH[name], 2, 5
    s, codes, length = pytorch_weights(name, config), config["vocab_size"], config["n_tokens"]
    generator = keyed_generator("sampling", name, *sorted(sampler))
    exponential = torch.empty(steps, batch, length, codes).exponential_(generator=generator)
    u = torch.rand(steps, batch, length, generator=generator).clamp(1e-6, 1 - 1e-6)
    io = {"exp_noise": exponential}
    chance = sampler.get("strategy") == "random"
    io |= {"uniform": u} if chance else {"gumbel": -(-u.log()).log()}
    labels = torch.tensor([1, 3]) if config["n_classes"] else None
    io |= {} if labels is None else {"y": labels}
    gamma = GAMMA[sampler.get("mask_schedule", sampler.get("mask_schedule_type", "cosine"))]
    ids, every, masks = torch.full((batch, length), codes), [], []
    for t in range(steps):
        share = 0.0 if t == steps - 1 else min(max(gamma((t + 1) / steps), 0.0), 1.0)
        left = min(math.floor(share * length), length - 1 - t)
        scale = sampler.get("cfg", 1.0)
        scale = 1 + (scale - 1) * t / steps if sampler.get("cfg_schedule") == "linear" else scale
        logits = pytorch_logits(s, config, ids, labels)
        if labels is not None and scale != 1:
            null = torch.full_like(labels, config["n_classes"])
            logits = scale * logits + (1 - scale) * pytorch_logits(s, config, ids, null)
        if "topk" in sampler:
            least = logits.topk(min(sampler["topk"], length), -1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        probs = (logits / sampler.get("softmax_temp", 1.0)).softmax(-1)
        drawn = (probs / exponential[t]).argmax(-1)
        known = ids != codes
        drawn = torch.where(known, ids, drawn)
        q = probs.gather(-1, drawn[..., None])[..., 0]
        heat = sampler.get("base_gumbel_temp", 4.5) * (1 - (t + 1) / steps)
        confidence = u[t] if chance else q.log() + heat * io["gumbel"][t]
        order = confidence.masked_fill(known, torch.inf).argsort(1)
        mask = torch.zeros_like(known).scatter(1, order[:, :left], True)
        ids = drawn.masked_fill(mask, codes)
        every.append(ids)
        masks.append(mask)
    io |= {"idx_per_step": torch.stack(every), "mask_per_step": torch.stack(masks)}
    sampler = {"strategy": "maskgit", "sampling_steps": steps, "sequence_length": length, **sampler}
    case = made(tmp_path, "maskgit_pytorch.sample", config, s, io, sampler=sampler)
    check(case)


# UnlockMGM ---------------------------------------------------------------------------------------


def test_unlockmgm_logits(tmp_path: Path) -> None:
    d, wide, codes, classes, length, layers, heads = 20, 36, 12, 5, 10, 2, 5
    rows, make = codes + classes + 1, Weights("unlockmgm")
    make("embed.word_embeddings.weight", rows, d)
    make("embed.position_embeddings.weight", length + 1, d)
    make.norm("embed.embeddings_ln", d)
    for i in range(layers):
        at = f"transformer_layers.{i}"
        for part in ("query", "key", "value", "out"):
            make.linear(f"{at}.attention.{part}", d, d)
        make.norm(f"{at}.attn_layer_norm", d)
        make.linear(f"{at}.ffn.intermediate_output", wide, d)
        make.linear(f"{at}.ffn.layer_output", d, wide)
        make.norm(f"{at}.ffn.layer_norm", d)
    make.linear("mlm_layer.mlm_dense", d, d)
    make.norm("mlm_layer.mlm_ln", d)
    make.linear("mlm_layer.to_logits", rows, d)
    s, generator = make.state, keyed_generator("unlockmgm ids")
    front = torch.randint(classes, (1, 1), generator=generator) + codes
    tokens = torch.randint(codes, (1, length), generator=generator)
    tokens[0, ::2] = rows - 1
    ids = torch.cat([front, tokens], 1)
    x = s["embed.word_embeddings.weight"][ids] + s["embed.position_embeddings.weight"]
    x = norm(s, "embed.embeddings_ln", x, 1e-12)
    for i in range(layers):
        at = f"transformer_layers.{i}"
        qkv = (linear(s, f"{at}.attention.{part}", x) for part in ("query", "key", "value"))
        mixed = linear(s, f"{at}.attention.out", attend(*qkv, heads))
        x = norm(s, f"{at}.attn_layer_norm", x + mixed, 1e-12)
        inner = gelu(linear(s, f"{at}.ffn.intermediate_output", x))
        x = norm(s, f"{at}.ffn.layer_norm", x + linear(s, f"{at}.ffn.layer_output", inner), 1e-12)
    hidden = x
    x = norm(s, "mlm_layer.mlm_ln", gelu(linear(s, "mlm_layer.mlm_dense", x)), 1e-12)
    config = {
        "vocab_size": rows, "hidden_size": d, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": wide, "num_vq_tokens": length,
        "max_position_embeddings": length + 1, "codebook_size": codes, "num_classes": classes,
        "mask_token_id": rows - 1, "hidden_dropout": 0.2, "attention_dropout": 0.0,
    }  # fmt: skip
    for flag in ("use_normformer", "add_cross_attention", "use_encoder_layernorm"):
        config[flag] = False
    io = {"input_ids": ids, "hidden_states": hidden, "logits": linear(s, "mlm_layer.to_logits", x)}
    check(made(tmp_path, "unlockmgm.logits", config, s, io))


# MAR ---------------------------------------------------------------------------------------------


def vit_weights(make: Weights, name: str, d: int, ratio: float) -> None:
    make.norm(f"{name}.norm1", d)
    make.linear(f"{name}.attn.qkv", 3 * d, d)
    make.linear(f"{name}.attn.proj", d, d)
    make.norm(f"{name}.norm2", d)
    make.linear(f"{name}.mlp.fc1", int(d * ratio), d)
    make.linear(f"{name}.mlp.fc2", d, int(d * ratio))


def vit_block(s: State, name: str, x: Tensor, heads: int) -> Tensor:
    q, k, v = linear(s, f"{name}.attn.qkv", norm(s, f"{name}.norm1", x, 1e-6)).chunk(3, -1)
    x = x + linear(s, f"{name}.attn.proj", attend(q, k, v, heads))
    inner = gelu(linear(s, f"{name}.mlp.fc1", norm(s, f"{name}.norm2", x, 1e-6)))
    return x + linear(s, f"{name}.mlp.fc2", inner)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("patch", [1, 2])
def test_mar_forward_on_a_grid_that_is_not_square(
    tmp_path: Path, patch: int, labelled: bool
) -> None:
    d, e, rows, columns, depth, heads, buffer, channels = 18, 12, 3, 5, (1, 2), (3, 2), 3, 2
    length, inside, make = rows * columns, channels * patch**2, Weights("mar")
    make("fake_latent", 1, d)
    make("encoder_pos_embed_learned", 1, buffer + length, d)
    make("mask_token", 1, 1, e)
    make("decoder_pos_embed_learned", 1, buffer + length, e)
    make("diffusion_pos_embed_learned", 1, length, e)
    make("class_emb.weight", 4, d)
    make.linear("z_proj", d, inside)
    make.norm("z_proj_ln", d)
    for half, width, blocks in (("encoder", d, depth[0]), ("decoder", e, depth[1])):
        for i in range(blocks):
            vit_weights(make, f"{half}_blocks.{i}", width, 2.5)
        make.norm(f"{half}_norm", width)
    make.linear("decoder_embed", e, d)
    head, wide = "diffloss.net", 8
    make.linear(f"{head}.time_embed.mlp.0", wide, 256)
    make.linear(f"{head}.time_embed.mlp.2", wide, wide)
    make.linear(f"{head}.cond_embed", wide, e)
    make.linear(f"{head}.input_proj", wide, inside)
    for name, times in (("res_blocks.0", 3), ("final_layer", 2)):
        make.linear(f"{head}.{name}.adaLN_modulation.1", times * wide, wide)
    make.norm(f"{head}.res_blocks.0.in_ln", wide)
    make.linear(f"{head}.res_blocks.0.mlp.0", wide, wide)
    make.linear(f"{head}.res_blocks.0.mlp.2", wide, wide)
    make.linear(f"{head}.final_layer.linear", 2 * inside, wide)
    s, generator = make.state, keyed_generator("mar", patch)
    batch, shown = 2, 6
    latents = torch.randn(batch, channels, rows * patch, columns * patch, generator=generator)
    tokens = torch.stack(
        [
            latents[:, :, r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].flatten(1)
            for r in range(rows)
            for c in range(columns)
        ],
        1,
    )  # channel slowest, then row, then column
    order = torch.stack([torch.randperm(length, generator=generator) for _ in range(batch)])
    mask = torch.ones(batch, length).scatter(1, order[:, :shown], 0.0)
    labels = torch.tensor([3, 1])

    def encode(mask: Tensor, front: Tensor) -> Tensor:
        x = torch.cat([front[:, None].expand(-1, buffer, -1), linear(s, "z_proj", tokens)], 1)
        x = norm(s, "z_proj_ln", x + s["encoder_pos_embed_learned"], 1e-6)
        kept = torch.cat([torch.ones(batch, buffer), 1 - mask], 1).bool()
        x = x[kept].view(batch, -1, d)
        for i in range(depth[0]):
            x = vit_block(s, f"encoder_blocks.{i}", x, heads[0])
        return norm(s, "encoder_norm", x, 1e-6)

    def decode(encoded: Tensor, mask: Tensor) -> Tensor:
        kept = torch.cat([torch.ones(batch, buffer), 1 - mask], 1).bool()
        x = s["mask_token"].expand(batch, buffer + length, e).clone()
        x[kept] = linear(s, "decoder_embed", encoded).flatten(0, 1)
        x = x + s["decoder_pos_embed_learned"]
        for i in range(depth[1]):
            x = vit_block(s, f"decoder_blocks.{i}", x, heads[1])
        return norm(s, "decoder_norm", x, 1e-6)[:, buffer:] + s["diffusion_pos_embed_learned"]

    none = s["fake_latent"].expand(batch, -1)
    front = s["class_emb.weight"][labels] if labelled else none
    io = {"latents": latents, "mask": mask, "tokens": tokens, "unpatchified": latents}
    io |= {"labels": labels} if labelled else {}
    io["encoder_out_all_masked"] = encode(torch.ones_like(mask), front)
    for suffix, vectors in (("", front), ("_uncond", none)):
        io[f"encoder_out{suffix}"] = encode(mask, vectors)
        io[f"decoder_out{suffix}"] = decode(io[f"encoder_out{suffix}"], mask)
    config = {
        "latent_hw": [rows * patch, columns * patch], "patch_size": patch, "encoder_embed_dim": d,
        "encoder_depth": depth[0], "encoder_num_heads": heads[0], "decoder_embed_dim": e,
        "decoder_depth": depth[1], "decoder_num_heads": heads[1], "mlp_ratio": 2.5,
        "vae_embed_dim": channels, "class_num": 4, "attn_dropout": 0.1, "proj_dropout": 0.1,
        "buffer_size": buffer, "diffloss_d": 1, "diffloss_w": wide, "norm_eps": 1e-6,
        "token_embed_dim": inside, "seq_len": length, "img_size": [48 * patch, 80 * patch],
        "vae_stride": 16, "mask_ratio_min": 0.5, "label_drop_prob": 0.2, "diffusion_batch_mul": 3,
        "num_sampling_steps": "50",
    }  # fmt: skip
    check(made(tmp_path, "mar.forward", config, s, io))
    told = {key: value for key, value in config.items() if key != "latent_hw"}
    check(made(tmp_path, "mar.forward", told, s, io))  # the image size tells as well
    with pytest.raises(AssertionError, match="encoder_depth=9 in the configuration, found 1"):
        check(made(tmp_path, "mar.forward", {**config, "encoder_depth": 9}, s, io))


# MAGE --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "rate"), [(1, 0.9), (3, 0.61)])
def test_mage_pretraining_on_a_grid_that_is_not_square(
    tmp_path: Path, batch: int, rate: float
) -> None:
    d, e, codes, grid, heads, depth = 20, 12, 7, (3, 5), (5, 3), (1, 2)
    length, rows, positions, make = math.prod(grid), codes + 1001, 18, Weights("mage")
    make("token_emb.word_embeddings.weight", rows, d)
    make("token_emb.position_embeddings.weight", positions, d)
    make.norm("token_emb.LayerNorm", d)
    for half, width, blocks in (("blocks", d, depth[0]), ("decoder_blocks", e, depth[1])):
        for i in range(blocks):
            vit_weights(make, f"{half}.{i}", width, 3.0)
    make.norm("norm", d)
    make.linear("decoder_embed", e, d)
    make("decoder_pos_embed_learned", 1, 1 + length, e)
    make.norm("decoder_norm", e)
    make.linear("mlm_layer.fc", d, e)
    make.norm("mlm_layer.ln", d)
    make("mlm_layer.bias", 1, 1, rows)
    s, generator = make.state, keyed_generator("mage", batch)
    tokens = torch.randint(codes, (batch, length), generator=generator)
    noise = torch.rand(batch, length, generator=generator)
    least, drawn = math.ceil(length * 0.4), math.ceil(length * rate)
    rank = noise.argsort(1).argsort(1)
    front = torch.zeros(batch, 1)
    drop = torch.cat([front, (rank < least).float()], 1)
    mask = torch.cat([front, (rank < drawn).float()], 1)
    ids = torch.cat([torch.full((batch, 1), codes + 76), tokens], 1)
    ids = ids.masked_fill(mask != 0, codes + 1000)
    x = s["token_emb.word_embeddings.weight"][ids]
    x = x + s["token_emb.position_embeddings.weight"][: 1 + length]
    x = norm(s, "token_emb.LayerNorm", x, 1e-6)[drop == 0].view(batch, -1, d)
    for i in range(depth[0]):
        x = vit_block(s, f"blocks.{i}", x, heads[0])
    latent = norm(s, "norm", x, 1e-6)
    y = linear(s, "decoder_embed", latent)
    filled = y[:, :1].expand(-1, 1 + length, -1).clone()
    filled[drop == 0] = y.flatten(0, 1)
    filled = torch.where(mask[..., None] != 0, y[:, :1], filled) + s["decoder_pos_embed_learned"]
    for i in range(depth[1]):
        filled = vit_block(s, f"decoder_blocks.{i}", filled, heads[1])
    h = linear(s, "mlm_layer.fc", norm(s, "decoder_norm", filled, 1e-6))
    h = norm(s, "mlm_layer.ln", gelu(h), 1e-5)
    logits = h @ s["token_emb.word_embeddings.weight"].T + s["mlm_layer.bias"]
    log_p = logits[:, 1:, :codes].log_softmax(-1)
    each = -(0.9 * log_p.gather(-1, tokens[..., None])[..., 0] + 0.1 * log_p.mean(-1))
    io = {
        "token_indices": tokens, "noise": noise, "drop_mask": drop, "all_mask": mask,
        "mask_rate": torch.tensor(rate, dtype=torch.float64), "encoder_ids": ids,
        "num_dropped": torch.tensor(least), "num_masked": torch.tensor(drawn), "latent": latent,
        "logits": logits, "loss_per_position": each,
        "loss": (each * mask[:, 1:]).sum() / mask.sum(),
    }  # fmt: skip
    config = {
        "grid": list(grid), "seq_len": length, "embed_dim": d, "depth": depth[0],
        "num_heads": heads[0], "decoder_embed_dim": e, "decoder_depth": depth[1],
        "decoder_num_heads": heads[1], "mlp_ratio": 3.0, "norm_eps": 1e-6, "codebook_size": codes,
        "vocab_size": rows, "fake_class_label": codes + 76, "mask_token_label": codes + 1000,
        "max_position_embeddings": positions, "mask_ratio_min": 0.4,
    }  # fmt: skip
    check(made(tmp_path, "mage.pretrain_forward", config, s, io))


# Tokenizers --------------------------------------------------------------------------------------


def test_a_recorded_tokenizer_takes_rectangles_and_one_image(
    tmp_path: Path, fixtures: Path
) -> None:
    (recorded,) = [c for c in find_cases(fixtures / "tokenizers") if c.name == "llamagen_vq"]
    handler, config = find_handlers()[recorded.kind], dict(recorded.config)
    weights = {k: v for k, v in recorded.weights().items() if v.dtype.is_floating_point}
    io = {"x": recorded.input("x")[:, :, :12, :28]}
    io["random_indices"] = recorded.input("random_indices")[:, :21]
    both = handler(made(tmp_path, recorded.kind, config, weights, io))
    assert both["indices"].shape == (2, 21)
    assert both["h"].shape[2:] == (3, 7)
    assert both["decode_random_indices"].shape == io["x"].shape
    last = {name: value[1:] for name, value in io.items()}
    alone = handler(made(tmp_path, recorded.kind, config, weights, last))
    for name in ("h", "decode_random_indices"):
        torch.testing.assert_close(alone[name], both[name][1:], atol=1e-4, rtol=1e-4)
