"""The definition."""

from torch import Tensor
from torch.nn import functional

from muse_kernels.precision import accumulation_dtype


def discretise(v: Tensor, steps: Tensor, bias: Tensor, rate_log: Tensor) -> tuple[Tensor, Tensor]:
    """As muse_kernels.discretise, in the dtype of accumulation."""
    wide = accumulation_dtype(v.dtype)
    step = functional.softplus(steps.to(wide) + bias.to(wide))
    return -rate_log.to(wide).exp() * step, (v.to(wide) * step.unsqueeze(-1)).to(v.dtype)
