"""The same in plain PyTorch, written in place."""

from torch import Tensor

from muse_kernels.int4_unpack.packing import BITS, GROUP, LOW_BITS, PAIR, ZERO


def unpack(packed: Tensor, scale: Tensor, weight: Tensor) -> None:
    """Fills weight (out_features, in_features), contiguous."""
    in_features = weight.shape[1]
    weight[:, ::PAIR] = packed & LOW_BITS
    weight[:, 1::PAIR] = packed[:, : in_features // PAIR] >> BITS
    weight -= ZERO
    whole = in_features // GROUP
    weight[:, : whole * GROUP].unflatten(1, (whole, GROUP)).mul_(scale[:, :whole, None])
    weight[:, whole * GROUP :] *= scale[:, whole:]
