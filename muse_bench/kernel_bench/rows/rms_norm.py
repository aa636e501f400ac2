"""RMSNorm, alone and with the residual sum before it: a row is read and written once."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from muse_bench.kernel_bench.benchmark import Benchmark, Contender, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

if TYPE_CHECKING:
    from torch import Tensor

EPS = 1e-6


@dataclass(frozen=True, kw_only=True)
class NormSizes(Sizes):
    """`residual` is 1 where the sum before the norm is part of it."""

    tokens: int
    d_model: int
    residual: int = 0

    @property
    def label(self) -> str:
        return f"{self.tokens:,} x {self.d_model:,}{' + residual' if self.residual else ''} {self.dtype}"


def inputs(sizes: NormSizes, make: Maker) -> tuple[Any, ...]:
    """x, the weight, and the residual if there is one."""
    x, weight = make.normal(sizes.tokens, sizes.d_model), make.normal(sizes.d_model)
    return (x, weight, make.normal(sizes.tokens, sizes.d_model)) if sizes.residual else (x, weight)


def ours(_: NormSizes) -> Operation:
    """The kernel."""
    from muse_kernels import rms_norm

    def norm(x: "Tensor", weight: "Tensor", residual: "Tensor | None" = None) -> Any:
        return rms_norm(x, weight, eps=EPS) if residual is None else rms_norm(x, weight, eps=EPS, residual=residual)

    return norm


def plain(_: NormSizes) -> Operation:
    """The sum, then PyTorch's own norm."""
    from torch.nn.functional import rms_norm

    def norm(x: "Tensor", weight: "Tensor", residual: "Tensor | None" = None) -> Any:
        total = x if residual is None else x + residual
        out = rms_norm(total, weight.shape, weight, EPS)
        return out if residual is None else (out, total)

    return norm


def liger(sizes: NormSizes) -> Operation:
    """Liger's, which in backward writes over the gradient that it was given."""
    from liger_kernel.transformers.functional import liger_fused_add_rms_norm, liger_rms_norm

    if sizes.residual:
        return lambda x, weight, residual: liger_fused_add_rms_norm(x, residual, weight, EPS)
    return lambda x, weight: liger_rms_norm(x, weight, EPS)


def forward(sizes: NormSizes) -> Work:
    """Reads x, writes the norm; with a residual also reads it and writes the sum."""
    rows = sizes.tokens * sizes.d_model
    return Work((rows * (4 if sizes.residual else 2) + sizes.d_model) * sizes.item_bytes)


def backward(sizes: NormSizes) -> Work:
    """Reads the gradient and the normed rows, writes the gradient of x; with a residual also reads the sum's.

    x and the residual share one gradient.
    """
    rows = sizes.tokens * sizes.d_model
    return Work((rows * (4 if sizes.residual else 3) + 2 * sizes.d_model) * sizes.item_bytes)


BENCHMARK = Benchmark(
    about="Root-mean-square norm of rows",
    cases=(
        NormSizes(tokens=16_384, d_model=1_024),
        NormSizes(tokens=16_384, d_model=1_024, residual=1),
        NormSizes(tokens=16_384, d_model=4_096),
    ),
    tiny=(NormSizes(tokens=6, d_model=16), NormSizes(tokens=6, d_model=16, residual=1)),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=backward,
    peers=(eager(plain), compiled(plain), Contender(name="Liger", load=liger)),
    goals=standard_goals(),
)
