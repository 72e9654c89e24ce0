"""WebDataset shards: tar files of KEY.png beside KEY.cls or KEY.json, read at random.

The format's law (github.com/webdataset/webdataset): the key of a member is its path up to the first
dot of its name, and all members of one key are one sample. So ``7.seg.png`` belongs to ``7.png``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from unmask.data.classes import Found, class_name
from unmask.data.decoding import UnreadableImageError, is_image_name, reading
from unmask.data.open_files import Handle, OpenFiles
from unmask.data.reader import ShardReader
from unmask.data.split import Split
from unmask.data.tar_index import COMPRESSED, Entry, index_files
from unmask.errors import InputError
from unmask.files.digests import digest_of
from unmask.files.durable import aside_of, clear_leftovers
from unmask.files.json_files import parse_json
from unmask.files.notes import note_places, read_note, write_note

LABELS = ("cls", "json")
MOST_LABEL = 1 << 24  # bytes of a label file; more is something else under its name
MOST_NAME = 255  # letters of a class name in a .cls
NOTES = ".tar-index-1"  # the folder of what was found in tars, by the laws of this file


class Member(NamedTuple):
    """Where the bytes of one image lie."""

    shard: int
    entry: Entry


class Sample(NamedTuple):
    """An image of a tar with what tells its class."""

    entry: Entry
    label: Found


class TarContent(NamedTuple):
    """What one tar holds.

    Args:
        samples: Images in the order of the tar.
        unused: How many members there are of each kind that is not used, by a phrase that names the
            kind.
    """

    samples: tuple[Sample, ...]
    unused: Counter[str]

    def note(self) -> object:
        """The content as lists, which JSON holds."""
        entries = [sample.entry for sample in self.samples]
        labels = [sample.label for sample in self.samples]
        return [*map(list, zip(*entries, strict=True))] or [[], [], []], labels, self.unused

    @classmethod
    def of_note(cls, note: Any) -> TarContent:
        """The content that :meth:`note` gave."""
        columns, labels, unused = note
        entries = map(Entry, *columns)
        return cls(tuple(map(Sample, entries, labels)), Counter(unused))


class _Name(NamedTuple):
    """A member's name, taken apart: ``a/7.seg.png`` is key a/7, middle seg, ending png."""

    key: str
    middle: str
    ending: str


def _name_of(path: str) -> _Name | None:
    """None of hidden files, and of names that the format leaves out: without a dot."""
    folder, slash, name = path.rpartition("/")
    stem, _, endings = name.partition(".")
    if not stem or not endings:
        return None
    middle, _, ending = endings.lower().rpartition(".")
    return _Name(folder + slash + stem, middle, ending)


@lru_cache(maxsize=4096)
def _index(file: Path, stamp: tuple[int, int]) -> TarContent:
    """What lies in a tar; remembered for each version of the file (``stamp``), on disk too."""
    note = read_note(file, NOTES, stamp)
    if note is not None:
        return TarContent.of_note(note)
    content = _read(file)
    write_note(file, NOTES, stamp, content.note())
    return content


def _index_all(files: Sequence[Path], stamps: Sequence[tuple[int, int]]) -> list[TarContent]:
    """What lies in tars; processes that ask at the same time share the work.

    Each goes through the tars in an order of its own, and finds the notes of the others.
    """
    pairs = [*zip(files, stamps, strict=True)]
    with suppress(InputError):  # which the first file in order that is bad raises below
        for file, stamp in sorted(pairs, key=lambda pair: digest_of(bytes(aside_of(pair[0])))):
            _index(file, stamp)
    for place in note_places(files[0].parent, NOTES):
        clear_leftovers(place)
    return [_index(file, stamp) for file, stamp in pairs]


def _read(file: Path) -> TarContent:
    """What lies in a tar, by its headers and label files."""
    entries, left = index_files(file)
    unused = Counter({"links that lead nowhere, or no files": len(left)} if left else {})
    images: dict[str, list[tuple[_Name, Entry]]] = {}
    labels: dict[tuple[str, str], Found] = {}
    handle = Handle(file)
    for entry in entries:
        name = _name_of(entry.name)
        if name is None:
            continue
        if is_image_name(entry.name.rpartition("/")[2]):
            images.setdefault(name.key, []).append((name, entry))
        elif name.ending in LABELS:
            where = f"{file}: {entry.name}"
            if entry.size > MOST_LABEL:
                raise InputError(f"{where} has {entry.size:,} bytes; a label has a few")
            label = _read_label(name.ending, handle.read(entry.start, entry.size), where)
            there = labels.setdefault((name.key, name.middle), label)
            if label is not None and there not in (label, None):
                raise InputError(f"{where} says {label!r}, another member of its key {there!r}")
            labels[name.key, name.middle] = there if label is None else label
        else:
            unused[f".{name.ending} files"] += 1
    samples: list[Sample] = []
    for key, group in images.items():
        chosen = _pictures(key, group, labels, file)
        unused["further images of a key"] += len(group) - len(chosen)
        samples += chosen
    unused["labels without an image"] = sum(key not in images for key, _ in labels)
    places = {entry: place for place, entry in enumerate(entries)}
    return TarContent(tuple(sorted(samples, key=lambda s: places[s.entry])), +unused)


