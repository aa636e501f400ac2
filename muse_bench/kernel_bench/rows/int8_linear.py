"""Weight-only INT8 product: few tokens wait for the weight's bytes, many for the matrix units."""

from dataclasses import dataclass
from typing import Any

from muse_bench.kernel_bench.benchmark import Benchmark, Contender, Maker, Operation, Sizes, Work
from muse_bench.kernel_bench.peers import compiled, eager, standard_goals

SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class LinearSizes(Sizes):
    """x (tokens, inputs) and a weight (outputs, inputs)."""

    tokens: int
    inputs: int
    outputs: int

    @property
    def label(self) -> str:
        return f"{self.tokens:,} tokens, {self.inputs:,} to {self.outputs:,} {self.dtype}"


def inputs(sizes: LinearSizes, make: Maker) -> tuple[Any, ...]:
    """x, the INT8 weight, its scales. Only x takes a gradient."""
    from muse_kernels import quantise_int8

    weight = make.normal(sizes.outputs, sizes.inputs, grad=False)
    return (make.normal(sizes.tokens, sizes.inputs), *quantise_int8(weight))


def ours(_: LinearSizes) -> Operation:
    """The kernel."""
    from muse_kernels import int8_linear

    return int8_linear


def plain(_: LinearSizes) -> Operation:
    """The weight dequantised whole, then the product."""
    from torch.nn.functional import linear

    return lambda x, weight, scale: linear(x, (weight * scale.unsqueeze(1)).to(x.dtype))


def dense(_: LinearSizes) -> Operation:
    """The product alone, with a weight that was never quantised."""
    from torch.nn.functional import linear

    return linear


def dense_inputs(sizes: LinearSizes, make: Maker) -> tuple[Any, ...]:
    """x and the weight."""
    return make.normal(sizes.tokens, sizes.inputs), make.normal(sizes.outputs, sizes.inputs, grad=False)


def forward(sizes: LinearSizes) -> Work:
    """Reads x, the INT8 weight and its scales, writes the product."""
    activations = sizes.tokens * (sizes.inputs + sizes.outputs) * sizes.item_bytes
    weight = sizes.outputs * (sizes.inputs + SCALE_BYTES)
    return Work(activations + weight, 2 * sizes.tokens * sizes.inputs * sizes.outputs)


BENCHMARK = Benchmark(
    about="Product with an INT8 weight",
    cases=(
        LinearSizes(tokens=16, inputs=4_096, outputs=4_096),
        LinearSizes(tokens=8_192, inputs=1_024, outputs=4_096),
    ),
    tiny=(LinearSizes(tokens=3, inputs=16, outputs=24),),
    inputs=inputs,
    ours=ours,
    forward=forward,
    backward=forward,  # the output's gradient in the place of x, and the same weight
    peers=(eager(plain), compiled(plain), Contender(name="dense product", load=dense, inputs=dense_inputs)),
    goals=standard_goals(),
)
