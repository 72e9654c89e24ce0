"""The way back: a system's weights in the files of the project that its network comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from torch import nn

from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.streamed import fill_state, write_hashed
from unmask.checkpoints.write_tensors import write_tensors
from unmask.errors import InputError, pick
from unmask.files.durable import output_folder
from unmask.files.folders import check_folder
from unmask.pipeline import TOKENIZER, Pipeline
from unmask.projects.foreign import PROJECTS
from unmask.projects.project import Form, Project
from unmask.projects.tokenizer_forms import FORMS as TOKENIZER_FORMS
from unmask.tokenizers.folder import load_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer

FORMS: dict[str, Form] = {
    form.name: form for form in (*PROJECTS.values(), *TOKENIZER_FORMS) if form.files is not None
}
"""Everything that can be written, by its name on the command line."""


class Exported(NamedTuple):
    """What an export wrote.

    Args:
        files: Paths inside the folder.
        tensors: Tensors of the state dict, those beside the network's own included.
        untold: Sizes that these files do not tell, which the project's code must be given.
    """

    files: tuple[str, ...]
    tensors: int
    untold: dict[str, Any]


def open_for(name: str | Path, to: str) -> Pipeline | ImageTokenizer:
    """The model or tokenizer of that name, whichever a project stores.

    Args:
        name: a model folder, run or shipped name; for a tokenizer's project also anything that
            :func:`unmask.tokenizers.folder.load_tokenizer` takes.
        to: a key of :data:`FORMS`.

    Raises:
        InputError: when there is no such project, or nothing that it stores.
    """
    if isinstance(pick(FORMS, to, "project to export to"), Project):
        return Pipeline.from_pretrained(name)
    with suppress(InputError):  # of what is no folder of this library
        if (inside := find_folder(name) / TOKENIZER).is_dir():
            return load_tokenizer(inside)
    return load_tokenizer(name)


def export(system: Pipeline | ImageTokenizer, out: str | Path, to: str) -> Exported:
    """Write weights as the project itself would: every key that it expects, none that it does not.

    Weights are written in float32; what no computation of the project reads, which a folder of this
    library does not keep, is zeros.

    Args:
        system: a generator, or a tokenizer; of a generator its tokenizer is taken where ``to``
            stores tokenizers.
        out: folder that is new or empty; it is there when all of it is.
        to: a key of :data:`FORMS`.

    Raises:
        InputError: for a network that the project's code cannot build (naming the field, the value
            that the project has, and the way out), a folder that holds something, or a disk that
            refuses.
    """
    form, out = pick(FORMS, to, "project to export to"), Path(out)
    check_folder(out, "export")
    network, module, tokenizer = _meant(system, form)
    form.check(network)
    state = form.state(network, module.state_dict(), tokenizer)
    files = form.files(network, state) if form.files else {}
    with output_folder(out) as folder:
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _write(folder / name, content)
    sizes = {name: getattr(network, name) for name in form.untold}
    untold = {name: value for name, value in sizes.items() if value is not None}
    return Exported(tuple(files), len(state), untold)


def _meant(
    system: Pipeline | ImageTokenizer, form: Form
) -> tuple[Any, nn.Module, ImageTokenizer | None]:
    """Sizes and weights that a form stores, and the tokenizer beside them."""
    if not isinstance(form, Project):
        tokenizer = system.tokenizer if isinstance(system, Pipeline) else system
        return tokenizer.config, tokenizer, None
    if not isinstance(system, Pipeline):
        raise InputError(
            f"{form.name} stores generators, and this is a tokenizer; it can go to: "
            f"{', '.join(f.name for f in FORMS.values() if isinstance(system.config, f.network))}"
        )
    tokens = system.tokenizer if system.has_tokenizer else None
    return system.recipe.network, system.model, tokens


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """One file of an export, in the form that its ending says."""
    if path.suffix == ".json":
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
    elif path.suffix == ".yaml":
        path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf8")
    elif path.suffix == ".safetensors":
        write_tensors(path, content, {"format": "pt"})
    else:
        write_hashed(path, fill_state(content))
