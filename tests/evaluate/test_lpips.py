"""LPIPS by its closed forms, and against a second implementation on random weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.lpips import LEAST_SIDE, LPIPS, load_lpips

WIDTHS = (64, 192, 384, 256, 256)
ALEXNET = {
    "0": (64, 3, 11, 11),
    "3": (192, 64, 5, 5),
    "6": (384, 192, 3, 3),
    "8": (256, 384, 3, 3),
    "10": (256, 256, 3, 3),
}
"""Shapes of torchvision's ``features.<name>.weight``."""


def drawn(name: str, *shape: int) -> Tensor:
    return torch.randn(shape, generator=keyed_generator("lpips", name))


def pictures(name: str, count: int = 2, height: int = 40, width: int = 53) -> Tensor:
    return torch.rand(count, 3, height, width, generator=keyed_generator("picture", name))


@pytest.fixture(scope="module")
def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The two published files by their own names, random."""
    alexnet = {"classifier.6.bias": torch.zeros(1000)}
    for name, shape in ALEXNET.items():
        alexnet[f"features.{name}.weight"] = drawn(name, *shape) / shape[1] ** 0.5 / shape[2]
        alexnet[f"features.{name}.bias"] = drawn(f"{name} bias", shape[0]) * 0.1
    linear = {
        f"lin{k}.model.1.weight": drawn(f"lin{k}", 1, width, 1, 1).abs()
        for k, width in enumerate(WIDTHS)
    }
    return alexnet, linear


@pytest.fixture(scope="module")
def files(states: tuple, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("lpips")
    paths = folder / "alexnet-owt-7be5be79.pth", folder / "alex.pth"
    for path, state in zip(paths, states, strict=True):
        torch.save(state, path)
    return paths


def reference(image: Tensor, target: Tensor, states: tuple) -> float:
    """One pair, ``(3, H, W)`` each, layer by layer and place by place."""
    alexnet, linear = states
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    maps = [(2 * picture - 1 - shift) / scale for picture in (image, target)]
    total = 0.0
    steps = {"0": (4, 2, False), "3": (1, 2, True), "6": (1, 1, True)}
    for k, name in enumerate(ALEXNET):
        stride, padding, pooled = steps.get(name, (1, 1, False))
        if pooled:
            maps = [F.max_pool2d(values[None], 3, 2)[0] for values in maps]
        weight, bias = (alexnet[f"features.{name}.{part}"] for part in ("weight", "bias"))
        maps = [
            F.conv2d(v[None], weight, bias, stride, padding)[0].clamp(min=0).double() for v in maps
        ]
        lengths = [torch.linalg.vector_norm(values, dim=0) + 1e-10 for values in maps]
        gap = maps[0] / lengths[0] - maps[1] / lengths[1]
        weights = linear[f"lin{k}.model.1.weight"].flatten().double()
        total += torch.einsum("c,chw->hw", weights, gap * gap).mean().item()
        maps = [values.float() for values in maps]
    return total


def test_it_is_the_published_formula(files: tuple, states: tuple) -> None:
    images, target = pictures("a"), pictures("b")
    found = load_lpips(files)(images, target)
    wanted = [reference(a, b, states) for a, b in zip(images, target, strict=True)]
    assert min(wanted) > 0.1
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-5, atol=1e-6)


def test_equal_images_have_no_distance_and_the_order_does_not_matter(files: tuple) -> None:
    network = load_lpips(files)
    images, target = pictures("a"), pictures("b")
    assert network(images, images).tolist() == [0.0, 0.0]
    assert torch.equal(network(images, target), network(target, images))
    near = network(images, 0.9 * images + 0.1 * target)
    assert (near < network(images, target)).all()


def test_black_and_white_differ_by_the_weights_of_what_they_excite() -> None:
    """One unit likes bright, one dark, the deeper layers are silent: unit vectors at right angles,
    so each place differs by the sum of both weights."""
    network = LPIPS().requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    weight = network.get_parameter("features.0.weight")
    weight[0], weight[1] = 1.0, -1.0
    network.linear[0][0, :2, 0, 0] = torch.tensor([0.25, 0.5])
    black = torch.zeros(1, 3, 33, 47)
    torch.testing.assert_close(network(black, 1 - black), torch.tensor([0.75]))


def test_grey_images_are_repeated(files: tuple) -> None:
    network = load_lpips(files)
    grey, other = pictures("a")[:, :1], pictures("b")[:, :1]
    colour = [picture.repeat(1, 3, 1, 1) for picture in (grey, other)]
    torch.testing.assert_close(network(grey, other), network(*colour))


def test_the_least_size(files: tuple) -> None:
    network = load_lpips(files)
    small = torch.zeros(1, 3, LEAST_SIDE, LEAST_SIDE)
    assert network(small, small).item() == 0
    with pytest.raises(InputError, match="at least 31 pixels, these have 30"):
        network(small[..., 1:], small[..., 1:])


def test_files_in_any_order_or_in_one(files: tuple, states: tuple, tmp_path: Path) -> None:
    images, target = pictures("a"), pictures("b")
    known = load_lpips(files)
    torch.save(states[0] | states[1], tmp_path / "both.pth")
    for paths in (files[::-1], [tmp_path / "both.pth"]):
        assert torch.equal(load_lpips(paths)(images, target), known(images, target))
    assert known.identity.startswith("LPIPS v0.1 AlexNet, weights ")
    assert known.identity != load_lpips([tmp_path / "both.pth"]).identity


def test_wrong_files(files: tuple, states: tuple, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a part is missing; download https://github.com/.*alex"):
        load_lpips(files[:1])
    with pytest.raises(InputError, match=r"a part is missing; download https://.*alexnet-owt"):
        load_lpips(files[1:])
    with pytest.raises(InputError, match=r"there is no file absent\.pth; LPIPS needs https://"):
        load_lpips([Path("absent.pth"), files[1]])
    torch.save(states[0] | {"surprise": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(InputError, match="no rule for the key 'surprise'"):
        load_lpips([tmp_path / "more.pth", files[1]])
    less = {key: value for key, value in states[1].items() if "lin3" not in key}
    torch.save(less, tmp_path / "less.pth")
    with pytest.raises(InputError, match=r"do not fill 'linear\.3'"):
        load_lpips([files[0], tmp_path / "less.pth"])
    torch.save({**states[1], "lin0.model.1.weight": torch.ones(1, 32, 1, 1)}, tmp_path / "vgg.pth")
    with pytest.raises(InputError, match="the network needs"):
        load_lpips([files[0], tmp_path / "vgg.pth"])
    (tmp_path / "cut.pth").write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(InputError, match="is cut off or damaged"):
        load_lpips([tmp_path / "cut.pth", files[1]])