def _pictures(
    key: str, group: list[tuple[_Name, Entry]], labels: dict[tuple[str, str], Found], file: Path
) -> list[Sample]:
    """The images of one key that are pictures, with their labels.

    Of ``7.png`` and ``7.seg.png`` the first is the picture. Of ``7.00.png`` and ``7.01.png`` both
    are, where each has a label of its own (``7.00.cls``).
    """
    by_middle: dict[str, Entry] = {}
    for name, entry in group:
        other = by_middle.setdefault(name.middle, entry)
        if other is not entry:
            raise InputError(
                f"{file} holds two images of one name, {other.name} and {entry.name}; "
                "rename one or take it out"
            )

    def _label(middle: str) -> Found:
        own = labels.get((key, middle))
        return labels.get((key, "")) if own is None else own

    if "" in by_middle:
        return [Sample(by_middle[""], _label(""))]
    if len(group) == 1 or all(labels.get((key, middle)) is not None for middle in by_middle):
        return [Sample(entry, _label(middle)) for middle, entry in by_middle.items()]
    first, second, *_ = by_middle.values()
    raise InputError(
        f"{file} holds {first.name} and {second.name}, two images of one sample, for a key ends at "
        "the first dot of a name; rename them without inner dots, or give each its own .cls"
    )


def _label_of_record(content: bytes, where: str) -> Found:
    """The entry "label" of a sample's JSON: a whole number, a text, or None."""
    record = parse_json(content, where)
    found = record.get("label") if isinstance(record, dict) else None
    if isinstance(found, float) and found.is_integer():
        return int(found)
    if isinstance(found, bool) or not isinstance(found, (int, str, type(None))):
        raise InputError(f"{where}: the label {str(found)[:40]} is no whole number and no name")
    return found


def _read_label(ending: str, content: bytes, where: str) -> Found:
    """The class that a label file tells: a whole number, or a name."""
    found = (
        _label_of_record(content, where)
        if ending == "json"
        else content.decode("utf-8-sig", "replace")
    )
    if not isinstance(found, str):
        return found
    text = found.strip()
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if not text or len(text) > MOST_NAME or not text.isprintable() or "\ufffd" in text:
        raise InputError(
            f"{where} holds neither a class number nor a class name; write one as text"
        )
    if re.fullmatch(r"[+-]?[0-9.]+(e[+-]?[0-9]+)?|[+-]?(nan|inf|infinity)", text, re.IGNORECASE):
        raise InputError(f"{where}: the label {text[:40]} is no whole number; write one as text")
    return class_name(text)


class TarImages(ShardReader[Member]):
    """Images of WebDataset shards.

    Args:
        path: a tar, or a folder of tars; ``classes.json`` in the folder names the classes.
        split: ``train-*.tar`` or ``val-*.tar`` where both exist.

    Raises:
        InputError: a damaged or compressed shard, two images that cannot be told apart, or labels
            that are incomplete or without a name.
    """

    kind = "WebDataset shards (*.tar)"

    def __init__(self, path: Path, split: Split) -> None:
        super().__init__(path, split)
        found = _index_all(self.files, self.stamps)
        classes = self.take(
            [[Member(n, sample.entry) for sample in tar.samples] for n, tar in enumerate(found)],
            [[sample.label for sample in tar.samples] for tar in found],
            self.listed,
        )
        self.notes += _notes(found)
        if not classes.names:
            self.notes += _folders([sample.entry.name for tar in found for sample in tar.samples])
        self._open = OpenFiles(Handle)

    @staticmethod
    def find(path: Path) -> list[Path]:
        """``path`` itself, or the tars in the folder ``path``, sorted."""
        if path.is_file():
            return [path] if path.name.lower().endswith((".tar", *COMPRESSED)) else []
        return sorted(path.glob("[!.]*.tar"))

    def key(self, row: int) -> str:
        """Shard and member, as in ``train-000000.tar/cat.png``."""
        member = self.places[row]
        return f"{self.files[member.shard].name}/{member.entry.name}"

    def content(self, row: int) -> bytes:
        """The bytes of the member.

        Raises:
            UnreadableImageError: the tar is gone, or shorter than it was.
        """
        shard, entry = self.places[row]
        with reading(self.key(row)):
            content = self._open(self.files[shard]).read(entry.start, entry.size)
        if len(content) < entry.size:
            raise UnreadableImageError(self.key(row), "its tar is shorter than it was")
        return content

    def stamp(self, row: int) -> tuple[int, ...]:
        """Bytes and time of the tar as it was opened, and the member's place in it."""
        shard, entry = self.places[row]
        return *self.stamps[shard], entry.start, entry.size


def _notes(found: Sequence[TarContent]) -> list[str]:
    """One sentence on all that is not used."""
    unused = sum((content.unused for content in found), Counter[str]())
    if not unused:
        return []
    counts = ", ".join(f"{count} {what}" for what, count in sorted(unused.items()))
    return [f"not used of the tars: {counts}"]


def _folders(names: Sequence[str]) -> list[str]:
    """A sentence on folders in tars without labels, which may be meant as classes."""
    folders = {name.removeprefix("./").rpartition("/")[0] for name in names} - {""}
    if len(folders) < 2:
        return []
    first, second, *_ = sorted(folders)
    return [
        f"the images lie in {len(folders)} folders inside the tars ({first}, {second}, …), which "
        "are no classes here: write KEY.cls beside each image, or unpack the tars"
    ]
