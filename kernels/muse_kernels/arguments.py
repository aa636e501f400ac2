"""Checks of public arguments; each error names the argument, what it was and what would be right."""

from collections.abc import Sequence

import torch
from torch import Tensor


def check_positive(name: str, value: int) -> None:
    """Sizes are at least 1."""
    if value < 1:
        raise ValueError(f"{name}: must be at least 1, got {value}")


def check_dimensions(name: str, tensor: Tensor, layout: Sequence[str]) -> None:
    """The tensor has one dimension for each name in the layout."""
    if tensor.dim() != len(layout):
        raise ValueError(f"{name}: expected shape ({', '.join(layout)}), got {tuple(tensor.shape)}")


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """The tensor has exactly this shape."""
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name}: expected shape {tuple(expected)}, got {tuple(tensor.shape)}")


def check_last_dimension(name: str, tensor: Tensor, expected: int) -> None:
    """The tensor's rows have this width."""
    if tensor.dim() == 0 or tensor.shape[-1] != expected:
        raise ValueError(f"{name}: expected last dimension {expected}, got shape {tuple(tensor.shape)}")


def check_dtype(name: str, tensor: Tensor, allowed: Sequence[torch.dtype]) -> None:
    """The tensor has one of these dtypes."""
    if tensor.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in dict.fromkeys(allowed))
        raise ValueError(f"{name}: expected dtype {names}, got {str(tensor.dtype).removeprefix('torch.')}")


def check_floating(name: str, tensor: Tensor) -> None:
    """The tensor holds real floating-point numbers."""
    if not tensor.is_floating_point():
        raise ValueError(f"{name}: expected a floating dtype, got {str(tensor.dtype).removeprefix('torch.')}")


def check_same_device(**tensors: Tensor | None) -> None:
    """All tensors given lie on the device of the first."""
    present = [(name, tensor) for name, tensor in tensors.items() if tensor is not None]
    first_name, first = present[0]
    for name, tensor in present[1:]:
        if tensor.device != first.device:
            raise ValueError(f"{name}: is on {tensor.device}, but {first_name} is on {first.device}")


def check_reduction(reduction: str) -> None:
    """A loss is averaged or summed."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: {reduction!r} is unknown; choose from mean, sum")


def check_ids(name: str, ids: Tensor, size: int, ignore_index: int | None = None) -> None:
    """Every id lies in [0, size) or is the ignored one; on CUDA a device-side assert, on meta unchecked.

    Raises: IndexError naming the first id out of range (CPU).
    """
    if ids.device.type == "meta" or ids.numel() == 0:
        return
    outside = (ids < 0) | (ids >= size)
    if ignore_index is not None:
        outside &= ids != ignore_index
    if ids.device.type != "cpu":
        torch._assert_async(~outside.any(), f"{name}: id out of range [0, {size})")
    elif outside.any():
        raise IndexError(f"{name}: id {int(ids[outside][0])} is out of range [0, {size})")
