from __future__ import annotations

import json
from pathlib import Path

import pytest

from unmask.errors import InputError
from unmask.files.json_files import parse_json, read_json


@pytest.mark.parametrize("value", [{"ä": [1, 2.5, None]}, [], "text", 3, None])
def test_what_json_writes_is_read(
    tmp_path: Path, value: dict[str, list[float | int | None]] | int | str | None
) -> None:
    text = json.dumps(value, ensure_ascii=False)
    assert parse_json(text, "it") == parse_json(f"\ufeff{text}", "it") == value
    for encoding in ("utf8", "utf-8-sig"):  # with and without a byte order mark
        (tmp_path / "x.json").write_text(text, encoding=encoding)
        assert read_json(tmp_path / "x.json") == value


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[1,]", b"\xff\xfe[", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\0"],
)
def test_anything_else_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(
        InputError, match=r"x\.json is (not valid JSON|nested too deeply)"
    ) as caught:
        read_json(tmp_path / "x.json")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("nowhere.json", "."):
        with pytest.raises(InputError, match="cannot be read"):
            read_json(tmp_path / name)
