"""YAML in and out: strict about keys and types, and it says where."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import yaml
from toy_system import TOY

from unmask.errors import InputError
from unmask.files.serial import MADE_FROM, from_dict, read_yaml, to_dict, write_yaml
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.orders import RandomOrder, StaticOrder
from unmask.recipes.recipe import Recipe
from unmask.recipes.tokenizers import TOKENIZER_RECIPES, TokenizerRecipe
from unmask.results import Result


@pytest.mark.parametrize(
    "recipe",
    [
        TOY,
        replace(TOY, plan=replace(TOY.plan, order=RandomOrder())),
        replace(TOY, plan=replace(TOY.plan, order=StaticOrder(path="halton"))),
        replace(TOY, network=replace(TOY.network, grid=(2, 8))),
        replace(TOY, training=replace(TOY.training, ema=None, clip_grad_norm=0.5)),
        replace(TOY, results=(Result(metric="FID", value=3.5, setting="größer", source="here"),)),
    ],
)
def test_a_recipe_survives(recipe: Recipe, tmp_path: Path) -> None:
    write_yaml(recipe, tmp_path / "a.yaml")
    assert read_yaml(Recipe, tmp_path / "a.yaml") == recipe
    assert from_dict(Recipe, to_dict(recipe), "here") == recipe


@pytest.mark.parametrize("name", TOKENIZER_RECIPES)
def test_a_tokenizer_recipe_survives(name: str, tmp_path: Path) -> None:
    write_yaml(TOKENIZER_RECIPES[name], tmp_path / "a.yaml")
    assert read_yaml(TokenizerRecipe, tmp_path / "a.yaml") == TOKENIZER_RECIPES[name]


def test_what_a_run_adds_is_left_aside(tmp_path: Path) -> None:
    data = {**to_dict(TOY), MADE_FROM: {"images": 3}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data))
    assert read_yaml(Recipe, tmp_path / "recipe.yaml") == TOY


def test_defaults_may_be_left_out_and_whole_numbers_are_floats_too() -> None:
    data = to_dict(TOY)
    del data["crop"], data["masking"], data["plan"]["steps"]
    data["training"]["lr"] = 1
    recipe = from_dict(Recipe, data, "here")
    assert (recipe.crop, recipe.plan.steps) == ("center", 8)
    assert recipe.training.lr == 1.0
    assert isinstance(recipe.training.lr, float)


def test_a_part_without_a_kind_is_the_usual_one() -> None:
    data = to_dict(TOY)
    parts = (data["masking"], data["plan"]["order"], data["plan"]["counts"], data["plan"]["draw"])
    assert [part.pop("kind") for part in parts] == [
        "TrainMasking",
        "Confidence",
        "FixedCounts",
        "CategoricalDraw",
    ]
    assert from_dict(Recipe, data, "here") == TOY


def changed(path: str, value: object) -> dict:
    """The toy recipe with one key set; a value of None removes it."""
    data = to_dict(TOY)
    *parents, key = path.split(".")
    place = data
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[key]
    else:
        place[key] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sumary", "x", "unknown key 'sumary'; did you mean 'summary'"),
        ("plan.step", 4, r"unknown key 'plan\.step'; did you mean 'steps'"),
        ("training.learning_rate", 1.0, r"unknown key 'training\.learning_rate'"),
        ("network.widht", 4, r"unknown key 'network\.widht'; did you mean 'width'"),
        ("plan.order.temprature", 4, r"'plan\.order\.temprature'; did you mean 'temperature'"),
        ("training.steps", "many", r"training\.steps: 'many' is not of type int"),
        ("training.steps", 2.5, r"training\.steps: 2\.5 is not of type int"),
        ("training.steps", True, r"training\.steps: True is not of type int"),
        ("flip", "no", "flip: 'no' is not of type bool"),
        ("crop", "centre", "crop: 'centre' is no choice; did you mean 'center'"),
        (
            "network.kind",
            "MaskGITVitNetwrok",
            r"network\.kind: unknown .* mean 'MaskGITVitNetwork'",
        ),
        ("network.kind", None, r"the key 'network\.kind' is missing"),
        ("network", None, "the key 'network' is missing"),
        ("network.codes", None, r"the key 'network\.codes' is missing"),
        ("plan", 3, "plan: "),
        ("network.width", 33, r"network\.width=33 does not divide by heads=2"),
        ("plan.steps", 99, r"plan\.steps=99 exceeds network\.length=16"),
        ("masking.curve", "cosin", "unknown mask curve 'cosin'; did you mean 'cosine'"),
        ("training.batch_size", 0, r"training\.batch_size=0 must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_that_says_where(path: str, value: object, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        from_dict(Recipe, changed(path, value), "my.yaml")
    assert str(error.value).startswith("my.yaml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "is not YAML"),
        (b"- 1\n- 2\n", "holds no mapping of keys to values"),
        (b"", "holds no mapping of keys to values"),
        (b"\xff\xfe\x00bad", "is not YAML"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_yaml(Recipe, tmp_path / "a.yaml")
    assert "\n" not in str(error.value)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_yaml(Recipe, tmp_path / "a.yaml")
    with pytest.raises(InputError, match="is a folder"):
        read_yaml(Recipe, tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr: 1e-4", "training.lr: '1e-4' is not of type float; write 1.0e-4"),
        ("lr: 2.5e3", "training.lr: '2.5e3' is not of type float; write 2.5e+3"),
        ("lr: -3E+4", "training.lr: '-3E+4' is not of type float; write -3.0e+4"),
        ("lr: '0.1'", "training.lr: '0.1' is not of type float; write 0.1 without quotes"),
        ("lr: fast", "training.lr: 'fast' is not of type float"),
        ("lr: .nan", "training.lr=nan must lie in [0, 1000]"),
        ("steps: '7'", "training.steps: '7' is not of type int; write 7 without quotes"),
        ("precision: no", "training.precision: False is no choice; quote 'no'"),
        ("precision: yes", "training.precision: True is no choice; known: bf16, fp16, no"),
        ("tracker: no", "training.tracker: False is not of type str; quote it: 'false'"),
        ("tracker: 3", "training.tracker: 3 is not of type str; quote it: '3'"),
    ],
)
def test_what_yaml_reads_otherwise_is_told_how_to_write(
    tmp_path: Path, line: str, message: str
) -> None:
    data = to_dict(TOY)
    key = line.split(":")[0]
    del data["training"][key]
    path = tmp_path / "a.yaml"
    path.write_text(yaml.safe_dump(data).replace("training:\n", f"training:\n  {line}\n"))
    with pytest.raises(InputError) as error:
        read_yaml(Recipe, path)
    assert str(error.value) == f"{path}: {message}"


def test_the_network_class_is_part_of_the_file() -> None:
    network = MaskGITBertNetwork(
        codes=16, width=32, depth=1, heads=2, feed_forward=32, length=16, classes=3
    )
    training = replace(TOY.training, label_dropout=0.0)
    plan = replace(TOY.plan, guidance=replace(TOY.plan.guidance, scale=1.0))
    recipe = replace(TOY, network=network, training=training, plan=plan)
    assert to_dict(recipe)["network"]["kind"] == "MaskGITBertNetwork"
    assert from_dict(Recipe, to_dict(recipe), "here").network == network


class Shape(ABC):
    """Two choices, one of which had other names."""

    @abstractmethod
    def corners(self) -> int: ...


@dataclass(frozen=True)
class Square(Shape):
    formerly: ClassVar[tuple[str, ...]] = ("Quadrat", "Carré")
    side: int = 1

    def corners(self) -> int:
        return 4


@dataclass(frozen=True)
class RoundedSquare(Square):
    """Inherits, but never had its parent's names."""

    def corners(self) -> int:
        return 0


