"""What the rows of tensor-train tables share: their cores as inputs, their bytes, and the table in plain PyTorch."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Maker, Sizes

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class TableSizes(Sizes):
    """A tensor-train table (vocab_size, d_model), and the tokens that use it."""

    vocab_size: int
    d_model: int
    tokens: int
    rank: int

    @property
    def vocab_factors(self) -> tuple[int, int]:
        """v1 and v2."""
        return _factors(self.vocab_size)

    @property
    def width_factors(self) -> tuple[int, int]:
        """d1 and d2."""
        return _factors(self.d_model)


def cores(sizes: TableSizes, make: Maker) -> tuple[Any, ...]:
    """core1, core2 and the angles, such that entries of the table have a variance of about 1 / d_model."""
    (v1, v2), (d1, d2) = sizes.vocab_factors, sizes.width_factors
    scale = (sizes.d_model * sizes.rank) ** -0.25
    core1, core2 = make.normal(v1, sizes.rank, d1, scale=scale), make.normal(v2, sizes.rank, d2, scale=scale)
    return core1, core2, make.normal(sizes.rank, scale=0.1)


def core_bytes(sizes: TableSizes) -> int:
    """Bytes of both cores and the angles."""
    (v1, v2), (d1, d2) = sizes.vocab_factors, sizes.width_factors
    return sizes.rank * (v1 * d1 + v2 * d2 + 1) * sizes.item_bytes


def product_operations(sizes: TableSizes) -> int:
    """Operations of x (tokens, d_model) with the table: core1 over d1, then core2 over the rank and d2, or at once."""
    (v1, v2), (d1, d2) = sizes.vocab_factors, sizes.width_factors
    by_core = sizes.rank * (v1 * d1 * d2 + v1 * v2 * d2)
    return 2 * sizes.tokens * min(by_core, sizes.vocab_size * sizes.d_model)


def table_rows(ids: "Tensor", core1: "Tensor", core2: "Tensor", theta: "Tensor", d_model: int) -> "Tensor":
    """Rows of the table as plain PyTorch computes them."""
    import torch

    v2 = core2.shape[0]
    rotated = core2 * theta.cos().unsqueeze(-1)
    rows = torch.einsum("...ra,...rb->...ab", core1[ids // v2], rotated[ids % v2])
    return rows.flatten(-2)[..., :d_model]


def table(core1: "Tensor", core2: "Tensor", theta: "Tensor", vocab_size: int, d_model: int) -> "Tensor":
    """The whole table (vocab_size, d_model), by one product of the cores rather than a gather of rows."""
    import torch

    rotated = core2 * theta.cos().unsqueeze(-1)
    whole = torch.einsum("ira,jrb->ijab", core1, rotated).flatten(2).flatten(0, 1)
    return whole[:vocab_size, :d_model]


def _factors(size: int) -> tuple[int, int]:
    """The two factors of a mode, as `muse_kernels.tt_shape` gives them."""
    first = math.isqrt(size - 1) + 1
    return first, -(-size // first)
