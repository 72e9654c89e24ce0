"""Images and grids that are not square, through every family from pictures to pictures."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toy_latents import DROPS, LATENT_TOY
from toy_mage import toy_generator
from toy_system import TOKENIZER, TOY, toy_tokenizer

from unmask.cli import main
from unmask.data.cache import LatentCache
from unmask.data.source import open_source
from unmask.data.transform import Transform
from unmask.decode import Plan
from unmask.draws import keyed_generator
from unmask.edit import inpaint, masked_tokens
from unmask.evaluate.features import EfficientNetLite0
from unmask.evaluate.generated import Generated
from unmask.evaluate.image_sets import open_image_set
from unmask.evaluate.options import EvaluationOptions
from unmask.files.serial import write_yaml
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.nn.feedback import Feedback
from unmask.orders import NAMED
from unmask.pipeline import Pipeline, load
from unmask.recipes.objectives import Contrastive, Substitution
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import TokenizerRecipe
from unmask.tokenizers.conv_stack import ConvKL, ConvKLTokenizer, ConvVQ, ConvVQTokenizer
from unmask.tokenizers.folder import load_tokenizer, save_tokenizer
from unmask.tokenizers.objective import TokenizerLoss
from unmask.train.generator import make_task

Capsys = pytest.CaptureFixture[str]

GRID = (3, 5)
OTHERS = [("random crops", (5, 3)), ("mage", (1, 6)), ("emigm", (5, 3))]
STRIDE = 4
SIZES = [(16, 24), (24, 16), (30, 21), (13, 40), (17, 17)]  # of the pictures on disk

POST_NORM = MaskGITBertNetwork(
    codes=16, width=32, depth=2, heads=2, feed_forward=64, length=16, classes=3
)
SURE = replace(
    TOY.training, steps=2, batch_size=4, log_every=1, preview_every=2, preview_images=16,
    preview_share=1.0, save_every=2,
)  # fmt: skip
POST = replace(
    TOY, network=POST_NORM, plan=Plan(steps=3), training=replace(SURE, label_dropout=0.0)
)
MAGE = toy_generator().recipe
FAMILIES: dict[str, Recipe] = {
    "pre_norm": replace(TOY, training=SURE, plan=replace(TOY.plan, steps=3)),
    "random crops": replace(TOY, training=SURE, crop="random", plan=replace(TOY.plan, steps=3)),
    "post_norm": POST,
    "self-guidance": replace(
        POST, network=replace(POST_NORM, feedback=Feedback()), substitution=Substitution()
    ),
    "mage": replace(MAGE, training=replace(SURE, label_dropout=0.0)),
    "mage-c": replace(
        MAGE,
        training=replace(SURE, label_dropout=0.0),
        contrastive=Contrastive(hidden=8, outputs=4),
        crop="resized",
    ),
    "mar": replace(LATENT_TOY, training=SURE),
    "emigm": replace(
        LATENT_TOY, training=SURE, network=replace(DROPS, channels=6, tied=True), tokenizer="kl"
    ),
    "mar, squares of latents": replace(
        LATENT_TOY,
        name="squares",
        training=SURE,
        network=replace(DROPS, channels=24),
        tokenizer="kl",
    ),
}
BASES = {"self-guidance": "post_norm"}


def of_grid(recipe: Recipe, grid: tuple[int, int]) -> Recipe:
    """The same for images of that grid."""
    rows, columns = grid
    network = replace(recipe.network, length=rows * columns, grid=grid)
    stride = STRIDE * (2 if "squares" in recipe.name else 1)
    return replace(recipe, network=network, image_size=(rows * stride, columns * stride))


def run(*words: object) -> None:
    assert main(list(map(str, words))) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of several shapes in three classes, and two tokenizers with random weights."""
    root = tmp_path_factory.mktemp("rectangles")
    for side, count in (("train", 18), ("val", 6)):
        for index in range(count):
            shape = (*SIZES[index % len(SIZES)], 3)
            noise = torch.randint(256, shape, generator=keyed_generator(side, index))
            file = root / "images" / side / f"class {index % 3}" / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.numpy().astype(np.uint8)).save(file)
    save_tokenizer(toy_tokenizer(), root / "toy-vq")
    torch.manual_seed(0)
    kl = ConvKLTokenizer(ConvKL(widths=(8, 8, 8), blocks=(0, 0, 0), channels=6))
    save_tokenizer(kl.eval().requires_grad_(False), root / "kl")
    return root


