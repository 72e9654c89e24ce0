from pathlib import Path

import pytest

from unmask.image_size import ImageSize
from unmask.recipes.trained_size import trained_size

OLD = Path(__file__).parents[1] / "fixtures" / "before_issue_11"


@pytest.mark.parametrize(
    ("name", "size"),
    [("fashion-vq", 28), ("fashion-kl", 28), ("kl16", 256), ("dc-ae-f32c32-in-1.0", 512),
     ("patches-4-grey", None), ("nobody/knows", None)],
)  # fmt: skip
def test_recipes_tell(name: str, size: ImageSize | None) -> None:
    assert trained_size(name) == size


def test_the_run_of_a_tokenizer_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained_size(str(OLD / "vq")) == 16
    assert trained_size(str(OLD / "vq" / "model")) == 16
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fashion-vq").mkdir()  # a folder of somebody's, by the name of a recipe
    assert trained_size("fashion-vq") is None
    for text in ("image_size: [32, 48]", "image_size: 0", "{", "[1", "\xff", "[" * 10_000, "3"):
        (tmp_path / "fashion-vq" / "recipe.yaml").write_text(text)
        assert trained_size("fashion-vq") == ((32, 48) if "48" in text else None)
