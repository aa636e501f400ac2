"""Which implementation of an operation runs, and whether a kernel is launched: the one place where that is decided."""

import importlib.util
import os
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

Implementation = Literal["auto", "reference", "eager", "triton"]
Resolved = Literal["reference", "eager", "triton"]

KERNEL_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def resolve(implementation: Implementation, *operands: Tensor | None) -> Resolved:
    """The implementation that a call runs; what cannot run is an error, never a silent fall-back.

    "auto" is "triton" for float32, float16 and bfloat16 on CUDA where Triton is installed, and on meta, which
    stands for such a machine; otherwise "eager".

    Args:
        operands: the floating tensors that the operation's Triton kernel would read; none if it has no kernel.
    Raises: ValueError on an unknown name, on "triton" for an operation without a kernel, for another dtype, or for
        tensors on a CPU outside Triton's interpreter.
    """
    given = [operand for operand in operands if operand is not None]
    if implementation == "auto":
        runs = bool(given) and all(operand.dtype in KERNEL_DTYPES for operand in given)
        return "triton" if runs and _has_triton(given[0].device.type) else "eager"
    if implementation not in get_args(Resolved):
        known = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation: {implementation!r} is unknown; choose from {known}")
    if implementation == "triton":
        _check_kernel(given)
    return implementation


def launches(output: Tensor) -> bool:
    """Whether a kernel that fills this tensor is launched: not on meta, where only allocations count, nor for none."""
    return output.numel() > 0 and output.device.type != "meta"


def _check_kernel(operands: list[Tensor]) -> None:
    if not operands:
        raise ValueError("implementation: this operation has no Triton kernel; choose from auto, reference, eager")
    for operand in operands:
        if operand.dtype not in KERNEL_DTYPES:
            name = str(operand.dtype).removeprefix("torch.")
            raise ValueError(f"implementation: Triton kernels take float32, float16 and bfloat16, not {name}")
    if operands[0].device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError("implementation: Triton runs on CUDA; on a CPU, set TRITON_INTERPRET=1 to interpret it")


@cache
def _has_triton(device_type: str) -> bool:
    return device_type == "meta" or (device_type == "cuda" and importlib.util.find_spec("triton") is not None)
