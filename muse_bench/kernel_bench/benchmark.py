"""What a benchmark of a kernel is: cases, contenders, the work that no implementation can avoid, goals. No torch."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

OURS = "muse_kernels"
LIMIT = "the limit"

BenchDtype = Literal["fp32", "fp16", "bf16"]
Figure = Literal["forward", "forward+backward", "scratch"]
Operation = Callable[..., Any]

ITEM_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
ID_BYTES = 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of one case; a row's own class adds its fields and a label."""

    dtype: BenchDtype = "bf16"

    @property
    def item_bytes(self) -> int:
        """Bytes of one number."""
        return ITEM_BYTES[self.dtype]

    @property
    def label(self) -> str:
        """The case in a few words."""
        raise NotImplementedError

    def numbers(self) -> dict[str, int]:
        """The sizes by name, without the dtype."""
        return {name: value for name, value in asdict(self).items() if name != "dtype"}


S = TypeVar("S", bound=Sizes)


class Work(NamedTuple):
    """What one pass cannot avoid: bytes (inputs read once, outputs or gradients written once), and operations."""

    moved_bytes: int
    operations: int = 0


class Maker(Protocol):
    """Makes the inputs of a case on the device that runs it; floating inputs take gradients unless told."""

    def normal(self, *shape: int, scale: float = 1.0, grad: bool = True) -> "Tensor":
        """Normal random numbers, in the dtype of the case."""

    def uniform(self, *shape: int, low: float, high: float, grad: bool = True) -> "Tensor":
        """Uniform random numbers, in the dtype of the case."""

    def ids(self, *shape: int, size: int) -> "Tensor":
        """Uniform random int64 in [0, size)."""

    def module(self, build: Callable[[], Any]) -> Any:
        """A module whose parameters are inputs, on the device and in the dtype of the case."""


Inputs = Callable[[S, Maker], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Contender(Generic[S]):
    """One implementation of what a benchmark measures.

    `load` imports what it needs and returns the operation, which is called with the inputs. `slow` says why it takes
    minutes, for one that runs only when such are asked for. One that is `forward_only` has no backward pass.
    """

    name: str
    load: Callable[[S], Operation]
    inputs: Inputs[S] | None = None  # None: those of the benchmark
    when: Callable[[S], bool] = lambda _: True
    slow: str | None = None
    forward_only: bool = False


@dataclass(frozen=True, kw_only=True)
class Goal(Generic[S]):
    """Ours takes at most `factor` times what `against` takes: a contender, or the limit."""

    figure: Figure
    against: str
    factor: float
    when: Callable[[S], bool] = lambda _: True

    @property
    def text(self) -> str:
        """The goal in words."""
        if self.against == LIMIT:
            return f"{self.figure} at {1 / self.factor * 100:.0f} % of the limit or more"
        if self.figure == "scratch":
            return f"scratch at most {self.factor * 100:g} % of that of {self.against}"
        if self.factor == 1:
            return f"{self.figure} faster than {self.against}"
        if self.factor < 1:
            return f"{self.figure} {1 / self.factor:g} x as fast as {self.against}"
        return f"{self.figure} within {self.factor:g} x of {self.against}"


@dataclass(frozen=True, kw_only=True)
class Benchmark(Generic[S]):
    """One kernel: what is measured, on which sizes, beside whom, and what it should reach.

    `tiny` are sizes for tests. `backward` is None for what takes no gradient. The backward pass stands alone: what it
    reads is counted again, since a model does much else in between.
    """

    about: str
    cases: tuple[S, ...]
    tiny: tuple[S, ...]
    inputs: Inputs[S]
    ours: Callable[[S], Operation]
    forward: Callable[[S], Work]
    backward: Callable[[S], Work]
    peers: tuple[Contender[S], ...]
    goals: tuple[Goal[S], ...] = field(default=())

    def contenders(self, sizes: S) -> tuple[Contender[S], ...]:
        """Ours, then the peers that take part in this case."""
        ours: Contender[S] = Contender(name=OURS, load=self.ours)
        return (ours, *(peer for peer in self.peers if peer.when(sizes)))