def trained(root: Path, family: str, grid: tuple[int, int]) -> Path:
    """The run of a family at a grid, trained when it is first asked for."""
    out = root / f"{family} {grid[0]}x{grid[1]}"
    if not (out / "model").exists():
        recipe = of_grid(FAMILIES[family], grid)
        name = recipe.tokenizer
        recipe = replace(recipe, tokenizer=str(root / name) if (root / name).exists() else name)
        write_yaml(recipe, root / "recipe.yaml")
        base = ["--base", trained(root, BASES[family], grid)] if family in BASES else []
        write_yaml(recipe, root / "recipe.yaml")
        run("train", root / "recipe.yaml", "--data", root / "images", "--out", out, *base)
    return out


@pytest.mark.parametrize(
    ("family", "grid"),
    [
        *((family, GRID) for family in FAMILIES),
        *OTHERS,
    ],
    ids=str,
)
def test_a_family_trains_from_pictures_and_draws_in_every_order(
    root: Path, family: str, grid: tuple[int, int]
) -> None:
    out = trained(root, family, grid)
    pipeline = load(out)
    stride = pipeline.tokenizer.stride
    size = (stride * grid[0], stride * grid[1])
    assert pipeline.model.grid == grid
    assert pipeline.recipe.image_size == size
    sheets = list((out / "samples").glob("*.png"))
    assert sheets
    zoom, rows = 64 // max(size), SURE.preview_images // 8
    wanted = (zoom * (8 * (size[1] + 2) + 2), zoom * (rows * (size[0] + 2) + 2))
    assert {Image.open(sheet).size for sheet in sheets} == {wanted}
    labels = [0, 1] if pipeline.model.classes else None
    orders = {"plan": pipeline.plan.order} | NAMED
    for name, order in orders.items():
        if pipeline.model.channels is not None and order.needs_density:
            continue
        plan = replace(pipeline.plan, order=order, steps=min(4, grid[0] * grid[1]))
        made = pipeline(labels, seeds=[3, 4], plan=plan)
        assert made.pixels.shape == (2, 3, *size), name
        alone = pipeline(labels and labels[1:], seeds=[4], plan=plan)
        torch.testing.assert_close(alone.pixels, made.pixels[1:], msg=name)


@pytest.mark.parametrize("family", ["pre_norm", "mage", "mar"])
def test_the_command_line_writes_every_format(root: Path, tmp_path: Path, family: str) -> None:
    grid, model = (3, 5), trained(root, family, (3, 5))
    height, width = STRIDE * grid[0], STRIDE * grid[1]
    each = 2 if load(model).model.classes else 6
    for kind in ("grid", "png", "folder", "npz", "tokens"):
        film = ["--film"] if kind == "grid" else []
        words = ["--per-class", each, "--format", kind, "--out", tmp_path / kind, *film]
        run("sample", model, *words)
    zoom, rows = 64 // width, 6 // each
    sheet = Image.open(tmp_path / "grid" / "samples.png")
    assert sheet.size == (zoom * (each * (width + 2) + 2), zoom * (rows * (height + 2) + 2))
    film = Image.open(tmp_path / "grid" / "film.png")
    assert film.height == zoom * (rows * (height + 2) + 2)
    files = list((tmp_path / "png").rglob("*.png"))
    assert {Image.open(file).size for file in files} == {(width, height)}
    for place in (tmp_path / "npz" / "samples.npz", tmp_path / "folder" / "images"):
        (batch,) = list(open_image_set(place))
        assert batch.images.shape == (6, 3, height, width)
    by_seed = {int(file.stem): np.array(Image.open(file)) for file in files}
    first = next(iter(open_image_set(tmp_path / "npz" / "samples.npz"))).images[0]
    assert (first.permute(1, 2, 0).numpy() == by_seed[0]).all()
    tokens = np.load(tmp_path / "tokens" / "tokens.npz")["tokens"]
    assert tokens.shape[:2] == (6, 15)


