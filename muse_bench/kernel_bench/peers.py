"""The peers that PyTorch itself offers, and the goals that hold against them."""

from collections.abc import Callable
from typing import Any

from muse_bench.kernel_bench.benchmark import Contender, Figure, Goal, Operation, S

EAGER = "eager"
COMPILE = "torch.compile"
BOTH: tuple[Figure, ...] = ("forward", "forward+backward")


def eager(load: Callable[[S], Operation], when: Callable[[S], bool] = lambda _: True) -> Contender[S]:
    """Plain PyTorch."""
    return Contender(name=EAGER, load=load, when=when)


def compiled(load: Callable[[S], Operation], when: Callable[[S], bool] = lambda _: True) -> Contender[S]:
    """The same through torch.compile, in its default mode, each case compiled for its own shapes."""

    def compile_it(sizes: S) -> Operation:
        import torch

        torch._dynamo.reset()  # a second shape in one process would be compiled with symbolic sizes
        return torch.compile(load(sizes), dynamic=False)

    return Contender(name=COMPILE, load=compile_it, when=when)


def standard_goals() -> tuple[Goal[Any], ...]:
    """Faster than eager PyTorch, and close to torch.compile."""
    return tuple(
        Goal(figure=figure, against=against, factor=factor)
        for against, factor in ((EAGER, 1.0), (COMPILE, 1.15))
        for figure in BOTH
    )
