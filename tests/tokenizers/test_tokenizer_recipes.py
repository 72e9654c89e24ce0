"""Every tokenizer recipe builds, has the shape it says, and takes a training step."""

from dataclasses import replace

import pytest
import torch

from unmask.draws import keyed_generator
from unmask.errors import InputError
from unmask.recipes.tokenizers import TOKENIZER_RECIPES
from unmask.tokenizers.objective import TokenizerObjective
from unmask.tokenizers.tokenizer import noise_shape

SHAPES = {  # name: channels, size, grid, codes or numbers a token, parameters
    "fashion-vq": (1, 28, (7, 7), 256, 220_073),
    "fashion-kl": (1, 28, (7, 7), 8, 218_545),
    "small-vq-64": (3, 64, (8, 8), 1024, 2_627_539),
    "small-kl-64": (3, 64, (8, 8), 16, 2_613_219),
    "small-vq-128": (3, 128, (16, 16), 1024, 8_143_251),
}


def test_the_table_is_complete() -> None:
    assert TOKENIZER_RECIPES.keys() == SHAPES.keys()
    assert all(name == recipe.name for name, recipe in TOKENIZER_RECIPES.items())


@pytest.mark.parametrize("name", SHAPES)
def test_shape(name: str) -> None:
    recipe = TOKENIZER_RECIPES[name]
    with torch.device("meta"):
        tokenizer = recipe.build()
    parameters = sum(p.numel() for p in tokenizer.parameters())
    kind, tells = tokenizer.space
    shape = (recipe.channels, recipe.image_size, recipe.grid, tells, parameters)
    assert shape == SHAPES[name]
    images = torch.empty(2, recipe.channels, recipe.image_size, recipe.image_size, device="meta")
    tokenizer.to("meta")
    length = recipe.grid[0] * recipe.grid[1]
    stored = (length,) if kind == "codes" else (2 * tells, *recipe.grid)
    assert tokenizer.encode(images).shape == (2, *stored)


@pytest.mark.parametrize("name", ["fashion-vq", "fashion-kl", "small-vq-64", "small-kl-64"])
def test_takes_a_training_step(name: str) -> None:
    recipe = TOKENIZER_RECIPES[name]
    tokenizer = recipe.build()
    objective = TokenizerObjective(tokenizer, recipe.loss, batch_size=2)
    shape = (2, recipe.channels, recipe.image_size, recipe.image_size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=keyed_generator(name))
    noise = noise_shape(tokenizer, recipe.grid)
    more = torch.randn(2, *noise, generator=keyed_generator("noise"))
    objective((images, None, more))["loss"].backward()
    trained = [p for p in objective.parameters() if p.requires_grad]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    objective.after_step(0, keyed_generator(0))


def test_an_image_size_off_the_stride_is_named() -> None:
    with pytest.raises(InputError, match="image size 30 does not divide"):
        replace(TOKENIZER_RECIPES["fashion-vq"], image_size=30)
