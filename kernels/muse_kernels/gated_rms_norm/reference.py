"""The definition."""

import torch
from torch import Tensor
from torch.nn import functional

from muse_kernels.precision import accumulation_dtype


def gated_rms_norm(x: Tensor, v: Tensor, skip: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As muse_kernels.gated_rms_norm, in the dtype of accumulation."""
    wide = accumulation_dtype(x.dtype)
    total = (x.to(wide) + skip.to(wide).unsqueeze(-1) * v.to(wide)).flatten(-2)
    normed = total * torch.rsqrt(total.square().mean(-1, keepdim=True) + eps)
    return (normed * weight.to(wide) * functional.silu(gate.to(wide))).to(x.dtype)
