"""The 2015 Inception network against torch-fidelity's, both with the same random weights."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.inception import (
    FILE,
    Inception,
    InceptionV3,
    Mixed,
    Taps,
    load_inception,
    resized_as_tensorflow,
)

SHAPES = {"small": (1, 3, 40, 52), "large": (1, 3, 331, 307)}


def drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    generator = keyed_generator(0, name)
    if name.endswith(("bn.weight", "bn.running_var")):
        return 0.5 + torch.rand(shape, generator=generator)
    scale = math.sqrt(2 / math.prod(shape[1:])) if name.endswith("weight") else 0.1
    return torch.randn(shape, generator=generator) * scale


def images(name: str) -> Tensor:
    generator = keyed_generator(0, f"{name} images")
    return torch.randint(0, 256, SHAPES[name], generator=generator, dtype=torch.uint8)


@pytest.fixture(scope="module")
def golden(fixtures: Path) -> dict[str, Tensor]:
    return load_file(fixtures / "inception" / "torch_fidelity.io.safetensors")


@pytest.fixture(scope="module")
def parameters(fixtures: Path) -> dict[str, tuple[int, ...]]:
    spec = json.loads((fixtures / "inception" / "torch_fidelity.json").read_text())
    return {name: tuple(shape) for name, shape in spec["parameters"].items()}


@pytest.fixture(scope="module")
def weights(
    parameters: dict[str, tuple[int, ...]], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    save_file({name: drawn(name, shape) for name, shape in parameters.items()}, path)
    return path


@pytest.fixture(scope="module")
def extractor(weights: Path) -> Inception:
    return load_inception(weights)


@pytest.fixture(scope="module")
def taps(extractor: Inception) -> dict[str, Taps]:
    return {name: extractor.taps(images(name)) for name in SHAPES}


def test_names_and_shapes_are_those_of_the_published_file(
    parameters: dict[str, tuple[int, ...]],
) -> None:
    with torch.device("meta"):
        state = InceptionV3().state_dict()
    own = {k: tuple(v.shape) for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert own == parameters


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("tap", Taps._fields)
def test_every_tap_equals_torch_fidelity(
    taps: dict[str, Taps], golden: dict[str, Tensor], size: str, tap: str
) -> None:
    expected = golden[f"{size}.{tap}"]
    atol = 1e-5 * expected.abs().max().item()
    torch.testing.assert_close(getattr(taps[size], tap), expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("size", SHAPES)
def test_resize_equals_torch_fidelity(golden: dict[str, Tensor], size: str) -> None:
    found = resized_as_tensorflow(images(size).float())[:, :, ::23, ::19]
    torch.testing.assert_close(found, golden[f"{size}.resized"], rtol=1e-6, atol=1e-5)


def test_resize_samples_from_the_corner_on() -> None:
    # Doubling puts the old pixels at even places and repeats the last, where half-pixel centres
    # would give 0, 2.5, 7.5, 10.
    line = torch.tensor([0.0, 10.0]).view(1, 1, 1, 2).expand(1, 1, 4, 2)
    assert resized_as_tensorflow(line, 4)[0, 0, 0].tolist() == [0, 5, 10, 10]
    row = F.interpolate(line, (4, 4), mode="bilinear")[0, 0, 0]
    assert row.tolist() == [0, 2.5, 7.5, 10]


def test_resize_leaves_the_right_size_alone() -> None:
    x = images("large")[:, :, :299, :299].float()
    assert torch.equal(resized_as_tensorflow(x), x)


def test_pools_of_the_blocks() -> None:
    """Ones stay ones at the edge where padding is not counted; only one block takes maxima."""
    with torch.device("meta"):
        network = InceptionV3()
    blocks = {name: m for name, m in network.named_children() if isinstance(m, Mixed)}
    x = torch.zeros(1, 1, 5, 5)
    x[0, 0, 0, 0] = 4
    corner = {name: block.pool(x)[0, 0, 0, 0].item() for name, block in blocks.items()}
    assert corner == {name: 4 if name[-2:] in ("6a", "7a", "7c") else 1 for name in blocks}


def test_features_and_probabilities(extractor: Inception, taps: dict[str, Taps]) -> None:
    pooled, probs, _ = extractor(images("small"))
    assert pooled.shape == (1, extractor.width)
    assert torch.equal(pooled, taps["small"].pooled)
    logits = taps["small"].logits_unbiased
    torch.testing.assert_close(probs, logits.softmax(1))
    assert probs is not None
    assert probs.shape == (1, 1008)


def test_grey_is_three_equal_channels(extractor: Inception) -> None:
    grey = images("small")[:, :1]
    alike = extractor.taps(grey.expand(-1, 3, -1, -1))
    assert torch.equal(extractor.taps(grey).third, alike.third)


def test_identity_names_the_weights(extractor: Inception, weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert digest[:12] in extractor.identity
    assert not extractor.published
    assert Inception(InceptionV3().to("meta"), "6726825d" + "0" * 56, device="meta").published


def test_a_copy_with_step_counters_loads(
    weights: Path, extractor: Inception, tmp_path: Path
) -> None:
    state = load_file(weights) | {"Mixed_5b.branch1x1.bn.num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "copy.pth")
    found = load_inception(tmp_path / "copy.pth")
    assert torch.equal(found._network.fc.weight, extractor._network.fc.weight)


def test_an_absent_file_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"absent\.pth.*{FILE}.*torch-fidelity.*--inception"):
        load_inception(tmp_path / "absent.pth")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_file({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors do not fill 'Conv2d_1a"):
        load_inception(tmp_path / "other.safetensors")


@pytest.mark.parametrize("x", [torch.zeros(1, 3, 9, 9), torch.zeros(1, 4, 9, 9).byte()])
def test_other_images_are_refused(extractor: Inception, x: Tensor) -> None:
    with pytest.raises(InputError, match="reads uint8"):
        extractor.taps(x)