@pytest.mark.parametrize(
    ("family", "grid"), [("pre_norm", GRID), ("mage", (1, 6)), ("mar", GRID), ("emigm", (5, 3))]
)
def test_holes_are_filled_where_they_are(root: Path, family: str, grid: tuple[int, int]) -> None:
    pipeline = load(trained(root, family, grid))
    height, width = STRIDE * grid[0], STRIDE * grid[1]
    images = torch.rand(2, 3, height, width, generator=keyed_generator("holes"))
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[:STRIDE, -STRIDE - 1 :] = True  # the last two tokens of the first row
    labels = [0, 2] if pipeline.model.classes else None
    plan = replace(pipeline.plan, steps=2)
    made = inpaint(pipeline, images, hole, labels, seeds=[0, 1], plan=plan, blend_radius=0.01)
    assert made.pixels.shape == images.shape
    assert torch.equal(made.pixels[..., ~hole], images[..., ~hole])
    whole = inpaint(pipeline, images, hole, labels, seeds=[0, 1], plan=plan)
    touched = masked_tokens(hole[None], STRIDE).view(grid)
    assert touched.nonzero().tolist() == [[0, grid[1] - 2], [0, grid[1] - 1]]
    other = inpaint(pipeline, images, hole, labels, seeds=[5, 6], plan=plan)
    if pipeline.model.channels is None:
        differs = (whole.tokens != other.tokens).view(2, *grid)
        assert not differs[:, ~touched].any(), "tokens outside the hole are the image's own"


def test_a_cache_is_of_the_crops_that_were_asked_for(root: Path, capsys: Capsys) -> None:
    trained(root, "pre_norm", GRID)
    cache = LatentCache.open(root / "pre_norm 3x5-cache")
    assert (cache.plan.image_size, cache.grid, cache.length) == ((12, 20), GRID, 15)
    source, transform = open_source(root / "images"), Transform(size=(12, 20))
    tokenizer = load_tokenizer(root / "toy-vq")
    image = transform(source.image(4)).unsqueeze(0).float() / 255
    views = torch.cat([tokenizer.encode(image), tokenizer.encode(image.flip(-1))])
    assert torch.equal(cache.tokens(torch.tensor([4, 4]), torch.tensor([0, 1])), views)
    words = ["--tokenizer", root / "kl", "--data", root / "images", "--image-size", 20, 12]
    run("cache", "build", *words, "--crops", 2, "--out", root / "crops")
    kept = LatentCache.open(root / "crops")
    assert kept.plan.image_size == (20, 12)
    rows = torch.arange(3)
    assert kept.stored(rows, rows % 2).shape == (3, 12, 5, 3)
    assert kept.tokens(rows, rows % 2, torch.zeros(3, 15, 6)).shape == (3, 15, 6)
    capsys.readouterr()
    run("cache", "info", root / "crops")
    told = capsys.readouterr().out
    assert "15 (5 x 3) of" in told
    assert "20x12" in told


def test_options_make_a_square_recipe_a_rectangle(root: Path, capsys: Capsys) -> None:
    recipe = replace(FAMILIES["pre_norm"], tokenizer=str(root / "toy-vq"))
    write_yaml(recipe, root / "square.yaml")
    words = ["train", root / "square.yaml", "--data", root / "images"]
    size, length = ["--image-size", 12, 20], ["--network.length", 15]
    grid = ["--network.grid", 3, 5]
    for given, told in {
        (*size,): "4x4 tokens but the images have 3x5; give --network.length 15 --network.grid 3 5",
        (*size, *length): "network.length=15 is not a 3x3 grid",
        (*length, *grid): "3x5 tokens but the images have 4x4; give --network.length 16",
        (*length, "--network.grid", 5, 3, *size): "5x3 tokens but the images have 3x5",
        ("--image-size", 12, 18): "image size 12 18 does not divide by this tokenizer's stride 4; "
        "use a multiple, for example 12 16",
        ("--image-size", 12, 0): "image_size=(12, 0)",
    }.items():
        assert main(list(map(str, [*words, "--out", root / "none", *given]))) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    assert not (root / "none").exists()
    run(*words, "--out", root / "given", *size, *length, *grid)
    run(*words, "--out", root / "given", *size, *length, *grid)  # it continues: the same recipe
    assert load(root / "given").model.grid == GRID
    assert load(root / "given" / "model").recipe.image_size == (12, 20)
    for base in (root / "given", trained(root, "random crops", (5, 3))):
        turned = ["--network.grid", 5, 3, "--base", base, "--out", root / "turned"]
        status = main(list(map(str, [*words, "--image-size", 20, 12, *length, *turned])))
        assert status == (0 if "5x3" in str(base) else 2)
    assert "has 3x5 tokens and this network 5x3" in capsys.readouterr().err


