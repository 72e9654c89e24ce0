"""Every tokenizer recipe builds, has the shape it says, and takes a training step."""

from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.tokenizers.conv_vq import ConvVQTokenizer
from unmask.tokenizers.objective import TokenizerObjective

SHAPES = {  # name: channels, size, grid, codes, parameters
    "fashion-vq": (1, 28, (7, 7), 256, 220_073),
    "small-vq-64": (3, 64, (8, 8), 1024, 2_627_539),
    "small-vq-128": (3, 128, (16, 16), 1024, 8_143_251),
}


def test_the_table_is_complete() -> None:
    assert TOKENIZER_RECIPES.keys() == SHAPES.keys()
    assert all(name == recipe.name for name, recipe in TOKENIZER_RECIPES.items())


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str) -> None:
    recipe = TOKENIZER_RECIPES[name]
    with torch.device("meta"):
        tokenizer = ConvVQTokenizer(recipe.network)
    parameters = sum(p.numel() for p in tokenizer.parameters())
    shape = (recipe.channels, recipe.image_size, recipe.grid, tokenizer.codes, parameters)
    assert shape == SHAPES[name]
    images = torch.empty(2, recipe.channels, recipe.image_size, recipe.image_size, device="meta")
    tokenizer.to("meta")
    assert tokenizer.encode(images).shape == (2, recipe.grid[0] * recipe.grid[1])


@pytest.mark.parametrize("name", ["fashion-vq", "small-vq-64"])
def test_takes_a_training_step(name: str) -> None:
    recipe = TOKENIZER_RECIPES[name]
    objective = TokenizerObjective(ConvVQTokenizer(recipe.network), recipe.loss, batch_size=2)
    shape = (2, recipe.channels, recipe.image_size, recipe.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=keyed_generator(name))
    objective((images, None))["loss"].backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    objective.after_step(0, keyed_generator(0))


def test_an_image_size_off_the_stride_is_named() -> None:
    with pytest.raises(InputError, match="image size 30 does not divide"):
        replace(TOKENIZER_RECIPES["fashion-vq"], image_size=30)
