"""Whether a folder can take a run: empty, or holding the same run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import yaml

from unmask.checkpoints.locate import EXPORT
from unmask.errors import InputError
from unmask.files import durable
from unmask.files.folders import check_folder, visible
from unmask.files.serial import MADE_FROM, former_names
from unmask.recipes.training import Training
from unmask.train import state

RECIPE = "recipe.yaml"
CHECKPOINTS, SAMPLES, TRACKER, LOG = "checkpoints", "samples", "tracker", "log.jsonl"
BEST = "best"
LOOKS = {"preview_every", "preview_images", "preview_share"}
EVALUATION = {f.name for f in fields(Training) if f.name.startswith("evaluate_")} | {"keep_best"}
SAVES = {"save_every", "save_minutes", "keep", "keep_every"}
MAY_CHANGE = LOOKS | EVALUATION | SAVES | {"steps", "log_every", "tracker"}
MAY_CHANGE |= {"results"}  # what a recipe quotes from reports decides nothing

MAY_BE_UNKNOWN = {"made_from.content"}  # older caches did not note it
MEANING = {
    "made_from.content": "the bytes of the images",
    "made_from.data": "the names and classes of the images",
}


def plain_config(config: Mapping[str, object]) -> dict[str, object]:
    """A configuration as its JSON form reads back: tuples are lists, keys are strings."""
    return json.loads(json.dumps(config))


def flat_config(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Leaves of a nested configuration with their dotted names."""
    if isinstance(config, Mapping) and config:
        for key, value in config.items():
            yield from flat_config(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, config


def differing_keys(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Dotted names whose values differ, less the training frequencies and the number of steps.

    An option that the older one lacks was None there: None is how a later option leaves a run of
    an earlier revision as it is. A class goes by its former names too. What only one of them knows
    (:data:`MAY_BE_UNKNOWN`) differs from nothing.
    """
    free = MAY_CHANGE | {f"training.{name}" for name in MAY_CHANGE}
    before, after = dict(flat_config(old)), dict(flat_config(new))
    names = sorted((before.keys() | after.keys()) - free)
    gone = object()
    known = [n for n in names if n not in MAY_BE_UNKNOWN or (before.get(n) and after.get(n))]
    same = {n: (after.get(n, gone), *former_names(after.get(n))) for n in known}
    return [n for n in known if before.get(n) not in same[n]]


def known_to_one(old: Mapping[str, object], new: Mapping[str, object]) -> list[str]:
    """Dotted names of what could not be compared, as only one of both notes it."""
    before, after = dict(flat_config(old)), dict(flat_config(new))
    return [n for n in sorted(MAY_BE_UNKNOWN) if bool(before.get(n)) != bool(after.get(n))]


def check_run_folder(
    out: Path, config: Mapping[str, object], tell: Callable[[str], object] = lambda line: None
) -> None:
    """Refuse a folder that holds anything but this run; nothing is written.

    Args:
        out: the run folder, which need not exist.
        config: the run's configuration, as :func:`plain_config` gives it.
        tell: called with a line on what an older revision did not note.

    Raises:
        InputError: if ``out`` is a file, holds other files, or a run of another configuration.
    """
    check_place(out)
    _check_parts(out)
    stored = stored_config(out)
    if stored is None:
        return
    if MADE_FROM in config and MADE_FROM not in stored:
        tell(f"{out} was taken over and does not know its data and tokenizer; these are noted now")
        config = {name: value for name, value in config.items() if name != MADE_FROM}
    changed = differing_keys(stored, config)
    if changed:
        raise InputError(
            f"{out} holds a run with other values of {_in_words(changed)}; give the same values "
            "to continue it, or another folder to start anew"
        )
    if unknown := known_to_one(stored, config):
        tell(
            f"{out} or its cache is of an older revision, which did not note {unknown[0]}: names "
            "and classes of the images agree, and it goes on"
        )


def _in_words(names: Sequence[str]) -> str:
    return ", ".join(f"{name} ({MEANING[name]})" if name in MEANING else name for name in names)


def check_place(out: Path) -> None:
    """Refuse a folder that holds files but no run; nothing is written.

    Raises:
        InputError: also when ``out`` is a file.
    """
    check_folder(out, "run", may_hold=lambda: stored_config(out) is not None or _begun(out))


def _check_parts(out: Path) -> None:
    """Refuse files where a run has folders, and folders where it has files.

    Raises:
        InputError: naming what is in the way.
    """
    for name in (CHECKPOINTS, SAMPLES, TRACKER, EXPORT, BEST):
        if (out / name).exists() and not (out / name).is_dir():
            raise InputError(f"{out / name} is a file where a run has a folder; move it elsewhere")
    for name in (RECIPE, LOG):
        if (out / name).is_dir():
            raise InputError(f"{out / name} is a folder where a run has a file; move it elsewhere")
    for step, path in state.step_folders(out / CHECKPOINTS).items():
        if not path.is_dir():
            raise InputError(
                f"{path} is a file where the checkpoint of step {step} goes; move it elsewhere"
            )


def _begun(out: Path) -> bool:
    """Whether a start ended before its recipe was there: trackers come first."""
    return visible(out) == [TRACKER]


def stored_config(out: Path) -> dict[str, object] | None:
    """Configuration of the run in a folder: of its newest checkpoint, else of its recipe file.

    Only the checkpoint's configuration is looked at: whether its weights are whole is asked where
    they are needed.

    Raises:
        InputError: the recipe file is not YAML.
    """
    config = state.stored_config(out / CHECKPOINTS)
    recipe = out / RECIPE
    if config is not None or not recipe.exists():
        return config
    try:
        content = yaml.safe_load(recipe.read_text(encoding="utf8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{recipe} is not YAML; mend it or name a new folder") from error
    return content if isinstance(content, dict) else {}


def write_recipe(out: Path, config: Mapping[str, object]) -> None:
    """Make the folder and store the configuration in it.

    Raises:
        InputError: if the disk is full or refuses.
    """
    text = yaml.safe_dump(dict(config), sort_keys=False).encode()
    durable.replace_file(out / RECIPE, text, "nothing that was there has changed")