def test_a_base_of_other_heads_is_refused_in_either_half(root: Path, capsys: Capsys) -> None:
    base = trained(root, "mage", GRID)
    recipe = of_grid(FAMILIES["mage"], GRID)
    write_yaml(replace(recipe, tokenizer=str(root / "toy-vq")), root / "mage.yaml")
    words = ["train", root / "mage.yaml", "--data", root / "images", "--base", base]
    words += ["--out", root / "heads", "--network.decoder-heads", 3]
    assert main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert "2 decoder heads a block and network.decoder_heads=3" in error
    assert "give --network.decoder-heads 2" in error


def test_another_cache_is_refused_whose_images_have_another_shape(
    root: Path, capsys: Capsys
) -> None:
    trained(root, "pre_norm", GRID)
    recipe = of_grid(FAMILIES["pre_norm"], (5, 3))
    write_yaml(replace(recipe, tokenizer=str(root / "toy-vq")), root / "turned.yaml")
    words = ["train", root / "turned.yaml", "--cache", root / "pre_norm 3x5-cache"]
    assert main(list(map(str, [*words, "--out", root / "refused"]))) == 2
    assert "5x3 tokens but the images have 3x5" in capsys.readouterr().err
    words = [*words, "--network.grid", 3, 5, "--out", root / "refused"]
    assert main(list(map(str, words))) == 2
    assert "image_size=20 12 but 3x5 tokens of 4 pixels are 12x20" in capsys.readouterr().err


def test_an_older_run_of_another_stated_size_goes_on(root: Path) -> None:
    """Runs from a cache did not compare their image size with it before."""
    trained(root, "pre_norm", GRID)
    cache = LatentCache.open(root / "pre_norm 3x5-cache")
    recipe = of_grid(FAMILIES["pre_norm"], GRID)
    recipe = replace(recipe, image_size=64, tokenizer=str(root / "toy-vq"))
    write_yaml(recipe, root / "older.yaml")
    make_task(recipe, load_tokenizer(root / "toy-vq")).train(cache, out=root / "older")
    words = ["train", root / "older.yaml", "--cache", root / "pre_norm 3x5-cache"]
    run(*words, "--out", root / "older")
    assert main(list(map(str, [*words, "--out", root / "newer"]))) == 2
    model = Generated.of_pipeline(load(root / "older"), EvaluationOptions(count=4), recipe.plan)
    assert model.shape == (3, 12, 20)


