"""What launchers and containers put into the environment cannot change the arithmetic unseen.

accelerate takes whatever it is not told from variables, and torch and its libraries read some of
their own. What can be said by an argument is said by one (:func:`plain_arguments`); what would
split, move or replace the training is refused; what lowers the precision is refused or set aside
and said.
"""

from __future__ import annotations

import os

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin, TorchDynamoPlugin

from unmask.errors import InputError, SaidError
from unmask.text import say

ANOTHER_TRAINING = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "another kind of parallelism",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
    "ACCELERATE_FP8_BACKEND": "8-bit floats",
}
"""Switches of accelerate for which there is no argument that says no."""
SHARDS = {
    "fsdp_plugin": "FSDP",
    "deepspeed_plugin": "DeepSpeed",
    "megatron_lm_plugin": "Megatron-LM",
}
"""Attributes of accelerate's state that are there where a network is cut among processes."""
WHOLE = "every published size fits a GPU of 80 GB whole (docs/train.md, Memory)"
OFF = ("", "0", "false", "no", "n", "f", "off")

LOWER_PRECISION = {
    "cpu": ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
    "cuda": ("NVIDIA_TF32_OVERRIDE",),
}
"""Variables that libraries below torch read, by kind of device; torch cannot overrule them."""
HARMLESS = {"", "STRICT"}
TF32 = "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"  # NVIDIA's containers set it to 1


def check_launcher() -> None:
    """Refuse a launcher's wish for a training that is not this library's.

    Raises:
        InputError: naming the variable.
    """
    for name, what in ANOTHER_TRAINING.items():
        if os.environ.get(name, "").lower() not in OFF:
            why = f", and need not: {WHOLE}" if what in SHARDS.values() else ""
            error = InputError if os.environ.get("RANK", "0") == "0" else SaidError
            raise error(
                f"{name}={os.environ[name]} asks for {what}, which this library does not train "
                f"with{why}; unset it, or launch with torchrun or: accelerate launch --multi_gpu"
            )


def plain_arguments() -> dict[str, object]:
    """Arguments of ``Accelerator`` that leave nothing of the arithmetic to the environment.

    The loop accumulates by itself, so accelerate must not divide the loss too; nothing is compiled,
    which with full precision would also allow TF32.
    """
    return {
        "gradient_accumulation_plugin": GradientAccumulationPlugin(num_steps=1),
        "dynamo_plugin": TorchDynamoPlugin(backend="no"),
    }


def check_arithmetic(accelerator: Accelerator) -> None:
    """Refuse or set aside what would make the numbers others than the settings say.

    Raises:
        InputError: an accelerator that divides the loss or cuts the network, or a variable that
            lowers the precision.
    """
    for plugin, what in SHARDS.items():
        if getattr(accelerator.state, plugin, None) is not None:
            raise InputError(
                f"the accelerator cuts the network by {what}, which this library does not train "
                f"with, and need not: {WHOLE}; make it without"
            )
    if accelerator.gradient_accumulation_steps != 1:
        raise InputError(
            f"the accelerator has gradient_accumulation_steps="
            f"{accelerator.gradient_accumulation_steps}, which would divide the loss; leave it at "
            "1 and set training.accumulate"
        )
    kind = accelerator.device.type
    for name in LOWER_PRECISION.get(kind, ()):
        if os.environ.get(name, "").upper() not in HARMLESS:
            raise InputError(
                f"{name}={os.environ[name]} changes how {kind} computes in float32; unset it, and "
                "choose with --training.precision"
            )
    if kind == "cuda" and os.environ.get(TF32, "0") not in ("", "0"):
        torch.backends.cuda.matmul.allow_tf32 = False
        if accelerator.is_main_process:
            say(f"{TF32}={os.environ[TF32]} is set aside: float32 is computed as float32")
