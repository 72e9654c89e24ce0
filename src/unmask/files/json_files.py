"""JSON that somebody else wrote: whatever it holds, it is read or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path

from unmask.errors import InputError
from unmask.files.damage import reason


def parse_json(content: str | bytes, where: str) -> object:
    """The value of a JSON text, with or without a byte order mark.

    Args:
        content: the text; bytes are UTF-8.
        where: what holds it, for the message.

    Raises:
        InputError: no JSON, no UTF-8, or nested more deeply than anybody nests by hand.
    """
    try:
        text = content if isinstance(content, str) else content.decode("utf-8-sig")
        return json.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise InputError(
            f"{where} is nested too deeply to be read as JSON; write it anew"
        ) from None
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON ({error}); write it anew") from None


def read_json(file: Path) -> object:
    """The value of a JSON file.

    Raises:
        InputError: it cannot be read, or :func:`parse_json` refuses it.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{file} cannot be read ({reason(error)})") from error
    return parse_json(content, str(file))
