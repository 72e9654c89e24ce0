"""Where the members of a tar lie, found by one pass over its headers that loses none in silence."""

from __future__ import annotations

import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unmask.errors import InputError
from unmask.files.damage import reason

BLOCK = tarfile.BLOCKSIZE
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
# What damaged headers raise in the standard library, chains of thousands of headers included.
TAR_DAMAGE = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError, RecursionError)
MOST_LINKS = 32  # from a link to a link to … a file


class Entry(NamedTuple):
    """A file of a tar.

    Args:
        name: Path in the tar, as it is written there.
        start: Offset of its first byte in the tar.
        size: Number of its bytes.
    """

    name: str
    start: int
    size: int


def index_files(file: Path) -> tuple[list[Entry], list[str]]:
    """The files of a tar, those that links lead to under the links' names too.

    A tar that others were appended to (``cat``) is read to its last end mark.

    Args:
        file: an uncompressed tar.

    Returns:
        The files in the order of the tar; the names of links that lead nowhere in it and of what
        is neither file, folder nor link.

    Raises:
        InputError: damaged, cut, compressed, or no tar.
    """
    if file.name.lower().endswith(COMPRESSED):
        raise InputError(
            f"{file} is compressed, which allows no reading at random places; unpack it to a .tar"
        )
    found: list[Entry] = []
    links: list[tuple[int, str, str]] = []  # position among the files, name, target
    left: list[str] = []
    try:
        with tarfile.open(file, "r:") as tar:
            for member in _headers(tar, file):
                if member.isreg() and not member.issparse():
                    found.append(Entry(member.name, member.offset_data, member.size))
                elif member.islnk() or member.issym():
                    links.append((len(found), member.name, _target(member)))
                elif not member.isdir():
                    left.append(member.name)
    except InputError:
        raise
    except TAR_DAMAGE as error:
        nested = isinstance(error, RecursionError)
        said = "its headers are nested too deeply" if nested else reason(error)
        raise InputError(
            f"{file} cannot be read as an uncompressed tar ({said}); fetch it again"
        ) from error
    return _follow(found, links, left), left


def _headers(tar: tarfile.TarFile, file: Path) -> Iterator[tarfile.TarInfo]:
    """All headers, in order, up to an end mark that only zeros follow."""
    stream, end = tar.fileobj, file.stat().st_size
    assert stream is not None, "a tar that is open has a file"
    tar.offset, marked = 0, False
    while tar.offset < end:
        stream.seek(tar.offset)
        block = stream.read(BLOCK)
        if not block.strip(b"\0"):
            tar.offset, marked = _next_content(tar.offset, end, stream), True
            continue
        stream.seek(tar.offset)
        before, member = tar.offset, tarfile.TarInfo.fromtarfile(tar)
        if tar.offset <= before or member.size < 0:
            raise tarfile.ReadError(f"a header at byte {before} of a negative size")
        if member.offset_data + (member.size if member.isreg() else 0) > end:
            raise InputError(
                f"{file} ends inside its member {member.name!r}: a part of the file is missing; "
                "fetch or write it again"
            )
        marked = False
        yield member
    if not marked:
        raise InputError(
            f"{file} has no end mark: it was cut, or its writer was stopped, and members may be "
            "missing; fetch or write it again, or append 1,024 zero bytes if you know it is whole"
        )


def _next_content(start: int, end: int, stream: object) -> int:
    """The first block from ``start`` that is not all zeros, or ``end``."""
    step = 1 << 20
    for at in range(start, end, step):
        stream.seek(at)  # type: ignore[attr-defined]
        piece = stream.read(min(step, end - at))  # type: ignore[attr-defined]
        rest = piece.lstrip(b"\0")
        if rest:
            return at + (len(piece) - len(rest)) // BLOCK * BLOCK
    return end


def _target(member: tarfile.TarInfo) -> str:
    """The name in the tar that a link stands for."""
    if member.islnk():
        return posixpath.normpath(member.linkname)
    return posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))


def _follow(found: list[Entry], links: list[tuple[int, str, str]], left: list[str]) -> list[Entry]:
    """The files with the links among them; ``left`` gains those that lead nowhere."""
    files = {posixpath.normpath(entry.name): entry for entry in found}
    targets = {posixpath.normpath(name): target for _, name, target in links}
    placed: dict[int, list[Entry]] = {}
    for position, name, target in links:
        for _ in range(MOST_LINKS):
            if target in files or target not in targets:
                break
            target = targets[target]
        if target in files:
            placed.setdefault(position, []).append(files[target]._replace(name=name))
        else:
            left.append(name)
    return [
        entry
        for position in range(len(found) + 1)
        for entry in (*placed.get(position, ()), *found[position : position + 1])
    ]
