import pytest

from unmask.commands.arguments import parse
from unmask.commands.tokenizer import Eval
from unmask.data.transform import Transform
from unmask.errors import InputError
from unmask.image_size import ImageSize, checked_size, height_width, size_text, size_words


@pytest.mark.parametrize(
    ("given", "wanted"), [(64, 64), ((64, 64), 64), ([48, 80], (48, 80)), ((80, 48), (80, 48))]
)
def test_equal_sizes_have_one_form(given: object, wanted: ImageSize) -> None:
    found = checked_size(given)
    assert found == wanted
    assert type(found) is type(wanted)
    assert checked_size(found) == found
    assert checked_size(height_width(found)) == found


@pytest.mark.parametrize(
    "wrong", [0, -1, 1.0, True, "64", None, (), (4,), (4, 4, 4), (4, 0), (4, 2.0)]
)
def test_what_no_image_has_is_refused_in_one_line(wrong: object) -> None:
    with pytest.raises(
        InputError, match=r"^image_size=.* must be at least 1 pixels: one whole number"
    ) as told:
        checked_size(wrong)
    assert "\n" not in str(told.value)


def test_a_field_keeps_one_form() -> None:
    forms = [Transform(size=size).size for size in (8, (8, 8), (7, 9))]
    assert forms == [8, 8, (7, 9)]
    with pytest.raises(InputError, match=r"size=\(7, 0\) must each be at least 1"):
        Transform(size=(7, 0))


@pytest.mark.parametrize("place", [0, 1, 3])
@pytest.mark.parametrize(("given", "wanted"), [("28", 28), ("28 28", 28), ("28 20", (28, 20))])
def test_an_option_takes_one_number_or_two_wherever_it_stands(
    given: str, wanted: ImageSize, place: int
) -> None:
    words = ["fashion-vq", "--data", "images"]
    words[place:place] = ["--image-size", *given.split()]
    found = parse(Eval, words, prog="x")
    assert (found.names, found.options.image_size) == (("fashion-vq",), wanted)


@pytest.mark.parametrize("wrong", ["x", "2.5", "", "0", "-4", "28 0", "28 9000", "9" * 40])
def test_another_word_is_refused_in_one_line(wrong: str) -> None:
    words = ["--data", "images", "--image-size", *wrong.split()]
    with pytest.raises(InputError, match=r"image.size") as told:
        parse(Eval, words, prog="x")
    assert "\n" not in str(told.value)


def test_words_for_people_and_for_options() -> None:
    assert [size_text(64), size_text((48, 80))] == ["64x64", "48x80"]
    assert [size_words(64), size_words((48, 80))] == ["64", "48 80"]
