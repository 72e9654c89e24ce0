"""The convolutional tokenizer keeps the protocol."""

import re
from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.tokenizers.conv_stack import ConvVQ, ConvVQTokenizer
from unmask.tokenizers.tokenizer import Tokenizer

TINY = ConvVQ(image_channels=3, widths=(8, 16, 24), blocks=(1, 0, 1), codes=32, code_dim=4)


@pytest.fixture
def tokenizer() -> ConvVQTokenizer:
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(0)
        return ConvVQTokenizer(TINY)


def pictures(count: int, channels: int = 3, height: int = 16, width: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, height, width, generator=keyed_generator("pictures"))


def test_keeps_the_protocol(tokenizer: ConvVQTokenizer) -> None:
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.codes, tokenizer.stride, tokenizer.image_channels) == (32, 4, 3)
    assert tokenizer.grid(16) == (4, 4)


def test_shapes_types_and_ranges(tokenizer: ConvVQTokenizer) -> None:
    ids = tokenizer.encode(pictures(5))
    assert ids.shape == (5, 16)
    assert ids.dtype == torch.int64
    assert not ids.requires_grad
    assert 0 <= ids.min() <= ids.max() < 32
    images = tokenizer.decode(ids)
    assert images.shape == (5, 3, 16, 16)
    assert images.dtype == torch.float32
    assert 0 <= images.min() <= images.max() <= 1


@pytest.mark.parametrize("levels", [1, 2, 3, 4])
def test_stride_follows_from_the_levels(levels: int) -> None:
    config = replace(TINY, image_channels=1, widths=(8,) * levels, blocks=(0,) * levels)
    made = ConvVQTokenizer(config)
    side = 8 >> (levels - 1)
    assert made.stride == 2 ** (levels - 1)
    assert made.encode(pictures(2, 1, 8, 8)).shape == (2, side * side)
    assert made.decode(torch.zeros(2, side * side, dtype=torch.int64)).shape == (2, 1, 8, 8)


def test_tokens_are_row_major(tokenizer: ConvVQTokenizer) -> None:
    images = pictures(1, height=8, width=16)
    ids = tokenizer.encode(images)  # 2 rows of 4
    by_place = tokenizer.quantizer(tokenizer.latents(images)).ids  # (1, 2, 4)
    assert torch.equal(ids.view(1, 2, 4), by_place)
    assert tokenizer.decode(ids, (2, 4)).shape == (1, 3, 8, 16)
    ids = torch.zeros(1, 16, dtype=torch.int64)
    changed = ids.clone()
    changed[0, 15] = 1
    difference = (tokenizer.decode(ids) - tokenizer.decode(changed)).abs().sum((0, 1))
    assert difference[12:, 12:].max() > 0, "the last token speaks for the last corner"


def test_ids_do_not_depend_on_the_batch(tokenizer: ConvVQTokenizer) -> None:
    images = pictures(6)
    together = tokenizer.encode(images)
    alone = torch.cat([tokenizer.encode(image.unsqueeze(0)) for image in images])
    assert torch.equal(together, alone)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    assert torch.equal(tokenizer.encode(images[order]), together[order])
    assert len(together.unique()) > 1


def test_memory_layout_does_not_change_the_ids(tokenizer: ConvVQTokenizer) -> None:
    images = pictures(4)
    ids = tokenizer.encode(images)
    tokenizer.to(memory_format=torch.channels_last)
    assert torch.equal(tokenizer.encode(images.contiguous(memory_format=torch.channels_last)), ids)


def test_training_pass_agrees_with_encode_and_decode(tokenizer: ConvVQTokenizer) -> None:
    images = pictures(3)
    output = tokenizer(images)
    ids = tokenizer.encode(images)
    assert torch.equal(output.ids.flatten(1), ids)
    torch.testing.assert_close(output.images.clamp(0, 1), tokenizer.decode(ids))
    assert output.latents.shape == (3, 4, 4, 4)


def test_identity_follows_weights_and_config_not_use(tokenizer: ConvVQTokenizer) -> None:
    first = tokenizer.identity
    other = ConvVQTokenizer(TINY)
    assert other.identity != first
    other.load_state_dict(tokenizer.state_dict())
    assert other.identity == first
    other.quantizer.track(torch.ones(32, dtype=torch.bool))  # bookkeeping of training
    assert other.identity == first
    sibling = ConvVQTokenizer(
        replace(TINY, l2_normalised=False)
    )  # the same weights, read otherwise
    sibling.load_state_dict(tokenizer.state_dict())
    assert sibling.identity != first


def test_unfit_input_is_named_before_work(tokenizer: ConvVQTokenizer) -> None:
    with pytest.raises(InputError, match="1 channels, this tokenizer takes 3"):
        tokenizer.encode(pictures(1, channels=1))
    with pytest.raises(InputError, match="width 18 does not divide by 4"):
        tokenizer.encode(pictures(1, width=18))
    with pytest.raises(InputError, match=re.escape("wanted is [0, 1]")):
        tokenizer.encode(pictures(1) * 2 - 1)
    with pytest.raises(InputError, match=r"image size 30 does not divide .* stride 4"):
        tokenizer.grid(30)
    with pytest.raises(InputError, match=re.escape("id 32 lies outside [0, 32)")):
        tokenizer.decode(torch.full((1, 16), 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_channels": 2}, "image_channels=2: wanted is 1 or 3"),
        ({"widths": (8, 12, 24)}, "widths=(8, 12, 24) must be multiples of 8"),
        ({"widths": ()}, "widths=() must have 1 to 12 entries"),
        ({"blocks": (1, 1)}, "blocks=(1, 1) must give a number from 0 for each of the 3 levels"),
        ({"blocks": (1, -1, 0)}, "blocks=(1, -1, 0) must each be at least 0"),
    ],
)
def test_impossible_configs_are_named(changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        replace(TINY, **changes)