@dataclass(frozen=True)
class Drawing:
    shape: Shape


@pytest.mark.parametrize("kind", ["Square", "Quadrat", "Carré"])
def test_a_renamed_class_is_read_by_its_former_names(kind: str) -> None:
    drawing = from_dict(Drawing, {"shape": {"kind": kind, "side": 3}}, "here")
    assert drawing == Drawing(Square(side=3))
    assert to_dict(drawing) == {"shape": {"side": 3, "kind": "Square"}}


@dataclass(frozen=True)
class Colour:
    """May have heirs, and needs no name itself."""

    extensible: ClassVar[bool] = True
    hue: float = 0.5


@dataclass(frozen=True)
class Pale(Colour):
    white: float = 0.9


@dataclass(frozen=True)
class Painting:
    colour: Colour


def test_an_heir_of_an_extensible_class_is_named_and_the_class_itself_is_not() -> None:
    plain, pale = Painting(Colour(hue=0.25)), Painting(Pale(white=0.75))
    assert to_dict(plain) == {"colour": {"hue": 0.25}}
    assert to_dict(pale) == {"colour": {"hue": 0.5, "white": 0.75, "kind": "Pale"}}
    for painting in (plain, pale):
        assert from_dict(Painting, to_dict(painting), "here") == painting
    with pytest.raises(InputError, match=r"unknown key 'colour\.wite'; did you mean 'white'"):
        from_dict(Painting, {"colour": {"kind": "Pale", "wite": 1.0}}, "here")
    with pytest.raises(InputError, match=r"colour\.kind: unknown class 'Pal'; .* 'Pale'"):
        from_dict(Painting, {"colour": {"kind": "Pal"}}, "here")


def test_an_unknown_class_is_refused_with_the_present_names() -> None:
    with pytest.raises(InputError) as error:
        from_dict(Drawing, {"shape": {"kind": "Kreis"}}, "here")
    assert str(error.value) == (
        "here: shape.kind: unknown class 'Kreis'; known: RoundedSquare, Square"
    )
