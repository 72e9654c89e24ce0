"""Other projects' files are recognised, translated and checked; anything else is one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor

from unmask.checkpoints.store import Saved, load_state, save_together
from unmask.errors import InputError
from unmask.projects.foreign import Foreign, load_foreign

Folder = Path


def weights(fixtures: Path, case: str) -> dict[str, Tensor]:
    return load_file(fixtures / "maskgit" / f"{case}.weights.safetensors")


def config(fixtures: Path, case: str) -> dict:
    return json.loads((fixtures / "maskgit" / f"{case}.json").read_text())["config"]


def fills_its_network(found: Foreign) -> None:
    model = found.network.build()
    load_state(model, found.state)
    assert all(torch.equal(t, found.state[name]) for name, t in model.state_dict().items())


@pytest.fixture
def run(tmp_path: Path, fixtures: Path) -> Folder:
    """A maskgit-pytorch run with two checkpoints."""
    state = weights(fixtures, "mp_uncond_logits")
    for number, factor in ((999, 1.0), (10000, 2.0)):
        folder = tmp_path / "exp" / "ckpt" / f"step{number:07d}"
        folder.mkdir(parents=True)
        scaled = {key: value * factor for key, value in state.items()}
        torch.save({"model": scaled}, folder / "model.pt")
        torch.save({"model": {k: v + 1 for k, v in scaled.items()}}, folder / "model_ema.pt")
    settings = {"seed": 8888, "transformer": {"n_heads": 4, "dropout": 0.1}}
    (tmp_path / "exp" / "config-2024.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path / "exp"


def test_a_run_gives_the_newest_averaged_weights(run: Folder, fixtures: Path) -> None:
    found = load_foreign(run)
    assert found.details["kind"] == "maskgit-pytorch"
    assert (found.network.heads, found.network.dropout) == (4, 0.1)
    wanted = weights(fixtures, "mp_uncond_logits")["pos_emb"] * 2 + 1
    assert torch.equal(found.state["embed.positions"], wanted)
    fills_its_network(found)


def test_weights_beside_the_average_are_not_read(run: Folder) -> None:
    (run / "ckpt" / "step0010000" / "model.pt").write_bytes(b"cut off")
    assert load_foreign(run).details["file"].endswith("step0010000/model_ema.pt")


def test_one_checkpoint_or_file_of_a_run_can_be_named(run: Folder, fixtures: Path) -> None:
    step = run / "ckpt" / "step0000999"
    wanted = weights(fixtures, "mp_uncond_logits")["pos_emb"]
    assert torch.equal(load_foreign(step).state["embed.positions"], wanted + 1)
    assert torch.equal(load_foreign(step / "model.pt").state["embed.positions"], wanted)


def test_without_a_config_the_heads_must_be_given(run: Folder) -> None:
    (run / "config-2024.yaml").unlink()
    with pytest.raises(InputError, match="number of attention heads is not in the weights"):
        load_foreign(run)
    assert load_foreign(run, heads=8).network.heads == 8


@pytest.fixture
def port(tmp_path: Path, fixtures: Path) -> Folder:
    """An UnlockMGM folder."""
    folder = tmp_path / "port"
    folder.mkdir()
    torch.save(weights(fixtures, "um_logits"), folder / "pytorch_model.bin")
    full = config(fixtures, "um_logits") | {"_class_name": "MaskGitTransformer", "new_option": 1}
    (folder / "config.json").write_text(json.dumps(full))
    return folder


def change(folder: Folder, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_folder_of_the_port_loads(port: Folder) -> None:
    found = load_foreign(port, "unlockmgm")
    assert found.network.gelu == "erf"
    assert not found.network.tie_embeddings
    fills_its_network(found)
    alone = load_foreign(port / "pytorch_model.bin")
    assert alone.network == found.network


def test_half_precision_files_are_widened(port: Folder, fixtures: Path) -> None:
    halves = {k: v.half() for k, v in weights(fixtures, "um_logits").items()}
    torch.save(halves, port / "pytorch_model.bin")
    assert {t.dtype for t in load_foreign(port).state.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_normformer": True}, "use_normformer=True is another architecture"),
        ({"use_maskgit_mlp": False}, "use_maskgit_mlp=False is another architecture"),
        ({"add_cross_attention": True}, "add_cross_attention=True"),
        ({"norm_type": "rmsnorm"}, "norm_type='rmsnorm'"),
        ({"vocab_size": 2048}, "vocab_size=2048 must be 43"),
        ({"hidden_size": None}, "no whole number 'hidden_size'"),
        ({"num_hidden_layers": 4}, r"do not fill 'trunk\.blocks\.3\."),
        ({"num_hidden_layers": 2}, r"hold an unknown 'trunk\.blocks\.2\."),
        ({"intermediate_size": 65}, r"has shape \(64, 32\), the network needs \(65, 32\)"),
    ],
)
def test_a_config_of_another_architecture_is_refused(
    port: Folder, values: dict, message: str
) -> None:
    change(port, **values)
    with pytest.raises(InputError, match=message):
        load_foreign(port)


def test_weights_without_their_config_are_refused(port: Folder) -> None:
    (port / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json is missing"):
        load_foreign(port)


def test_a_flax_file_loads_with_the_originals_options(tmp_path: Path, fixtures: Path) -> None:
    path = tmp_path / "maskgit_imagenet256_checkpoint"
    shutil.copy(fixtures / "maskgit" / "jax_transformer.msgpack", path)
    found = load_foreign(path, classes=6)
    network = found.network
    assert (network.codes, network.heads, network.feed_forward) == (20, 3, 40)
    assert (network.gelu, network.tie_embeddings) == ("tanh", True)
    fills_its_network(found)
    with pytest.raises(InputError, match="classes=1000 does not fit a vocabulary of 27 rows"):
        load_foreign(path)


@pytest.mark.parametrize(
    ("key", "what"),
    [
        ("diffloss.net.cond_embed.weight", "MAR or eMIGM"),
        ("quantize.embedding.weight", "a VQGAN tokenizer"),
        ("post_quant_conv.weight", "an autoencoder"),
    ],
)
def test_another_system_is_named(tmp_path: Path, key: str, what: str) -> None:
    torch.save({"model": {key: torch.zeros(1)}}, tmp_path / "checkpoint-last.pth")
    with pytest.raises(InputError, match=f"looks like {what}, not a MaskGIT transformer"):
        load_foreign(tmp_path / "checkpoint-last.pth")


def test_a_classifier_of_mage_is_sent_to_finetune(tmp_path: Path) -> None:
    path = tmp_path / "mage-vitb-ft.pth"
    torch.save({"model": {"token_emb.word_embeddings.weight": torch.zeros(1)}}, path)
    with pytest.raises(InputError, match=rf"unmask finetune {path} --data"):
        load_foreign(path)


def test_a_flax_tokenizer_is_named(fixtures: Path) -> None:
    with pytest.raises(InputError, match=r"looks like a MaskGIT tokenizer \(JAX\)"):
        load_foreign(fixtures / "maskgit" / "flax_vqgan.msgpack")


def test_the_wrong_kind_is_refused(port: Folder) -> None:
    with pytest.raises(InputError, match="looks like unlockmgm, not maskgit-jax"):
        load_foreign(port, "maskgit-jax")


def test_an_absent_published_file_says_where_it_is(tmp_path: Path) -> None:
    path = tmp_path / "maskgit_imagenet512_checkpoint"
    with pytest.raises(
        InputError, match=r"download it from https://storage\.googleapis\.com/\S*512"
    ):
        load_foreign(path)
    with pytest.raises(InputError, match="does not exist; published files to download"):
        load_foreign(tmp_path / "elsewhere")


class Harmful:
    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("never"),))


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model"])
def test_pickles_with_code_and_damaged_files_are_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "model.pt":
        torch.save({"model": Harmful()}, path)
    else:
        path.write_bytes(b"\x93 not what it says it is")
    with pytest.raises(InputError) as error:
        load_foreign(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_folders_of_our_own_and_empty_ones_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds neither"):
        load_foreign(tmp_path)
    save_together(Saved(tmp_path, {"w": torch.zeros(1)}, {}))
    with pytest.raises(InputError, match="unmask's own format"):
        load_foreign(tmp_path)


def test_safetensors_of_a_source_load_too(tmp_path: Path, fixtures: Path) -> None:
    save_file(weights(fixtures, "mp_cond_logits"), tmp_path / "w.safetensors")
    found = load_foreign(tmp_path / "w.safetensors", heads=4)
    assert found.network.classes == 7
    fills_its_network(found)


def test_a_step_of_the_port_is_looked_into(port: Folder) -> None:
    """What UnlockMGM writes while it trains: the average beside the raw weights."""
    step = port.parent / "checkpoint-50000"
    for name, factor in (("unwrapped_model", 1.0), ("ema_model", 2.0)):
        shutil.copytree(port, step / name)
        state = torch.load(port / "pytorch_model.bin", weights_only=True)
        torch.save({k: v * factor for k, v in state.items()}, step / name / "pytorch_model.bin")
    assert load_foreign(step).details["file"] == str(step / "ema_model" / "pytorch_model.bin")
    shutil.rmtree(step / "ema_model")
    assert "unwrapped_model" in load_foreign(step).details["file"]


def test_an_average_that_was_never_taken_is_passed_over(run: Folder, fixtures: Path) -> None:
    step = run / "ckpt" / "step0010000"
    torch.save({"model": {}}, step / "model_ema.pt")
    found = load_foreign(run)
    wanted = weights(fixtures, "mp_uncond_logits")["pos_emb"] * 2
    assert torch.equal(found.state["embed.positions"], wanted)
    assert found.details["empty"] == str(step / "model_ema.pt")
