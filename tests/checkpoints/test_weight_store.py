"""Our own format: what goes in comes out, ties once, and nothing is ever half written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from forks import as_nobody, as_root, let_others_in
from safetensors import safe_open
from torch import Tensor, nn

from unmask.checkpoints.store import Saved, check_state, load_state, load_weights, save_together
from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.networks.maskgit import MaskGITBertNetwork
from unmask.nn.model import initialize

TIED = MaskGITBertNetwork(
    codes=5, width=8, depth=1, heads=2, feed_forward=12, length=4, classes=3, tie_embeddings=True
)


def tied_model() -> nn.Module:
    model = TIED.build()
    initialize(model, keyed_generator(0, "weights"))
    return model


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_comes_back_with_ties_stored_once(tmp_path: Path) -> None:
    state = tied_model().state_dict()
    save_together(Saved(tmp_path / "m", state, {"a": [1, {"b": None}]}))
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(state) - 1
    loaded, config = load_weights(tmp_path / "m")
    assert config == {"a": [1, {"b": None}]}
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_half_storage_widens_floats_and_leaves_integers(tmp_path: Path) -> None:
    state = {"w": torch.tensor([1 / 3, -2.0]), "n": torch.tensor([70000])}
    save_together(Saved(tmp_path, state, {}), half=True)
    loaded, _ = load_weights(tmp_path)
    assert loaded["w"].dtype == torch.float32
    assert torch.equal(loaded["w"], state["w"].half().float())
    assert torch.equal(loaded["n"], state["n"])


def test_half_storage_refuses_what_would_become_infinite(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'w' has values beyond float16"):
        save_together(Saved(tmp_path / "m", {"w": torch.tensor([1e6])}, {}), half=True)
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("meta", [False, True])
def test_loading_keeps_ties_tied(tmp_path: Path, meta: bool) -> None:
    state = tied_model().state_dict()
    with torch.device("meta" if meta else "cpu"):
        model = TIED.build()
    load_state(model, {name: tensor.clone() for name, tensor in state.items()})
    assert model.head.out.weight is model.embed.tokens.weight
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())


def test_values_that_differ_cannot_be_tied() -> None:
    state = tied_model().state_dict() | {"head.out.weight": torch.zeros(9, 8)}
    with pytest.raises(InputError, match=r"ties to it; build it without tied embeddings"):
        load_state(TIED.build(), state)


WANTED = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": torch.zeros(2, 3)}, r"^f do not fill 'b'"),
        (WANTED | {"c": torch.zeros(1)}, r"^f hold an unknown 'c'"),
        (
            WANTED | {"a": torch.zeros(3, 2)},
            r"^f: 'a' has shape \(3, 2\), the network needs \(2, 3\)$",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_a_state_that_does_not_fit_is_refused_by_name(
    state: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_state(WANTED, state, "f")


@pytest.mark.parametrize("boundary", range(6))
def test_a_failing_disk_leaves_one_whole_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, boundary: int
) -> None:
    """A fault at any write, flush or rename: the folder still holds all of one model."""
    old, new = {"w": torch.zeros(3)}, {"w": torch.ones(3)}
    save_together(Saved(tmp_path, old, {"is": "old"}))
    (tmp_path / "notes.txt").write_text("mine")
    calls = 0

    def failing(real: Any) -> Any:
        def call(*args: object, **kwargs: object) -> object:
            nonlocal calls
            calls += 1
            if calls == boundary + 1:
                raise OSError(28, "No space left on device")
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", failing(os.fsync))
    monkeypatch.setattr(Path, "replace", failing(Path.replace))
    monkeypatch.setattr(Path, "write_text", failing(Path.write_text))
    with pytest.raises(InputError, match="cannot write") as error:
        save_together(Saved(tmp_path, new, {"is": "new"}))
    assert "No space left" in str(error.value)
    loaded, config = load_weights(tmp_path)
    assert (loaded["w"].tolist(), config["is"]) in [([0, 0, 0], "old"), ([1, 1, 1], "new")]
    assert sorted(files_of(tmp_path)) == ["config.json", "model.safetensors", "notes.txt"]


def test_a_damaged_or_foreign_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model\.safetensors"):
        load_weights(tmp_path)
    save_together(Saved(tmp_path, {"w": torch.zeros(300)}, {}))
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="is damaged") as error:
        load_weights(tmp_path)
    assert "\n" not in str(error.value)


@as_root
def test_other_users_read_a_model_as_the_umask_says(tmp_path: Path) -> None:
    let_others_in(tmp_path)
    save_together(Saved(tmp_path / "open", {"w": torch.ones(3)}, {}))
    save_together(Saved(tmp_path / "closed", {"w": torch.ones(3)}, {}))
    (tmp_path / "closed" / "model.safetensors").chmod(0o600)

    def read() -> None:
        assert load_weights(tmp_path / "open")[0]["w"].tolist() == [1, 1, 1]
        with pytest.raises(InputError, match=r"cannot read .*safetensors: Permission denied; ask"):
            load_weights(tmp_path / "closed")

    assert as_nobody(read) == 0
