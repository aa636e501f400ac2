"""RMSNorm: the definition."""

from torch import Tensor

from muse_kernels.precision import accumulation_dtype


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight, rounded once."""
    wide = x.to(accumulation_dtype(x.dtype))
    rstd = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (wide * rstd * weight).to(x.dtype)
