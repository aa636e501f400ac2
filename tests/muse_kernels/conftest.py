"""What every kernel test shares: the accuracy rule, a memory watch, chunks small enough to need several."""

import importlib
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def device() -> str:
    """Where kernels run: on the GPU when there is one, else in Triton's interpreter."""
    return DEVICE


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is filled with NaN, so an output that is not wholly written shows."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan tiles of 4 steps; 5 to 8 steps are two chunks of a tile, 13 are two chunks of two tiles."""
    for name, value in {"THREADS": 2, "STEPS": 2, "WALK_TILES": 1, "MAX_CHUNKS": 2}.items():
        monkeypatch.setattr(importlib.import_module("muse_kernels.diagonal_scan.plan"), name, value)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch, small_tiles: None) -> None:
    """Tiny inputs are cut into several chunks, as large ones are."""
    monkeypatch.setattr(importlib.import_module("muse_kernels.chunks"), "MIN_SCRATCH_BYTES", 1)
    monkeypatch.setattr(importlib.import_module("muse_kernels.linear_cross_entropy.autograd"), "TILE", 3)
    for name in ("TILE_STEPS", "WALK_STEPS"):
        monkeypatch.setattr(importlib.import_module("muse_kernels.causal_convolution.fused"), name, 4)


Run = Callable[..., Tensor | tuple[Tensor, ...]]


DRAWS = 16  # one number, such as a loss, may err little by luck: errors are pooled over several inputs


def outputs_and_gradients(run: Run, implementation: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs, and the gradient of every input for cotangents that depend on the shapes only."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    result = run(implementation, *leaves)
    outputs = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator().manual_seed(1)
    shapes = [output.shape for output in outputs]
    # Rounded to bfloat16, they are the same in every dtype.
    cotangents = [torch.randn(shape, generator=generator).to(torch.bfloat16) for shape in shapes]
    cotangents = [tensor.to(output) for tensor, output in zip(cotangents, outputs, strict=True)]
    return [output.detach() for output in outputs] + list(torch.autograd.grad(outputs, leaves, cotangents))


def mean_squares(run: Run, implementation: str, inputs: Sequence[Tensor]) -> list[list[float]]:
    """For each result: of the error of ours, of that of the reference in the same dtype, of the true value."""
    exact = outputs_and_gradients(run, "reference", [tensor.double() for tensor in inputs])
    plain = outputs_and_gradients(run, "reference", inputs)
    lean = outputs_and_gradients(run, implementation, inputs)
    squares = []
    for truth, theirs, ours in zip(exact, plain, lean, strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        values = (ours - truth, theirs - truth, truth)
        squares.append([value.double().square().sum().item() / max(value.numel(), 1) for value in values])
    return squares


@pytest.fixture
def assert_accurate() -> Callable[..., None]:
    """Asserts that ours errs at most twice what the reference errs in the same dtype, plus one unit in the last
    place, in the root mean square. Both are compared with the reference in float64, on the same rounded inputs:
    those given, and the same shrunk at random by up to a quarter."""

    def check(run: Run, *inputs: Tensor, implementation: str = "eager") -> None:
        draws = [mean_squares(run, implementation, inputs)]
        for _ in range(DRAWS - 1):
            shrunk = [tensor.detach() * (1 - torch.rand(tensor.shape) / 4).to(tensor) for tensor in inputs]
            draws.append(mean_squares(run, implementation, shrunk))
        results = outputs_and_gradients(run, implementation, inputs)
        pooled = torch.tensor(draws, dtype=torch.float64).mean(0).sqrt().tolist()
        for index, (result, (ours, theirs, size)) in enumerate(zip(results, pooled, strict=True)):
            allowed = 2 * theirs + torch.finfo(result.dtype).eps * size
            assert ours <= allowed, f"result {index}: error {ours:.3e}, reference {theirs:.3e}, value {size:.3e}"

    return check


class MemoryWatch(TorchDispatchMode):
    """Follows the storages that operations create: the bytes alive at the peak and the elements of the largest."""

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = self.peak_bytes = self.largest_elements = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {_storage_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _storage_key(leaf) not in given | self._alive.keys():
                self._add(leaf)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage, key = tensor.untyped_storage(), _storage_key(tensor)
        size = storage.nbytes()
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)
        self.largest_elements = max(self.largest_elements, size // tensor.element_size())
        self._alive[key] = weakref.ref(storage, lambda _: self._remove(key, size))

    def _remove(self, key: int, size: int) -> None:
        self.live_bytes -= size
        del self._alive[key]


def _storage_key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


@pytest.fixture
def memory_watch() -> MemoryWatch:
    """A fresh watch, to be entered around the operations that it follows."""
    return MemoryWatch()
