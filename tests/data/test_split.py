from __future__ import annotations

from pathlib import Path

import pytest

from unmask.data.split import (
    TRAIN_NAMES,
    VAL_NAMES,
    check_split,
    file_rule,
    hash_rule,
    hashed_rows,
    split_files,
    split_folder,
)
from unmask.errors import InputError

KEYS = [f"class{i % 3}/{i}.png" for i in range(4000)]


def test_hashed_sides_are_a_partition_of_the_asked_share() -> None:
    train, val = (hashed_rows(KEYS, side, 0.1) for side in ("train", "val"))
    assert sorted(train + val) == list(range(4000)) == hashed_rows(KEYS, "all", 0.1)
    assert 320 < len(val) < 480


def test_an_image_keeps_its_side_when_others_come_and_go() -> None:
    val = {KEYS[row] for row in hashed_rows(KEYS, "val", 0.2)}
    some = KEYS[::7]
    assert {some[row] for row in hashed_rows(some, "val", 0.2)} == val & set(some)


def test_hashed_rows_do_not_change_between_versions() -> None:
    rows = hashed_rows([f"{i}.png" for i in range(40)], "val", 0.25)
    assert rows == [1, 15, 16, 19, 22, 25, 38]


def test_a_name_that_is_no_text_counts_by_its_bytes() -> None:
    keys = [f"{i}\udcff.png" for i in range(40)]  # as Python tells the byte 255 in a name
    assert hashed_rows(keys, "val", 0.25) == [1, 4, 6, 9, 15, 18, 20, 28, 34, 36]


def test_rule_states_the_share() -> None:
    assert "0.25" in hash_rule(0.25)


def names(*names: str) -> list[Path]:
    return [Path(name) for name in names]


def test_official_files() -> None:
    files = names("test-0.tar", "train-0.tar", "train-1.tar", "validation-0.tar", "x.tar")
    split = split_files(files)
    assert split == {
        "train": names("train-0.tar", "train-1.tar"),
        "val": names("validation-0.tar"),
    }
    assert file_rule(split) == (
        "official split by file name: train-0.tar, … and validation-0.tar, …"
    )


@pytest.mark.parametrize(
    "files", [("train-0.tar", "train-1.tar"), ("trainees-0.tar", "val-0.tar"), ("a.tar", "b.tar")]
)
def test_no_official_split_without_both_sides(files: tuple[str, str]) -> None:
    assert split_files(names(*files)) == {}
    assert file_rule({}) == ""


@pytest.mark.parametrize("train", ["Train", "training", "TRAINING"])
@pytest.mark.parametrize("val", ["VAL", "valid", "Validation", "dev", "test", "testing", "eval"])
def test_the_usual_names_in_any_letter_case(train: str, val: str) -> None:
    files = split_files(names(f"{train}-0.tar", f"{val}-0.tar"))
    assert files == {"train": names(f"{train}-0.tar"), "val": names(f"{val}-0.tar")}
    folders = ["extra", train, val]
    assert split_folder(folders, TRAIN_NAMES, Path("d")) == train
    assert split_folder(folders, VAL_NAMES, Path("d")) == val
    assert split_folder(["extra", "trainees"], TRAIN_NAMES, Path("d")) is None


def test_the_first_name_wins_and_two_of_one_are_refused() -> None:
    assert split_folder(["test", "dev", "Val"], VAL_NAMES, Path("d")) == "Val"
    with pytest.raises(InputError, match="d holds the folders Train and train; keep one"):
        split_folder(["train", "Train"], TRAIN_NAMES, Path("d"))


def test_unknown_split_and_share() -> None:
    with pytest.raises(InputError, match="unknown split 'vel'; did you mean 'val'"):
        check_split("vel", 0.1)
    with pytest.raises(InputError, match=r"val_share=1\.5"):
        check_split("val", 1.5)
