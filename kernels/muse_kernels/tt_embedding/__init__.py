"""Embedding whose table is a two-core tensor train with a rotation per rank (HTT)."""

import torch
from torch import Tensor

from muse_kernels.arguments import check_dtype, check_ids, check_same_device
from muse_kernels.implementation import Implementation, resolve
from muse_kernels.tensor_train import check_cores
from muse_kernels.tt_embedding.autograd import TTEmbedding
from muse_kernels.tt_embedding.fused import FusedTTEmbedding
from muse_kernels.tt_embedding.reference import tt_embedding as reference


def tt_embedding(
    ids: Tensor,
    core1: Tensor,
    core2: Tensor,
    theta: Tensor,
    *,
    vocab_size: int,
    d_model: int,
    implementation: Implementation = "auto",
) -> Tensor:
    """Rows of a tensor-train table E, which is never built.

    E[i] = sum_r core1[i // v2, r, :] (x) cos(theta_r) core2[i % v2, r, :]: a d1 x d2 outer product, summed
    over the rank, flattened and cropped to d_model.

    Args:
        ids: (*), int64 or int32, values in [0, vocab_size).
        core1: (v1, rank, d1), with (v1, v2) = tt_shape(vocab_size).
        core2: (v2, rank, d2), dtype of core1, with (d1, d2) = tt_shape(d_model).
        theta: (rank,), dtype of core1, in radians.
        vocab_size, d_model: size of the table.
        implementation: "reference", "eager", "triton", or "auto": triton on CUDA where it is installed, else eager.
    Returns: (*, d_model), dtype of core1; core gradients are summed over tokens in float32.
    Memory: saves ids, and the parameters by reference. A core that is not contiguous is copied.
        triton: no scratch forward. Backward: with w = tokens // piece, piece = max(64, the least power of two
        from tokens / 1024 on) and hence w <= 1024: ((w + v1) * rank * d1 + (w + v2) * rank * (d2 + ceil(d2 / 64)))
        * 4 bytes for sums; and to sort the tokens 8 bytes a token and less than 16 * (min(tokens, 32,768) / 256
        + 2) * (v1 + 1) bytes of counters.
        eager: works on chunks of c tokens, the least c for which
        c * (d1 * d2 + rank * (d1 + d2)) * element_size reaches the bytes of the output or 1 MiB. Scratch:
        that; in backward c * rank * d1 * 4 more; and less than four float32 copies of the cores.
    Raises: ValueError on a shape, dtype or device mismatch; IndexError on an id out of range (on CUDA: a
        device-side assert; on meta: unchecked).
    Source: Khrulkov et al. 2019, arXiv:1901.10787; the rotation cos(theta_r) makes it holographic.
    """
    check_dtype("ids", ids, [torch.int64, torch.int32])
    check_cores(core1, core2, theta, vocab_size, d_model)
    check_same_device(core1=core1, ids=ids)
    chosen = resolve(implementation, core1, core2, theta)
    if chosen == "triton":
        if ids.device.type == "cpu":
            check_ids("ids", ids, vocab_size)  # on CUDA the kernel checks, in the launch that looks the rows up
        return FusedTTEmbedding.apply(ids, core1, core2, theta, vocab_size, d_model)  # type: ignore[no-any-return, no-untyped-call]
    check_ids("ids", ids, vocab_size)
    if chosen == "reference":
        return reference(ids, core1, core2, theta, d_model)
    return TTEmbedding.apply(ids, core1, core2, theta, d_model)  # type: ignore[no-any-return, no-untyped-call]
