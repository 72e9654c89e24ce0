"""One walk through a folder of pictures: training data and judged sets are listed by it alone.

Links are followed. A folder is visited once, whatever leads to it, so a link to a folder above
itself ends nothing and multiplies nothing. Hidden files and folders, and what operating systems
leave behind, do not count; everything else that is not read is counted and named.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from unmask.data.decoding import is_image_name
from unmask.text import some

ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".zip", ".rar", ".7z", ".parquet")
LITTER = (
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
)
READ_TOO = ("classes.json",)  # files that say something of the pictures
SHOWN = 6  # kinds of files that are counted one by one


class Walk:
    """The pictures below a folder, and what was met besides.

    Args:
        root: where to begin.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.others: Counter[str] = Counter()
        """Files that are no pictures, by ending."""
        self.archives: list[str] = []
        """Files that may hold pictures and are not opened."""
        self.unreadable: list[str] = []
        """Folders that cannot be listed, each with the reason."""
        self.again: list[str] = []
        """Folders that had been visited already, under another name."""
        self.dangling: list[str] = []
        """Links that lead nowhere, and what is neither file nor folder."""
        self.files: list[str] = []
        """Pictures in the root itself, after :meth:`here`."""
        self.tops: list[str] = []
        """Folders in the root, once it was visited."""
        self._seen: set[tuple[int, int]] = set()
        self._folders, self._links = list[str](), list[str]()

    def pictures(self) -> Iterator[str]:
        """Paths of the pictures relative to the root, with forward slashes, folder by folder."""
        self._folders.append("")
        while self._folders or self._links:
            # Folders come before links: of several ways to one place the direct one names it.
            inside = self._folders.pop() if self._folders else self._links.pop()
            try:
                yield from self._visit(inside)
            except OSError as error:
                self.unreadable.append(f"{inside or self.root} ({error.strerror or error})")

    def _visit(self, inside: str) -> list[str]:
        """The pictures in a folder, whose own folders are noted for later."""
        folder = self.root / inside
        place = folder.stat()
        if (place.st_dev, place.st_ino) in self._seen:
            self.again.append(inside)
            return []
        self._seen.add((place.st_dev, place.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name, reverse=True)
        files = []
        for entry in entries:
            path = f"{inside}/{entry.name}" if inside else entry.name
            if entry.name.startswith(".") or entry.name.lower() in LITTER:
                continue
            kind = _kind(entry)
            if kind == "folder":
                (self._links if entry.is_symlink() else self._folders).append(path)
            elif kind != "file":
                self.dangling.append(path)
            elif is_image_name(entry.name):
                files.append(path)
            elif entry.name.lower().endswith(ARCHIVES):
                self.archives.append(path)
            elif entry.name not in READ_TOO:
                self.others[os.path.splitext(entry.name.lower())[1] or "without an ending"] += 1
        if not inside:
            self.tops = sorted(self._folders + self._links)
        return files

    def here(self) -> None:
        """Look at the root alone, for its :attr:`files` and :attr:`tops`.

        Raises:
            OSError: it cannot be listed.
        """
        self.files = self._visit("")

    def left_out(self) -> list[str]:
        """A clause for each kind of things that were met and not read."""
        common = self.others.most_common(SHOWN)
        rest = self.others.total() - sum(count for _, count in common)
        named = [
            (self.archives, "archive, not unpacked", "archives, not unpacked"),
            (self.unreadable, "folder that cannot be listed", "folders that cannot be listed"),
            (
                self.again,
                "folder that is there under another name",
                "folders that are there under another name",
            ),
            (self.dangling, "link that leads nowhere", "links that lead nowhere"),
        ]
        return [
            *(f"{count:,} {ending}" for ending, count in common),
            *([f"{rest:,} other files"] if rest else []),
            *(
                f"{len(paths):,} {one if len(paths) == 1 else many}: {some(paths)}"
                for paths, one, many in named
                if paths
            ),
        ]


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else "nothing"
    except OSError:  # a link to itself, or into a folder that may not be entered
        return "nothing"
