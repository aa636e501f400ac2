"""Output projection whose weight is a two-core tensor train: the tied head of a tensor-train embedding."""

from torch import Tensor

from muse_kernels.arguments import check_dimensions, check_dtype, check_same_device
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.tensor_train import check_cores
from muse_kernels.tt_linear.autograd import TTLinear
from muse_kernels.tt_linear.fused import FusedTTLinear
from muse_kernels.tt_linear.reference import tt_linear as reference


def tt_linear(
    x: Tensor,
    core1: Tensor,
    core2: Tensor,
    theta: Tensor,
    *,
    vocab_size: int,
    implementation: Implementation = "auto",
) -> Tensor:
    """Logits x @ E^T against a tensor-train table E (see tt_embedding), which is never built.

    Args:
        x: (*, d_model), dtype of core1.
        core1: (v1, rank, d1), with (v1, v2) = tt_shape(vocab_size).
        core2: (v2, rank, d2), dtype of core1, with (d1, d2) = tt_shape(d_model).
        theta: (rank,), dtype of core1, in radians.
        vocab_size: rows of the table.
        implementation: "reference", "eager", "triton", or "auto": triton on CUDA where it is installed, else eager.
    Returns: (*, vocab_size), dtype of x; core gradients are summed in float32.
    Memory: saves x, and the parameters by reference.
        triton: no scratch forward. Backward, float32 shares of the cores' gradients: of core1's the quarter of the
        bytes of x or 1 MiB, but up to 4 copies of rank * v1 * d1 * ceil(d2 / 32) numbers in any case; of core2's the
        bytes of x or 1 MiB, but up to 16 copies of it; and less than a hundredth more for theta's. A core that is
        not contiguous is copied, and so is an x or a gradient whose tokens lie at no constant stride.
        triton, 16 bits, rank above 8 and many tokens: the table by blocks of its rows in backward, and in forward if
        vocab_size is a multiple of 8; in float16 these and their gradient must fit it, as in the reference. Scratch:
        16 MiB, or half the bytes of the logits if those are less. In backward that is a block of the table, a copy of
        the logits' gradient for it, 1 byte for each element of x, all for a chunk of the tokens at a time, and three
        float32 copies of the cores at most.
        eager: works on chunks of c tokens, the least c for which
        c * (v1 * v2 + v1 * rank * d2) * element_size reaches the bytes of x or 1 MiB. Scratch: that and c *
        d1 * d2 elements; in backward c * (v1 * rank * d2 + 2 * d1 * d2) elements more; and less than four
        float32 copies of the cores. A gradient that arrives expanded is copied by the chunk.
    Raises: ValueError on a shape, dtype or device mismatch.
    Source: Oseledets 2011, tensor-train decomposition; Khrulkov et al. 2019, arXiv:1901.10787.
    """
    if x.dim() == 0:
        check_dimensions("x", x, ["*", "d_model"])
    check_cores(core1, core2, theta, vocab_size, x.shape[-1])
    check_dtype("x", x, [core1.dtype])
    check_same_device(core1=core1, x=x)
    chosen = resolve(implementation, x, core1, core2, theta)
    if chosen == "reference":
        return reference(x, core1, core2, theta, vocab_size)
    if chosen == "triton":
        return FusedTTLinear.apply(x, core1, core2, theta, vocab_size)  # type: ignore[no-any-return, no-untyped-call]
    return TTLinear.apply(x, core1, core2, theta, vocab_size)  # type: ignore[no-any-return, no-untyped-call]
