"""Every recipe builds, is what was published, and in toy size trains and samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toy_system import TOY, UNCONDITIONAL

from unmask.assets import shipped_names
from unmask.data.transform import BOXES, RANDOM
from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.files.serial import from_dict, read_yaml, to_dict, write_yaml
from unmask.guidance import Guidance
from unmask.masking import BernoulliMasking, Masking, NormalMasking, TrainMasking
from unmask.networks.latent import LatentNetwork
from unmask.networks.mage import MageNetwork
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.nn.model import initialize
from unmask.objectives.masked import MaskedObjective, locate
from unmask.orders import RandomOrder
from unmask.pipeline import Pipeline, load
from unmask.recipes import RECIPES, get
from unmask.recipes.recipe import NamedPlan, Recipe
from unmask.types import MaskedBatch

# parameters as published (the JAX ones tie the output matrix), or counted when the recipe was made
PARAMETERS = {
    "maskgit-pytorch-imagenet256": 172_595_200,
    "maskgit-pytorch-ffhq256": 97_816_832,
    "maskgit-unlockmgm-imagenet256": 174_012_393,
    "maskgit-unlockmgm-imagenet512": 174_602_217,
    "maskgit-jax-imagenet256": 174_012_393 - 2025 * 768,
    "maskgit-jax-imagenet512": 174_602_217 - 2025 * 768,
    "mage-base": 144_896_745,  # without what its files hold and nothing reads
    "mage-large": 407_788_521,
    "mar-base": 207_924_768,
    "mar-large": 478_326_304,
    "mar-huge": 942_403_104,
    "emigm-xsmall-256": 69_018_848,  # of eMIGM the tied vector counts once
    "emigm-small-256": 96_640_544,
    "emigm-base-256": 207_924_000,
    "emigm-large-256": 478_325_280,
    "emigm-huge-256": 942_401_824,
    "emigm-xsmall-512": 104_506_624,
    "emigm-small-512": 132_145_728,
    "emigm-base-512": 244_150_592,
    "emigm-large-512": 478_403_136,
}
NAMES = sorted(RECIPES)


def of_latents(name: str) -> bool:
    return isinstance(get(name).network, LatentNetwork)


def toy_version(recipe: Recipe) -> Recipe:
    """The same rules on a network that trains in a moment."""
    sizes = {"codes": 11, "width": 16, "depth": 2, "heads": 2, "length": 16}
    if isinstance(recipe.network, (LatentNetwork, MageNetwork)):
        sizes |= {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
    if isinstance(recipe.network, LatentNetwork):
        sizes |= {"channels": 4, "head_width": 16, "head_depth": 1}
        del sizes["codes"]
    if isinstance(recipe.network, MaskGITBertNetwork):
        sizes["feed_forward"] = 24
    if isinstance(recipe.network, MageNetwork):
        sizes["position_rows"] = None
    else:
        sizes["classes"] = min(recipe.network.classes, 3)
    network = replace(recipe.network, **sizes)
    plan = replace(recipe.plan, steps=min(recipe.plan.steps, 4 if of_latents(recipe.name) else 16))
    return replace(recipe, network=network, plan=plan, plans=())


def test_the_table_goes_by_name() -> None:
    assert {name: recipe.name for name, recipe in RECIPES.items()} == {n: n for n in RECIPES}
    assert set(PARAMETERS) <= set(RECIPES)
    assert all(recipe.summary and "\n" not in recipe.summary for recipe in RECIPES.values())


@pytest.mark.parametrize("name", NAMES)
def test_builds_on_the_meta_device(name: str) -> None:
    recipe = get(name)
    with torch.device("meta"):
        model = recipe.network.build()
    assert model.length == model.grid[0] * model.grid[1]
    assert recipe.image_size % model.grid[0] == 0
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


def test_every_result_that_names_a_plan_has_one() -> None:
    named = {
        (recipe.name, result.setting.split()[1].rstrip(","))
        for recipe in RECIPES.values()
        for result in recipe.results
        if result.setting.startswith("plan ")
    }
    assert len(named) >= 7
    for name, plan in named:
        get(name).named_plan(plan)
    rows = get("maskgit-pytorch-imagenet256")
    assert rows.named_plan("scale-3") == rows.plan


@pytest.mark.parametrize("name", NAMES)
def test_survives_yaml_and_json(name: str, tmp_path: Path) -> None:
    recipe = get(name)
    write_yaml(recipe, tmp_path / "recipe.yaml")
    assert read_yaml(Recipe, tmp_path / "recipe.yaml") == recipe
    assert get(tmp_path / "recipe.yaml") == recipe
    assert from_dict(Recipe, to_dict(recipe), "test") == recipe


@pytest.mark.parametrize(
    "name", [n for n in NAMES if not of_latents(n) and not get(n).substitution]
)
def test_its_toy_version_trains_and_samples(name: str) -> None:
    recipe = toy_version(get(name))
    network, training = recipe.network, recipe.training
    model = network.build()
    initialize(model, keyed_generator(name))
    generator = keyed_generator("batch")
    batch = MaskedBatch(
        torch.randint(network.codes, (4, 16), generator=generator),
        masked := recipe.masking.draw(4, 16, generator).masked,
        torch.tensor([0, 1, 2, 0]) if network.classes else None,
        1 / masked.sum(),
    )
    objective = MaskedObjective(model, label_smoothing=training.label_smoothing).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = objective(batch)["loss"]  # without dropout, which would hide what a step gains
    outputs = network.codes + (network.classes + 1) * isinstance(network, MaskGITBertNetwork)
    assert loss.item() == pytest.approx(torch.tensor(outputs).log().item(), rel=0.1)
    loss.backward()
    read = [p for n, p in model.named_parameters() if p.grad is not None]
    assert len(read) == len(list(model.parameters()))
    assert all(p.grad.isfinite().all() for p in read)
    optimizer.step()
    assert objective(batch)["loss"] < loss
    labels = [0, 2] if network.classes else None
    made = Pipeline(recipe, model, None).tokens(labels, seeds=[1, 2])
    assert made.tokens.shape == (2, 16)
    assert 0 <= made.tokens.min() <= made.tokens.max() < network.codes


@pytest.mark.parametrize("name", [n for n in NAMES if of_latents(n)])
def test_its_toy_version_diffuses(name: str) -> None:
    recipe = toy_version(get(name))
    model = recipe.network.build()
    initialize(model, keyed_generator(name))
    generator, repeats = keyed_generator("batch"), recipe.training.noise_repeats
    masks = recipe.masking.draw(4, 16, generator)
    latents = torch.randn(4, 16, 4, generator=generator)
    labels, weight = torch.tensor([0, 1, 2, 3]), 1 / masks.masked.sum()  # 3 is the null class
    count = int(masks.masked.sum())
    batch = locate(
        MaskedBatch(latents, masks.masked, labels, weight, masks.kept),
        times=torch.randint(1000, (repeats, count), generator=generator),
        noise=torch.randn(repeats, count, 4, generator=generator),
    )
    objective = MaskedObjective(model).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    loss = objective(batch)["loss"]
    assert batch.noise.square().mean() < loss < batch.noise.square().mean() + 0.5  # noise 0 guessed
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    optimizer.step()
    assert objective(batch)["loss"] < loss
    made = Pipeline(recipe, model, None).tokens([0, 2], seeds=[1, 2]).tokens
    assert made.shape == (2, 16, 4)
    assert made.isfinite().all()
    assert not torch.equal(made[0], made[1])


def test_unknown_names_get_the_likely_one() -> None:
    with pytest.raises(InputError, match="did you mean 'fashion-maskgit'"):
        get("fashion-maskgti")
    with pytest.raises(InputError, match=r"absent\.yaml does not exist"):
        get("absent.yaml")


def test_epochs_of_imagenet_as_steps() -> None:
    training = MAR.training
    assert (training.steps, training.warmup_steps, training.lr) == (500_000, 62_500, 8e-4)
    small = get("emigm-small-512").training
    assert (small.steps, small.warmup_steps, small.lr) == (1_000_800, 125_100, 4e-4)


@pytest.mark.parametrize(
    ("name", "crop", "cached", "judged"),
    [
        ("selfguidance-imagenet256", "random-bilinear", "center", "center"),
        ("selfguidance-imagenet512", "random-bilinear", "center", "center"),
        ("mage-base", "resized", "center", "center-bilinear"),
        ("mage-c-large", "resized", "center", "center-bilinear"),
        ("maskgit-pytorch-ffhq256", "whole", "whole", "whole"),
        ("maskgit-pytorch-imagenet256", "center", "center", "center"),
        ("mar-base", "center", "center", "center"),
        ("fashion-maskgit", "none", "center", "none"),
        ("fashion-selfguidance", "none", "center", "none"),
        ("fashion-mage", "none", "center", "none"),
    ],
)
def test_images_are_cut_as_it_was_published(name: str, crop: str, cached: str, judged: str) -> None:
    recipe = get(name)
    assert (recipe.crop, recipe.cached_crop, recipe.still_crop) == (crop, cached, judged)
    assert recipe.encodes_each_step == (crop in RANDOM or crop in BOXES)


def test_published_plans_by_name() -> None:
    assert MAR.plan.steps == 256
    assert MAR.named_plan("quick").steps == 64
    assert MAR.named_plan("unguided").draw.temperature == 0.95
    recipe = get("emigm-base-256")
    assert recipe.named_plan("128-steps").guidance.interval == (0.05, 0.4)
    with pytest.raises(InputError, match="emigm-base-256 has no plan '128'; did you mean"):
        recipe.named_plan("128")
    with pytest.raises(InputError, match="fashion-mage has no plan 'quick'; it has only its d"):
        get("fashion-mage").named_plan("quick")


MAR = get("mar-base")
NO_NULL = MaskGITBertNetwork(
    codes=16, width=32, depth=1, heads=2, feed_forward=32, length=16, classes=3
)


@pytest.mark.parametrize(
    ("base", "changes", "parts"),
    [
        (TOY, {"plan": Plan(steps=17)}, ("plan.steps=17", "network.length=16")),
        (
            TOY,
            {"training": replace(TOY.training, label_dropout=0.0)},
            ("plan.guidance.scale=2.0", "training.label_dropout"),
        ),
        (
            TOY,
            {"network": NO_NULL, "plan": Plan(steps=4)},
            ("training.label_dropout=0.1", "MaskGITBertNetwork"),
        ),
        (
            UNCONDITIONAL,
            {"training": TOY.training},
            ("training.label_dropout=0.1", "classes=0"),
        ),
        (
            UNCONDITIONAL,
            {"plan": Plan(steps=4, guidance=Guidance(scale=3.0))},
            ("plan.guidance.scale=3.0", "training.label_dropout"),
        ),
        (MAR, {"plan": Plan()}, ("plan.order=Confidence", "diffusion head")),
        (MAR, {"plan": Plan(order=RandomOrder())}, ("plan.draw=CategoricalDraw", "diffusion head")),
        (TOY, {"plan": replace(MAR.plan, steps=4)}, ("plan.draw=DiffusionDraw", "head of codes")),
        (MAR, {"plan": replace(MAR.plan, steps=257)}, ("plan.steps=257", "network.length=256")),
        (
            MAR,
            {"plans": (NamedPlan(name="a", plan=replace(MAR.plan, steps=300)),)},
            ("plan.steps=300", "network.length=256"),
        ),
        (
            MAR,
            {"masking": TrainMasking()},
            ("masking.shared=False of TrainMasking", "encoder of LatentNetwork"),
        ),
        (
            MAR,
            {"masking": BernoulliMasking(shared=False)},
            ("masking.shared=False of BernoulliMasking", "network.drops"),
        ),
        (
            MAR,
            {"masking": NormalMasking(mean=1.0, least=0.5, drop="least")},
            ("masking.drop='least'", "encoder of LatentNetwork"),
        ),
    ],
)
def test_parts_that_do_not_fit_are_both_named(base: Recipe, changes: dict, parts: tuple) -> None:
    with pytest.raises(InputError) as error:
        replace(base, **changes)
    assert all(part in str(error.value) for part in parts)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("masking", [TOY.masking, BernoulliMasking(), MAR.masking])
def test_groups_are_told_by_the_masking_or_by_micro_batches(masking: Masking) -> None:
    micro, masking = replace(TOY.training, normalize="micro"), replace(masking, group=None)
    assert replace(TOY, training=micro, masking=masking).masking == masking
    grouped = replace(masking, group=4)
    assert replace(TOY, masking=grouped).masking == grouped
    with pytest.raises(InputError, match=r"masking\.group=4 and training\.normalize='micro' both"):
        replace(TOY, training=micro, masking=grouped)


COMPARED = {"fashion-maskgit", "fashion-mar", "fashion-emigm"}  # in docs/compare.md
SHIPPED = [name for name in shipped_names() if name in RECIPES]


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_carry_the_recipe_as_it_is_now(name: str) -> None:
    shipped, recipe = load(name).recipe, get(name)
    # some were trained for longer than the recipe that made them says
    assert replace(shipped, training=recipe.training) == recipe


def test_every_small_system_that_is_shipped_for_classes_has_a_fast_plan() -> None:
    fast = {name: get(name).named_plan("fast") for name in SHIPPED if name in COMPARED}
    assert fast.keys() == COMPARED
    for name, plan in fast.items():
        slow = get(name).plan
        assert plan.steps < slow.steps
        assert plan.guidance == replace(slow.guidance, refresh=plan.guidance.refresh)


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        *((f"mar-{size}", 32) for size in ("base", "large", "huge")),
        *((f"emigm-{size}-256", 32) for size in ("xsmall", "small", "base", "large", "huge")),
        *((f"emigm-{size}-512", 32) for size in ("xsmall", "small", "base", "large")),
        *((f"mage-{size}", 64) for size in ("base", "large")),
        ("maskgit-jax-imagenet256", 256),  # its loss is a mean over images
    ],
)
def test_a_published_step_has_as_many_ratios_as_processes(name: str, processes: int) -> None:
    recipe = get(name)
    assert recipe.masking.group == recipe.training.batch_size // processes


def test_small_recipes_draw_one_ratio_for_the_batch() -> None:
    assert {get(name).masking.group for name in RECIPES if name.startswith("fashion")} == {None}
