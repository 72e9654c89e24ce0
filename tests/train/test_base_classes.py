"""A base keeps what it knows where classes are others; their rows begin anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_latents import LATENT_TOY, latent_pipeline
from toy_system import NETWORK, TOY, UNCONDITIONAL, toy_pipeline, toy_tokenizer

from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.guidance import Guidance
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.networks.network import Network
from unmask.nn.feedback import Feedback
from unmask.nn.model import MaskedModel, initialize
from unmask.recipes.recipe import Recipe
from unmask.train.base import load_base
from unmask.train.generator import check_sizes
from unmask.train.optim import make_optimizer, set_learning_rate

JOINT = MaskGITBertNetwork(
    codes=16, width=16, depth=1, heads=2, length=16, classes=3, feed_forward=16
)
BERT = replace(
    TOY, network=JOINT, plan=Plan(steps=4), training=replace(TOY.training, label_dropout=0.0)
)


def started(base: Recipe, network: Network, out: Path) -> tuple[MaskedModel, dict, dict]:
    """A network that starts from a base, its initial weights, and those of the base."""
    saved = toy_pipeline(base, pixels=False) if base is not LATENT_TOY else latent_pipeline(base)
    saved.save_pretrained(out)
    model = network.build()
    initialize(model, keyed_generator("anew"))
    initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    training = replace(base.training, base_rate=0.1)
    if not network.has_null_class:
        training = replace(training, label_dropout=0.0)
    plan = replace(base.plan, steps=4, guidance=Guidance())
    plain = replace(base, network=network, plan=plan, base=str(out), training=training)
    load_base(model, plain, saved.tokenizer.identity if saved.has_tokenizer else "")
    return model, initial, saved.model.state_dict()


@pytest.mark.parametrize("count", [2, 5])
def test_the_null_class_stays_behind_new_rows(
    count: int, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    network = replace(NETWORK, classes=count, feedback=Feedback(factor=2))
    guided = replace(TOY, network=replace(NETWORK, feedback=Feedback(factor=2)))
    model, initial, base = started(guided, network, tmp_path / "base")
    own, name = model.state_dict(), "embed.classes.weight"
    assert torch.equal(own[name], torch.cat([initial[name][:count], base[name][3:]]))
    anchor = "feedback.anchor.classes.weight"
    assert torch.equal(own[anchor], initial[anchor])
    assert all(torch.equal(own[n], base[n]) for n in own if n not in (name, anchor))
    line = capsys.readouterr().out
    assert f"knows 3 classes and this network {count}" in line
    assert name in line


@pytest.mark.parametrize("tied", [False, True])
def test_codes_and_mask_stay_in_a_joint_table(tied: bool, tmp_path: Path) -> None:
    joint = replace(JOINT, tie_embeddings=tied)
    base_of = replace(BERT, network=joint)
    model, initial, base = started(base_of, replace(joint, classes=5), tmp_path / "base")
    own = model.state_dict()
    tables = ("embed.tokens.weight", "head.out.weight", "head.out.bias")
    for name in tables:
        rows = torch.cat([base[name][:16], initial[name][16:21], base[name][19:]])
        assert torch.equal(own[name], rows)
    assert all(torch.equal(own[n], base[n]) for n in own if n not in tables)


def test_latents_keep_their_null_class(tmp_path: Path) -> None:
    network = LATENT_TOY.network
    other = replace(network, classes=network.classes + 2)
    model, initial, base = started(LATENT_TOY, other, tmp_path / "base")
    own, name = model.state_dict(), "embed.classes.weight"
    assert torch.equal(own[name], initial[name])
    assert all(torch.equal(own[n], base[n]) for n in own if n != name)


def test_a_base_without_classes_learns_some_and_the_reverse(tmp_path: Path) -> None:
    name = "embed.classes.weight"
    model, initial, base = started(UNCONDITIONAL, NETWORK, tmp_path / "some")
    assert torch.equal(model.state_dict()[name], initial[name])
    assert name not in base
    model, _, base = started(TOY, UNCONDITIONAL.network, tmp_path / "none")
    assert all(torch.equal(tensor, base[n]) for n, tensor in model.state_dict().items())


def test_what_comes_from_the_base_learns_at_its_own_rate(tmp_path: Path) -> None:
    model, _, _ = started(TOY, replace(NETWORK, classes=2), tmp_path / "base")
    optimizer = make_optimizer(model, replace(TOY.training, lr=1.0))
    set_learning_rate(optimizer, 0.5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rates[parameter] == pytest.approx(0.5 if "classes" in name else 0.05)


def test_a_rate_for_no_base_is_refused() -> None:
    with pytest.raises(InputError, match=r"base_rate=0\.1 .* there is no base"):
        replace(TOY, training=replace(TOY.training, base_rate=0.1))


def test_other_classes_than_the_network_s_are_named_with_the_way_out() -> None:
    tokenizer = toy_tokenizer()
    grid = tokenizer.grid(TOY.image_size)
    for recipe in (TOY, replace(TOY, base="b")):
        with pytest.raises(InputError, match=r"give --network\.classes 2"):
            check_sizes(recipe, tokenizer, grid=grid, classes=2)
