"""What a file of weights is by its first bytes, whatever it is called."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Literal

from unmask.errors import InputError

FileKind = Literal["zip", "pickle", "safetensors", "msgpack"]

LARGEST_HEADER = 100_000_000  # bytes of a safetensors header, the format's own limit
FETCH = "download the file itself"

# How files begin that are no weights, and what to do about each.
STRANGERS: dict[bytes, str] = {
    b"version https://git-lfs": f"is a Git LFS pointer, not the file that it stands for; {FETCH}",
    b"<": f"is a web page, not a file of weights; {FETCH}",
    b"{": "is a JSON file, not a file of weights",
    b"[": "is a JSON file, not a file of weights",
    b"\x89HDF": "is an HDF5 file, which is not read here",
    b"\x1f\x8b": "is compressed by gzip; unpack it",
    b"\xfd7zXZ": "is compressed by xz; unpack it",
    b"BZh": "is compressed by bzip2; unpack it",
    b"\x93NUMPY": "is a NumPy array, not a file of weights",
    b"\x89PNG": "is a picture, not a file of weights",
    b"\xff\xd8\xff": "is a picture, not a file of weights",
}


def kind_of(path: Path) -> FileKind:
    """The form of a file of weights.

    Raises:
        InputError: when it cannot be read or is something else, saying what.
    """
    head = _head(path)
    if not head:
        raise InputError(f"{path} is empty; download or copy it again")
    if head.startswith(b"PK"):
        _check_zip(path)
        return "zip"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for start, what in STRANGERS.items():
        if text.startswith(start) and not _has_safetensors_header(path, head):
            raise InputError(f"{path} {what}")
    if head[257:262] == b"ustar":
        raise InputError(f"{path} is a tar archive; unpack it and name the file of weights in it")
    if _has_safetensors_header(path, head) or path.suffix == ".safetensors":
        return "safetensors"
    if head[0] == 0x80 and head[1:2] in (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05"):
        return "pickle"
    if 0x80 < head[0] <= 0x8F or head[0] in (0xDE, 0xDF):
        return "msgpack"
    raise InputError(
        f"{path} is no file of weights: it is neither a PyTorch, safetensors nor flax msgpack file"
    )


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise InputError(f"{path} is a folder; name the file of weights in it")
    if not path.is_file():
        raise InputError(f"there is no file {path}; name a file of weights")
    try:
        with path.open("rb") as file:
            return file.read(512)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None


def _has_safetensors_header(path: Path, head: bytes) -> bool:
    size = int.from_bytes(head[:8], "little")
    return head[8:9] == b"{" and size <= min(LARGEST_HEADER, path.stat().st_size - 8)


def _check_zip(path: Path) -> None:
    """Refuse what is not a whole checkpoint of PyTorch."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        size = path.stat().st_size
        raise InputError(
            f"{path} is cut off or damaged: {size:,} bytes of a zip archive without its end; "
            "download or copy it again"
        ) from None
    names = [member.filename for member in members]
    inside = [name.rpartition("/")[2] for name in names]
    if "constants.pkl" in inside:
        raise InputError(f"{path} is a TorchScript program; save its state dict with torch.save")
    if "data.pkl" not in inside:
        some = ", ".join(map(ascii, names[:3])) or "nothing"
        raise InputError(
            f"{path} is a zip archive of {some}, not a file of weights; unpack it and name the "
            "file of weights in it"
        )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(f"{path} was packed again by another program; unpack and save it anew")
