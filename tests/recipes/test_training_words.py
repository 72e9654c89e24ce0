"""Words of the sources for steps, rate and warm-up, beside what the published runs made of them."""

from __future__ import annotations

import pytest

from unmask.errors import InputError
from unmask.files.serial import from_dict, to_dict
from unmask.recipes import get
from unmask.recipes.training import IMAGENET, Training, in_steps


@pytest.mark.parametrize("name", ["mar-large", "emigm-small-256"])
def test_the_published_words_give_the_published_training(name: str) -> None:
    """``--epochs 800 --warmup_epochs 100 --blr 1e-4`` of ``main_mar.py``."""
    published = get(name).training
    told = Training(
        **{
            **{key: getattr(published, key) for key in to_dict(published)},
            "steps": 1,
            "lr": 1.0,
            "warmup_steps": 0,
            "epochs": 800,
            "blr": 1e-4,
            "warmup_epochs": 100,
        }
    )
    assert in_steps(told, IMAGENET) == published


def test_parts_of_an_epoch_are_rounded_and_at_least_a_step() -> None:
    training = Training(steps=7, batch_size=100, epochs=2.5, warmup_epochs=0.26, blr=0.5)
    found = in_steps(training, 1099)
    assert (found.steps, found.warmup_steps, found.lr) == (25, 3, 0.5 * 100 / 256)
    assert (found.epochs, found.warmup_epochs, found.blr) == (None, None, None)
    assert in_steps(found, 5) == found
    assert in_steps(Training(steps=7, batch_size=100, epochs=0.001), 1099).steps == 1


def test_too_many_epochs_are_one_line() -> None:
    with pytest.raises(InputError, match=r"steps=1281000000000 must be at most"):
        in_steps(Training(steps=1, batch_size=1, epochs=10**6), 1_281_000)


def test_all_checkpoints_can_be_kept_by_word_or_number() -> None:
    for keep in ("all", 0, 3):
        training = from_dict(Training, {"steps": 3, "keep": keep}, "x.yaml")
        assert training.keep == to_dict(training)["keep"] == keep
    for keep, wrong in (("most", "known: all"), (-1, "at least 0"), (1.5, "not of type int")):
        with pytest.raises(InputError, match=wrong):
            from_dict(Training, {"steps": 3, "keep": keep}, "x.yaml")
