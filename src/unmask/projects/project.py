"""What one source project declares: how its files are recognised, read, and written again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from unmask.checkpoints.names import Table, count_of, rename, shape_of, to_source
from unmask.errors import InputError
from unmask.networks.network import Network
from unmask.networks.sizes import stated_grid, token_grid
from unmask.recipes.recipe import Recipe
from unmask.tokenizers.image_tokenizer import ImageTokenizer

Tensors = Mapping[str, Tensor]

TIMM_LAYERS = {
    "norm1.{part}": "attention_norm.{part}",
    "attn.qkv.{part}": "attention.qkv.{part}",
    "attn.proj.{part}": "attention.out.{part}",
    "norm2.{part}": "feed_forward_norm.{part}",
    "mlp.fc1.{part}": "feed_forward.expand.{part}",
    "mlp.fc2.{part}": "feed_forward.contract.{part}",
}
"""Our names of the layers of a block of timm's vision transformer."""


class Stated(TypedDict, total=False):
    """What a caller knows of a network beyond its files."""

    heads: int | None
    decoder_heads: int | None
    classes: int
    grid: tuple[int, int] | None


class Checkpoint(NamedTuple):
    """A source's file as it was read, and what the caller knows beyond it.

    Args:
        state: Tensors of the network by the source's keys.
        file: File of the tensors, named in errors.
        told: Names of state dicts in the file: the one ``taken``, those left ``aside``, ``empty``
            ones.
        config: Content of the source's configuration; empty where there is none.
        config_file: File of the configuration; None without one.
        own: The tensors by our names.
        heads: Attention heads that the caller states; None leaves them to the source.
        decoder_heads: Attention heads of the decoder that the caller states; None means the
            published number, or for MAR and eMIGM the encoder's where that is stated.
        classes: N that the caller states, for files whose shapes do not tell it.
        grid: (h, w) tokens that the caller states, since no file tells them; None means square.
    """

    state: Tensors
    file: Path
    told: Mapping[str, str] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})
    config_file: Path | None = None
    own: Tensors = MappingProxyType({})
    heads: int | None = None
    decoder_heads: int | None = None
    classes: int = 1000
    grid: tuple[int, int] | None = None

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor by our name; InputError where it is missing."""
        return shape_of(self.own, name, str(self.file))

    def count(self, pattern: str) -> int:
        """How many of our names fit a pattern of :mod:`unmask.checkpoints.names`."""
        return count_of(self.own, pattern)

    def grid_of(self, length: int, origin: Path | None = None) -> tuple[int, int] | None:
        """The grid of so many tokens, None for a square; InputError where they do not fill it."""
        return stated_grid(length, self.grid, str(origin or self.file))


class Parts(NamedTuple):
    """What lies in one file of a source."""

    network: Tensors
    """The generator's tensors by the source's keys."""
    tokenizer: Tensors = MappingProxyType({})
    """The tokenizer's tensors by its own keys; empty where the file holds none."""
    unknown: tuple[str, ...] = ()
    """Keys that belong to neither."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """How one project stores one kind of network, by default under our own names.

    Args:
        name: Name of the project on the command line.
        network: Class of our sizes that the project's code can build.
        rules: Rules from the project's keys to our names, where those of all sizes are the same.
        limits: From our sizes to the fields that the project fixes, with the value that each must
            have.
        more: Tensors that the project's files hold beside the network's own, by the project's keys.
        files: From our sizes and a state dict by the project's keys to the files of one export, by
            their path inside it; None where files of this form are read and not written.
        untold: Fields that these files do not tell, which the project's code must be given.
    """

    name: str
    network: type
    rules: Table = (rename("{rest}", "{rest}"),)
    limits: Callable[[Any], dict[str, Any]] = lambda config: {}
    more: Callable[[Any, ImageTokenizer | None], dict[str, Tensor]] = lambda config, tokenizer: {}
    files: Callable[[Any, dict[str, Tensor]], dict[str, Any]] | None = None
    untold: tuple[str, ...] = ()

    def table(self, config: Any) -> Table:
        """The rules from the project's keys to our names."""
        return self.rules

    def check(self, config: Any) -> None:
        """Refuse sizes that the project's code cannot build.

        Raises:
            InputError: naming the field, its value and the one that the project has.
        """
        if not isinstance(config, self.network):
            raise InputError(
                f"{self.name} stores a {self.network.__name__}, and this is a "
                f"{type(config).__name__}; choose another project, or keep this library's form"
            )
        for name, wanted in self.limits(config).items():
            if (value := getattr(config, name)) != wanted:
                raise InputError(
                    f"network.{name}={value!r} is beyond {self.name}, whose code has "
                    f"{name}={wanted!r}; train with that, or keep this library's form"
                )

    def state(
        self, config: Any, own: Tensors, tokenizer: ImageTokenizer | None = None
    ) -> dict[str, Tensor]:
        """Everything that the project expects under its keys, contiguous.

        Raises:
            InputError: a tensor of ours has no place there.
        """
        made = to_source(own, self.table(config)) | self.more(config, tokenizer)
        return {key: tensor.detach().contiguous() for key, tensor in made.items()}


@dataclass(frozen=True, kw_only=True)
class Project(Form):
    """A source project's generators.

    Args:
        mark: A key that only its files have, or those of a project of the same keys.
        fits: Test of a state dict with the mark: False if it cannot be this project's.
        sizes: The network of a checkpoint.
        parts: What a file holds beside the network.
        settled: Our state dict as the project's own code would load it.
        published: Names of published files, and where each is to be had.
        recipes: Published systems of the project; a converted network takes the plan of the likest
            one.
    """

    mark: str
    fits: Callable[[Tensors], bool] = lambda state: True
    sizes: Callable[[Checkpoint], Network]
    parts: Callable[[Tensors], Parts] = Parts
    settled: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda own: own
    published: Mapping[str, str] = field(default_factory=dict)
    recipes: tuple[Recipe, ...]


def square(network: Network) -> dict[str, Any]:
    """The limit of projects whose images are squares."""
    rows, columns = token_grid(network.length, network.grid)
    return {} if rows == columns else {"grid": None}
