"""The records of a latent cache on disk: what it is made from and what each file holds.

JSON with a checksum of the rest of its text, so that no bit of a record flips unseen.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import cattrs
import numpy as np

from unmask.errors import InputError
from unmask.files.damage import DAMAGE
from unmask.files.digests import digest_of, total
from unmask.files.json_files import read_json
from unmask.image_size import ImageSize, accept_sizes

UNKNOWN = "unknown"  # how the identity begins of a tokenizer that nobody named
Kind = Literal["codes", "moments"]
Dtype = Literal["uint16", "float32", "float16"]
Record = TypeVar("Record", bound="Encoding | CachePlan | Shard | CacheIndex")
RECORDS = cattrs.Converter()
accept_sizes(RECORDS)


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """What a tokenizer makes of an image.

    Args:
        kind: What is stored: codes of a quantiser, or moments of an encoder of latents.
        tokenizer: Identity of the tokenizer.
        codes: Number V of codes, which lie in [0, V); 0 of moments.
        channels: Numbers C per token; 0 of codes.
        moment_channels: Stored numbers M per token: 2C (mean, log variance) or C (no randomness); 0
            of codes.
        scale: Factor from what is stored to the latents that are read.
    """

    kind: Kind
    tokenizer: str
    codes: int = 0
    channels: int = 0
    moment_channels: int = 0
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What decides every number of a cache; known before the first image is encoded.

    Args:
        format: Version of the layout; of 2, notes do not tell their plan or what was read for them.
        encoding: What is stored of an image.
        dtype: Number format of the shards: uint16 of codes.
        source: Name of the data set and its side, as it was when the build began; it decides
            nothing.
        source_hash: Hash of the keys and labels of all images.
        images: Images of the data set, readable or not.
        split_rule: How train and val were told apart, in words; it decides nothing.
        class_names: Names of the classes in label order; empty if unlabelled.
        image_size: Size of the encoded images in pixels: a number for squares, or height and width.
        grid: Rows and columns of tokens.
        views: Encoded versions of each image: the crop and its mirror image (2), or the random
            crops.
        cut: What a view is: one of the crops without chance or its mirror image, or a random crop.
        shard_size: Images a shard, before unreadable ones are left out.
    """

    format: Literal[2, 3] = 3
    encoding: Encoding
    dtype: Dtype
    source: str
    source_hash: str
    images: int
    split_rule: str
    class_names: tuple[str, ...]
    image_size: ImageSize
    grid: tuple[int, int]
    views: int
    cut: Literal["center", "center-bilinear", "whole", "crops", "mirrored crops"] = "center"
    shard_size: int

    @property
    def item(self) -> tuple[int, ...]:
        """Shape of what is stored of a view: ``(L,)`` codes or ``(M, h, w)`` moments."""
        if self.encoding.kind == "codes":
            return (math.prod(self.grid),)
        return (self.encoding.moment_channels, *self.grid)

    @property
    def deciding(self) -> dict[str, object]:
        """What must be the same for two plans to make the same numbers of the same images."""
        words = ("format", "source", "split_rule", "encoding")
        rest = {name: value for name, value in asdict(self).items() if name not in words}
        return {**asdict(self.encoding), **rest}

    @cached_property
    def digest(self) -> str:
        """What stands for all that decides."""
        return digest_of(_text(self.deciding))

    @property
    def item_bytes(self) -> int:
        """Bytes of one image in all its views."""
        return self.views * math.prod(self.item) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One finished file of codes or moments.

    Args:
        file: Name of the file in the folder.
        rows: Images in it.
        size: Bytes of the file.
        digest: blake2b of the file.
        labels: Label of each row; empty if unlabelled, and in the index, beside which is
            labels.npy.
        skipped: Key and reason of each image that could not be read.
        plan: Digest of the plan that the shard belongs to; empty in layouts before 3.
        tokenizer: Identity of the tokenizer that made the shard; empty in layouts before 3.
        origin: Digest of the images' keys, labels and bytes; empty in layouts before 3.
    """

    file: str
    rows: int
    size: int
    digest: str
    labels: tuple[int, ...]
    skipped: tuple[tuple[str, str], ...]
    plan: str = ""
    tokenizer: str = ""
    origin: str = ""

    def beside(self, ending: str) -> str:
        """Name of the shard's note (.json) or of what its images were (.origin)."""
        return str(Path(self.file).with_suffix(ending))

    def belongs_to(self, plan: CachePlan) -> bool:
        """Whether it was made by this plan, as far as it tells."""
        return self.plan == plan.digest or (plan.format == 2 and not self.plan)


@dataclass(frozen=True, kw_only=True)
class CacheIndex:
    """The content of ``cache.json``.

    Args:
        plan: What the shards were made from.
        shards: Finished files in the order of the rows.
        labels_digest: blake2b of the file of labels; empty if unlabelled.
    """

    plan: CachePlan
    shards: tuple[Shard, ...]
    labels_digest: str

    @property
    def content(self) -> str:
        """What stands for the images that all shards were made from; empty where one tells none."""
        origins = [shard.origin for shard in self.shards]
        return total(origins) if all(origins) else ""


def _text(content: dict[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, indent=1).encode("utf8", "replace")


def to_json(record: Encoding | CachePlan | Shard | CacheIndex) -> bytes:
    """A record with a checksum of the rest of its text, so that no bit of it flips unseen."""
    content = asdict(record)
    return _text({"checksum": digest_of(_text(content)), **content})


def read_record(file: Path, kind: type[Record]) -> Record:
    """What :func:`to_json` wrote.

    Raises:
        InputError: not there, altered since, or of another format.
    """
    try:
        content = read_json(file)
        if not isinstance(content, dict) or content.pop("checksum") != digest_of(_text(content)):
            raise ValueError("altered")
        return RECORDS.structure(content, kind)
    except (cattrs.BaseValidationError, *DAMAGE):
        raise InputError(
            f"{file} is damaged or of another format; build the cache again by the same words, "
            "which keeps what is whole"
        ) from None
