"""From a token's raw step to what a state-space mixer takes: the state's decay, and the values scaled by the step."""

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_dtype, check_floating, check_same_device, check_shape
from muse_kernels.discretise.fused import FusedDiscretise
from muse_kernels.discretise.reference import discretise as reference
from muse_kernels.implementation import Implementation, resolve


def discretise(
    v: Tensor, steps: Tensor, bias: Tensor, rate_log: Tensor, *, implementation: Implementation = "auto"
) -> tuple[Tensor, Tensor]:
    """log_decay = -exp(rate_log) step and step v, with step = softplus(steps + bias).

    Args:
        v: (batch, seq, heads, P), floating; the last dimension lies together, or it is copied.
        steps: (batch, seq, heads), dtype of v.
        bias, rate_log: (heads,), dtype of v.
        implementation: "reference" (also "eager"), "triton" or "auto".
    Returns: log_decay (batch, seq, heads), float32 (float64 for float64), and step v, as v; computed in float32.
    Memory: "triton" saves its inputs. Scratch in backward: min(64, ceil(tokens / 16)) * 2 * heads * 4 bytes.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Dao and Gu 2024, arXiv:2405.21060.
    """
    check_floating("v", v)
    check_dimensions("v", v, ["batch", "seq", "heads", "P"])
    check_shape("steps", steps, v.shape[:3])
    for name, tensor in (("bias", bias), ("rate_log", rate_log)):
        check_shape(name, tensor, v.shape[2:3])
        check_dtype(name, tensor, [v.dtype])
    check_dtype("steps", steps, [v.dtype])
    check_same_device(v=v, steps=steps, bias=bias, rate_log=rate_log)
    if resolve(implementation, v, steps, bias, rate_log) != "triton":
        return reference(v, steps, bias, rate_log)
    return FusedDiscretise.apply(v, steps, bias, rate_log)  # type: ignore[no-any-return, no-untyped-call]