@pytest.mark.parametrize("family", ["pre_norm", "mar"])
def test_a_model_and_its_files_are_judged_alike(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = trained(root, family, GRID)
    (tmp_path / "rows.py").write_text(
        "def rows(images):\n    assert images.shape[1:] == (3, 12, 20)\n"
        "    return images.mean(3)[:, 0]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "rows", raising=False)
    data = ["--data", root / "images", "--count", 6, "--features", "rows:rows"]
    classifier = ["--classifier", "train"] if family == "pre_norm" else []
    run("eval", model, *data, *classifier, "--out", "model.json")
    for kind, place in (("npz", "made/samples.npz"), ("folder", "made/images")):
        run("sample", model, "--per-class", 2, "--format", kind, "--out", "made")
        run("eval", place, *data, "--out", "files.json")
    names = {row["name"] for row in json.loads(Path("model.json").read_text())["rows"]}
    assert {"real floor", "reconstruction floor"} <= names


def test_the_usual_features_take_any_shape() -> None:
    for size in ((12, 20), (4, 24), (64, 40)):
        images = torch.randint(256, (2, 3, *size), generator=keyed_generator("judged"))
        found = EfficientNetLite0(resize=32)(images.to(torch.uint8))
        assert found.pooled.shape == (2, 1280)
        assert found.pooled.isfinite().all()


def test_an_encoder_is_probed_at_its_own_shape(root: Path, capsys: Capsys) -> None:
    model = trained(root, "mage", GRID)
    course = ["--batch-size", 6, "--epochs", 1, "--warmup-epochs", 0]
    data = ["--data", root / "images"]
    run("probe", model, *data, *course, "--out", root / "probe")
    run("probe", model, *data, *course, "--baseline", "pixels", "--out", root / "pixels")
    run("finetune", root / "probe" / "last", *data, *course, "--out", root / "tuned",
        "--mixing.group", 6)  # fmt: skip
    run("features", root / "tuned" / "last", *data, "--out", root / "features.npy")
    assert np.load(root / "features.npy").shape == (18, 24)
    capsys.readouterr()
    words = ["features", model, *data, "--out", root / "others.npy", "--image-size", 20, 12]
    assert main(list(map(str, words))) == 2
    assert "the images have 5x3 tokens, the encoder was trained on 3x5" in capsys.readouterr().err
    run(*words, "--interpolate")


@pytest.mark.parametrize(
    "network",
    [
        TOKENIZER,
        pytest.param(  # the same way once more, a few seconds
            ConvKL(widths=(8, 8, 8), blocks=(0, 0, 0)), marks=pytest.mark.slow
        ),
    ],
    ids=["codes", "latents"],
)
def test_a_tokenizer_is_trained_and_compared_at_height_and_width(
    root: Path, tmp_path: Path, capsys: Capsys, network: ConvVQ | ConvKL
) -> None:
    training = replace(SURE, label_dropout=0.0, ema=None)
    loss = (
        TokenizerLoss(perceptual=0.1, adversarial=0.1) if network == TOKENIZER else TokenizerLoss()
    )
    recipe = TokenizerRecipe(
        name="tiny", summary="tiny", image_size=(16, 28), network=network, training=training,
        crop="random", loss=loss,
    )  # fmt: skip
    write_yaml(recipe, tmp_path / "t.yaml")
    data = ["--data", root / "images"]
    run("tokenizer", "train", tmp_path / "t.yaml", *data, "--out", tmp_path / "t")
    pairs = Image.open(next((tmp_path / "t" / "samples").glob("*.png")))
    assert pairs.height == 2 * (2 * (16 + 2) + 2)
    words = ["tokenizer", "eval", tmp_path / "t", *data, "--split", "train", "--count", 4]
    run(*words, "--image-size", 16, 28, "--out", tmp_path / "e")
    assert "16x28 by ADM's centre crop" in capsys.readouterr().out
    assert "4x7 of" in (tmp_path / "e" / "table.md").read_text()


@pytest.mark.parametrize("codes", [1, 2])
@pytest.mark.parametrize("grid", [(1, 1), (1, 2)], ids=str)
def test_the_smallest_systems_draw(codes: int, grid: tuple[int, int]) -> None:
    length = grid[0] * grid[1]
    small = {"codes": codes, "length": length, "grid": grid}
    plan = Plan(steps=length)
    for recipe in (FAMILIES["pre_norm"], POST, MAGE):
        network = replace(recipe.network, **small)
        size = (STRIDE * grid[0], STRIDE * grid[1])
        shown = replace(recipe, network=network, image_size=size, plan=plan)
        labels = [0, 0] if network.classes else None
        if codes == 1:  # of which no tokenizer is made
            made = Pipeline(shown, network.build(), None).tokens(labels, seeds=[1, 2])
            assert made.tokens.tolist() == [[0] * length] * 2
            continue
        tokenizer = ConvVQTokenizer(replace(TOKENIZER, codes=codes)).eval()
        pixels = Pipeline(shown, network.build(), tokenizer)(labels, seeds=[1, 2]).pixels
        assert pixels.shape == (2, 3, *size)
