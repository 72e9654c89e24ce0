"""A trained system in one object: load it, call it, get images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import torch
from torch import Tensor

from unmask.checkpoints.locate import find_folder
from unmask.checkpoints.store import (
    CONFIG,
    WEIGHTS,
    Saved,
    entry,
    load_state,
    load_weights,
    save_together,
)
from unmask.draws import Seeds
from unmask.errors import InputError
from unmask.files.folders import as_place, check_folder
from unmask.files.json_files import read_json
from unmask.files.serial import from_dict, to_dict
from unmask.generation import Images, Options, Tokens, generate, generate_tokens
from unmask.labels import Classes, class_labels
from unmask.machine.devices import resolve_device
from unmask.memory import skeleton
from unmask.nn.model import MaskedModel
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.folder import load_tokenizer, saved_tokenizer
from unmask.tokenizers.image_tokenizer import ImageTokenizer

if TYPE_CHECKING:
    from unmask.machine.compute import Precision

FORMAT = "unmask-model"
TOKENIZER = "tokenizer"  # the folder of the tokenizer inside a model's


class Pipeline:
    """Network, tokenizer and default plan of one system, ready to sample.

    Args:
        recipe: what the network is and how to sample it.
        model: the network.
        tokenizer: turns tokens into images; None makes tokens only.
        class_names: by label, if known.

    Attributes:
        compute: arithmetic of the network where a call names none, see
            :class:`unmask.generation.Options`; it is not saved.

    Raises:
        InputError: when the tokenizer has another number of codes or channels than the network.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: MaskedModel,
        tokenizer: ImageTokenizer | None,
        class_names: Sequence[str] = (),
    ) -> None:
        if tokenizer is not None and tokenizer.space != recipe.network.space:
            (made, count), (what, wanted) = tokenizer.space, recipe.network.space
            raise InputError(
                f"the tokenizer has {count} {made} and the network {wanted} {what}; "
                "use the tokenizer that the network was trained with"
            )
        self.recipe = recipe
        self.model = model
        self._tokenizer = tokenizer
        self.plan = recipe.plan
        self.class_names = tuple(class_names)
        self.compute: Precision | None = None

    @property
    def model(self) -> MaskedModel:
        """The network; setting it puts it into evaluation mode.

        One that ``torch.compile`` has wrapped is unwrapped, so that its weights keep their names,
        and what runs of it in every decoding step is compiled with the same options.
        """
        return self._model

    @model.setter
    def model(self, model: MaskedModel) -> None:
        """Take a network, see the property."""
        wrapped: MaskedModel | None = getattr(model, "_orig_mod", None)
        if wrapped is not None:
            wrapped.compile_by(cast(Any, model).dynamo_ctx)
        self._model = (wrapped or model).eval()

    @property
    def tokenizer(self) -> ImageTokenizer:
        """What turns tokens into images.

        Raises:
            InputError: when the model came without one, naming the one it needs.
        """
        if self._tokenizer is None:
            raise InputError(
                f"this model came without its tokenizer, {self.recipe.tokenizer!r}, so it makes "
                "tokens but no pixels: ask for tokens (Pipeline.tokens, or unmask sample "
                "--format tokens), or convert it again with --tokenizer FOLDER"
            )
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's weights."""
        return next(self.model.parameters()).dtype

    @property
    def has_tokenizer(self) -> bool:
        """Whether the system has a tokenizer and can make pixels."""
        return self._tokenizer is not None

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype | None = None,
    ) -> Pipeline:
        """Load a model folder, a training run, a shipped recipe, or a hub repository.

        Args:
            name: a folder; or a name of ``unmask.assets.shipped_names()``; or ``owner/name``.
            device: where the weights go; "auto" is the machine's accelerator if it has one.
            dtype: type of the network's weights, see :meth:`to`; None means float32.

        Raises:
            InputError: when nothing of that name is found, it holds no model, the device is not
                available here, or no network can have weights of that type.
        """
        device = resolve_device(device)
        folder = find_folder(name)
        state, config = load_weights(folder)
        if config.get("format") != FORMAT:
            raise InputError(
                f"{folder} holds no unmask model, but {config.get('format')!r}; give the folder "
                "of a trained or converted generator"
            )
        stored = entry(config, "recipe", dict, folder)
        recipe = from_dict(Recipe, stored, str(folder / "config.json"))
        with skeleton():
            model = recipe.network.build()
        load_state(model, state)
        inside = folder / TOKENIZER
        wanted = config.get("has_tokenizer", True) and inside.exists()
        tokenizer = load_tokenizer(inside) if wanted else None
        names = map(str, entry(config, "class_names", list, folder))
        pipeline = cls(recipe, model.requires_grad_(False), tokenizer, tuple(names))
        return pipeline.to(device, dtype)

    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | None = None,
    ) -> Pipeline:
        """Move network and tokenizer, or convert the network's weights.

        Args:
            device: a device or "auto"; None leaves them where they are. A type of numbers in its
                place is taken as ``dtype``.
            dtype: float32, bfloat16 or float16, in which the network then computes; its head's
                states, softmax and log-probabilities stay float32. The tokenizer, whose pixels
                would change, stays as it is. ``compute`` lowers the arithmetic alone, and rounds
                less.

        Returns:
            Itself.

        Raises:
            InputError: a device that is not here, or another type.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        if dtype not in (None, torch.float32, torch.bfloat16, torch.float16):
            raise InputError(
                f"dtype={dtype} is no type for a network's weights; give torch.float32, "
                "torch.bfloat16 or torch.float16"
            )
        place = self.device if device is None else resolve_device(device)
        self.model.to(place, dtype)
        if self._tokenizer is not None:
            self._tokenizer.to(place)
        return self

    def save_pretrained(self, folder: str | Path, *, half: bool = False) -> None:
        """Write a self-contained model folder: the tokenizer first, the model last.

        Args:
            folder: new, or an earlier model to replace.
            half: store weights as float16.

        Raises:
            InputError: when the folder holds something else (nothing is written), or the disk
                refuses (a model that was there is whole).
        """
        folder = as_place(folder)
        check_place(folder)
        config: dict[str, Any] = {
            "format": FORMAT,
            "recipe": to_dict(self.recipe),
            "class_names": list(self.class_names),
            "has_tokenizer": self.has_tokenizer,
        }
        saved = [Saved(folder, self.model.state_dict(), config)]
        if self._tokenizer is not None:
            saved.insert(0, saved_tokenizer(self._tokenizer, folder / TOKENIZER))
        save_together(*saved, half=half)

    def labels(self, classes: Classes) -> list[int]:
        """Class labels from labels or names.

        Args:
            classes: integers of any integer type, which are labels, or strings, which are names;
                in a list, array or tensor, or alone; "none" is the null class, where there is one.

        Raises:
            InputError: for a class that does not exist.
        """
        names = self.class_names or tuple(str(i) for i in range(self.model.classes))
        return class_labels(names, classes, self.model.null_class)

    def __call__(
        self, class_labels: Classes | None = None, *, seeds: Seeds = 0, **options: Unpack[Options]
    ) -> Images:
        """Generate images, all at once.

        Args:
            class_labels: labels (integers) or names (strings), one an image; None for an
                unconditional model.
            seeds: integers, one an image, or the first of consecutive ones.
            **options: such as ``plan`` and ``batch_size``; see
                :class:`unmask.generation.Options`.

        Raises:
            InputError: see :func:`unmask.generation.generate`.
        """
        batches = list(generate(self, class_labels, seeds=seeds, **options))
        return Images(torch.cat([batch.pixels for batch in batches]), *_joined(batches))

    def tokens(
        self, class_labels: Classes | None = None, *, seeds: Seeds = 0, **options: Unpack[Options]
    ) -> Tokens:
        """Generate images as tokens, for which no tokenizer is needed; called like the pipeline."""
        return Tokens(*_joined(list(generate_tokens(self, class_labels, seeds=seeds, **options))))


def _joined(batches: Sequence[Tokens | Images]) -> tuple[Tensor, Tensor | None, list[int]]:
    """Tokens, labels and seeds of all batches."""
    labels = [batch.class_labels for batch in batches if batch.class_labels is not None]
    return (
        torch.cat([batch.tokens for batch in batches]),
        torch.cat(labels) if labels else None,
        [seed for batch in batches for seed in batch.seeds],
    )


def check_place(folder: Path, wanted: str = FORMAT) -> None:
    """Refuse to save where anything but an earlier model lies.

    Args:
        folder: where to save; need not exist.
        wanted: what kind of folder may be replaced, the "format" of its ``config.json``.

    Raises:
        InputError: naming what is there.
    """
    what = wanted.removeprefix("unmask-")
    check_folder(folder, f"{what} of this library", may_hold=lambda: _is_of(wanted, folder))


def _is_of(wanted: str, folder: Path) -> bool:
    """Whether a save of that kind ended there, or was cut off before its configuration."""
    if not (folder / CONFIG).exists():
        return all(path.name in (WEIGHTS, TOKENIZER) for path in folder.glob("[!.]*"))
    try:
        found = read_json(folder / CONFIG)
    except InputError:
        return False
    return isinstance(found, dict) and found.get("format") == wanted


def load(
    name: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Pipeline:
    """Short for :meth:`Pipeline.from_pretrained`."""
    return Pipeline.from_pretrained(name, device=device, dtype=dtype)
