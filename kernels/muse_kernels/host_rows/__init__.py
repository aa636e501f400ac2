"""Rows of a table in host memory, gathered by ids that lie on the device."""

import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels.arguments import check_dimensions, check_floating


def host_rows(table: Tensor, ids: Tensor) -> Tensor:
    """table[ids], on the device of the ids; rows that are not asked for are not copied.

    Args:
        table: (rows, width), floating, contiguous, on the CPU; pinned where the ids are on a GPU, which reads it there.
        ids: int64, any shape, each from 0 to below rows; an id outside is not checked on a GPU.
    Returns: (*ids.shape, width), dtype of table.
    Memory: no scratch. No gradient.
    Raises: ValueError on a table that is not contiguous on the CPU, or not pinned for ids on a GPU.
    """
    check_floating("table", table)
    check_dimensions("table", table, ["rows", "width"])
    if table.device.type != "cpu" or not table.is_contiguous():
        raise ValueError(f"table must lie together on the CPU, and is on {table.device} with strides {table.stride()}")
    if ids.device.type == "cpu":
        return functional.embedding(ids, table)
    if not table.is_pinned():
        raise ValueError("table must be in pinned memory for a GPU to read it: use table.pin_memory()")
    from muse_kernels.host_rows.kernel import gather

    out = torch.empty(*ids.shape, table.shape[1], dtype=table.dtype, device=ids.device)
    gather(table, ids.contiguous(), out)
    return out
