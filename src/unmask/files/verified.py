"""Files that were compared with their hash, once: remembered by their size and time of change.

Beside the files lies a list, ``.verified``, to which every process appends what it has compared;
where nobody may write there, a list in the user's own folder of caches takes its place. A line
counts only while its file has the size and the time that it states, so that a list which is lost,
cut or copied costs another comparison and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from unmask.files.digests import digest_of_file, file_stamp
from unmask.files.notes import note_places

LIST = ".verified"
THREADS = 4  # hashing leaves Python's lock; more threads than this ask too much of a disk


class Verified:
    """What is known of the files of a folder.

    Args:
        folder: where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lists = note_places(folder, LIST)
        self._read = dict.fromkeys(self._lists, 0)  # bytes of each list that are known
        self._known: dict[str, tuple[tuple[int, int], str]] = {}

    def holds(self, name: str, digest: str) -> bool:
        """Whether a file was found to have this hash, and has not changed since."""
        self._refresh()
        return self._known.get(name) == (file_stamp(self.folder / name), digest)

    def add(self, name: str, digest: str) -> None:
        """Remember what hash a file has as it lies there; no harm is done where that cannot be."""
        if self.holds(name, digest):
            return
        stamp = file_stamp(self.folder / name)
        line = f"\n{stamp[0]} {stamp[1]} {digest} {name}".encode()  # after a torn line too
        for place in self._lists:
            with suppress(OSError):
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("ab", buffering=0) as stream:
                    stream.write(line)
                break
        self._known[name] = stamp, digest

    def unknown(self, digests: Mapping[str, str]) -> list[str]:
        """Names of the files that are still to be compared."""
        return [name for name, digest in digests.items() if not self.holds(name, digest)]

    def damaged(self, digests: Mapping[str, str], *, anew: bool = False) -> list[str]:
        """Names of the files that have not the hash they should have.

        Processes that ask at the same time begin at different places and so share the work.

        Args:
            digests: by name.
            anew: whether to read those that are known, too.
        """

        def _whole(name: str) -> bool:
            known = not anew and self.holds(name, digests[name])
            return known or self.look(name, digests[name])

        start = os.getpid() % max(1, len(digests))
        turned = [*digests][start:] + [*digests][:start]
        with ThreadPoolExecutor(THREADS) as pool:
            found = dict(zip(turned, pool.map(_whole, turned), strict=True))
        return [name for name in digests if not found[name]]

    def look(self, name: str, digest: str) -> bool:
        """Read a file, remember what was found, and say whether it has this hash."""
        try:
            found = digest_of_file(self.folder / name)
        except OSError:
            return False
        self.add(name, found)
        return found == digest

    def _refresh(self) -> None:
        """Read what others have appended to the lists."""
        for place, known in self._read.items():
            size = file_stamp(place)[0]
            if size == known:
                continue
            try:
                with place.open("rb") as stream:
                    stream.seek(known if known < size else 0)
                    lines = stream.read().decode("utf8", "replace").splitlines()
            except OSError:
                continue
            self._read[place] = size
            for line in lines:
                size_text, time_text, digest, name = [*line.split(" ", 3), "", "", ""][:4]
                if size_text.isdecimal() and time_text.isdecimal():
                    stamp = int(size_text[:20]), int(time_text[:20])
                    self._known[name] = stamp, digest
