"""What was found out about files, kept beside them so that it is not found out again.

Where nobody may write there, the user's own folder of caches takes its place. A note that is lost,
damaged or of another version of its file costs the work again and nothing else.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from unmask.errors import InputError
from unmask.files.damage import DAMAGE
from unmask.files.digests import digest_of
from unmask.files.durable import output


def note_places(folder: Path, name: str) -> list[Path]:
    """Where something about the files of a folder may lie, the best place first.

    Args:
        folder: of the files.
        name: of a hidden file or folder in it.
    """
    own = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    place = f"{name.removeprefix('.')}-{digest_of(os.fsencode(folder.absolute()))}"
    return [folder / name, *([own / "unmask" / place] if own.is_absolute() else [])]


def read_note(file: Path, kind: str, stamp: tuple[int, int]) -> object:
    """The content of a file's note; None unless it is whole and of this version of the file.

    Args:
        file: what the note is about.
        kind: of the note, the name of a hidden folder.
        stamp: the file's, see :func:`unmask.files.digests.file_stamp`.
    """
    for place in note_places(file.parent, kind):
        with suppress(*DAMAGE):
            digest, text = (place / f"{file.name}.json").read_bytes().split(b"\n", 1)
            if digest.decode() == digest_of(text):
                note = json.loads(text)
                if note["stamp"] == [*stamp]:
                    return note["content"]
    return None


def write_note(file: Path, kind: str, stamp: tuple[int, int], content: object) -> None:
    """Keep a note where that is possible; several processes may do so at once.

    Args:
        file: what the note is about.
        kind: of the note, the name of a hidden folder.
        stamp: the file's as it was before it was read.
        content: anything that JSON holds.
    """
    text = json.dumps({"stamp": stamp, "content": content}).encode()
    for place in note_places(file.parent, kind):
        with suppress(InputError):
            with output(place / f"{file.name}.json", one_of_many=True) as aside:
                aside.write_bytes(digest_of(text).encode() + b"\n" + text)
            return
