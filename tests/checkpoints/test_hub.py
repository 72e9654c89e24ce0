"""Names of the hub are looked at before it is asked, and what it says is one line."""

from __future__ import annotations

import random
import string
from unittest.mock import Mock

import huggingface_hub
import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from unmask.checkpoints.locate import fetch_repository, find_folder, is_repository
from unmask.errors import InputError
from unmask.tokenizers.folder import load_tokenizer

ODD = [
    *("runs/my run", "runs/a@b", "a/" + "b" * 95, "a/" + "b" * 300, "../..", "a/..", "./a", "a//b"),
    *(
        "a/b.git",
        "a--b/c",
        "[x]/[/y]",
        "\x1b[2J/a",
        "a/b\nc",
        "é/è",
        "/a",
        "a/",
        "~/a",
        "a/b\0",
        "",
    ),
]


def the_hubs_own(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def test_the_rule_is_the_hubs() -> None:
    letters = random.Random(3)
    alphabet = string.ascii_letters + string.digits + "-_./. -"
    tried = ["".join(letters.choices(alphabet, k=letters.randint(1, 12))) for _ in range(5000)]
    allowed = [name for name in (*tried, *ODD, "owner/toy", "a.b/c-d_e") if is_repository(name)]
    assert len(allowed) > 50
    assert all(map(the_hubs_own, allowed))
    refused = [
        name for name in (*tried, *ODD) if not is_repository(name) and "/" in name.strip("/")
    ]
    assert sum(map(the_hubs_own, refused)) < 0.02 * len(refused)


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("find", [find_folder, load_tokenizer])
def test_a_name_that_is_none_never_reaches_the_hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object, name: str, find: object
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: pytest.fail(name))
    with pytest.raises(InputError):
        find(name)


def test_a_refusal_of_the_hub_is_one_line_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    said = (
        "401 Client Error. (Request ID: Root=1-2)\n\nRepository Not Found for url: https://x/y.\n"
        "Please make sure you specified the correct `repo_id`."
    )

    for kind in (OSError, ValueError, RuntimeError):
        client = Mock(side_effect=kind(said))
        monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
        with pytest.raises(InputError) as error:
            fetch_repository("owner/name")
        assert "the hub says: Repository Not Found for url: https://x/y" in str(error.value)
        assert "\n" not in str(error.value)
