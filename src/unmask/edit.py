"""Editing: decode from a partly known image.

Every token that the hole touches is masked and drawn again; the others are kept and condition it.
Inpainting, outpainting and class edits differ only in the hole and the class label.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageFilter
from torch import Tensor
from torch.nn import functional

from unmask.decode import Plan
from unmask.draws import Draws, Seeds, as_seeds
from unmask.errors import InputError
from unmask.generation import Images, System, generate
from unmask.labels import Classes
from unmask.pictures import to_float
from unmask.tokenizers.tokenizer import Tokenizer, noise_shape
from unmask.types import Canvas


def masked_tokens(hole: Tensor, stride: int, *, ring: int = 0) -> Tensor:
    """The tokens that a hole touches.

    Args:
        hole: ``(B, H, W)`` bool, true where pixels are to be made anew.
        stride: pixels a token side; divides H and W.
        ring: tokens to widen by on every side. The original MaskGIT editor widens its box by 1,
            MAGE's author by 0.

    Returns:
        ``(B, L)`` bool, row-major.
    """
    touched = functional.max_pool2d(hole[:, None].float(), stride)  # (B, 1, h, w)
    if ring:
        touched = functional.max_pool2d(touched, 2 * ring + 1, stride=1, padding=ring)
    return touched.flatten(1) > 0


def soft_edge(hole: Tensor, radius: float) -> Tensor:
    """A hole with a Gaussian-blurred edge, as the original editor blends with.

    Args:
        hole: ``(B, H, W)`` bool.
        radius: standard deviation in pixels.

    Returns:
        ``(B, 1, H, W)`` float32 in [0, 1].
    """
    blurred = []
    for mask in hole.cpu():
        picture = Image.fromarray((mask.to(torch.uint8) * 255).numpy())
        soft = picture.filter(ImageFilter.GaussianBlur(radius))
        blurred.append(torch.frombuffer(bytearray(soft.tobytes()), dtype=torch.uint8))
    return to_float(torch.stack(blurred).view(len(hole), 1, *hole.shape[1:]))


def inpaint(
    system: System,
    images: Tensor | np.ndarray,
    hole: Tensor | np.ndarray,
    class_labels: Classes | None = None,
    *,
    seeds: Seeds,
    plan: Plan | None = None,
    ring: int = 0,
    blend_radius: float | None = None,
) -> Images:
    """Fill a hole in known images.

    Args:
        system: network, tokenizer and default plan.
        images: ``(B, C, H, W)`` of any floating type in [0, 1], at the system's size.
        hole: ``(H, W)`` or ``(B, H, W)`` bool, true where pixels are to be made anew.
        class_labels: integers or names, one an image for a class-conditional model; another class
            edits it.
        seeds: integers, one an image, or the first of consecutive ones.
        plan: None means the system's own; the original edits with 12 steps from step 2.
        ring: see :func:`masked_tokens`; at least 0.
        blend_radius: mix with the given pixels under a hole blurred by so many pixels; None
            returns the decoded image whole. Finite, at least 0.

    Returns:
        The images, and their tokens.

    Raises:
        InputError: when the images are not of the system's size or range or not one a seed, the
            hole is not bool, has another size or is empty, or an option is out of range.
    """
    images, hole = torch.as_tensor(images), torch.as_tensor(hole)
    _check_options(ring, blend_radius)
    _check_size(system, images)
    seeds = as_seeds(seeds, len(images))
    if len(images) != len(seeds):
        raise InputError(f"{len(images)} images and {len(seeds)} seeds; give one seed an image")
    _check_hole(hole, images)
    images = images.float()
    hole = hole.expand(len(images), *hole.shape[-2:])
    device = next(system.model.parameters()).device
    known = _encode(system.tokenizer, images.to(device), seeds)  # (B, L[, C])
    canvas = Canvas(known, masked_tokens(hole.to(device), system.tokenizer.stride, ring=ring))
    made = next(
        generate(system, class_labels, seeds=seeds, plan=plan, batch_size=len(seeds), canvas=canvas)
    )
    if blend_radius is None:
        return made
    weight = soft_edge(hole, blend_radius).to(device)
    pixels = images.to(device) * (1 - weight) + made.pixels * weight
    return made._replace(pixels=pixels)


@torch.inference_mode()
def _encode(tokenizer: Tokenizer, images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Tokens of the given images; latents are drawn from each image's own seed."""
    shape = noise_shape(tokenizer, tokenizer.grid((images.shape[-2], images.shape[-1])))
    noise = Draws(seeds, device=images.device).normal("posterior", 0, *shape)  # (B, C, h, w)
    return tokenizer.tokens(tokenizer.encode(images), noise)  # (B, L[, C])


def _check_options(ring: int, blend_radius: float | None) -> None:
    if ring < 0:
        raise InputError(f"ring={ring} must be at least 0 tokens")
    if blend_radius is not None and not 0 <= blend_radius < math.inf:
        raise InputError(
            f"blend_radius={blend_radius} must be finite and at least 0 pixels; None does not blend"
        )


def _check_size(system: System, images: Tensor) -> None:
    size = tuple(side * system.tokenizer.stride for side in system.model.grid)
    if images.ndim != 4 or tuple(images.shape[-2:]) != size:
        raise InputError(
            f"images of shape {tuple(images.shape)} do not fit this system, which edits "
            f"(B, C, {size[0]}, {size[1]}); crop or resize them"
        )
    if not images.is_floating_point():
        raise InputError(
            f"the images are {images.dtype}; give floating-point pixels in [0, 1], which of bytes "
            "are the value / 255"
        )


def _check_hole(hole: Tensor, images: Tensor) -> None:
    if hole.dtype != torch.bool:
        raise InputError(f"the hole is {hole.dtype}, wanted is torch.bool; compare it with 0.5")
    if hole.shape[-2:] != images.shape[-2:]:
        raise InputError(
            f"the hole is {tuple(hole.shape[-2:])} pixels and the images are "
            f"{tuple(images.shape[-2:])}; give both the same height and width"
        )
    if hole.ndim not in (2, 3) or hole.shape[:-2].numel() not in (1, len(images)):
        raise InputError(
            f"the hole has shape {tuple(hole.shape)}; give (H, W) for all images, or one an image"
        )
    if not hole.any():
        raise InputError("the hole is empty: mark at least one pixel true")
