"""Makes the inputs of a case, and runs an operation on them: one call forward, or forward and backward."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.kernel_bench.benchmark import BenchDtype, Operation

DTYPES: dict[BenchDtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class TensorMaker:
    """Makes inputs on a device, from a seed of its own."""

    def __init__(self, device: torch.device, dtype: BenchDtype, seed: int = 0) -> None:
        self._device, self._dtype = device, DTYPES[dtype]
        self._generator = torch.Generator(device).manual_seed(seed)

    def normal(self, *shape: int, scale: float = 1.0, grad: bool = True) -> Tensor:
        """Normal random numbers times the scale."""
        drawn = torch.randn(shape, generator=self._generator, device=self._device, dtype=self._dtype)
        return drawn.mul_(scale).requires_grad_(grad)

    def uniform(self, *shape: int, low: float, high: float, grad: bool = True) -> Tensor:
        """Uniform random numbers."""
        drawn = torch.rand(shape, generator=self._generator, device=self._device, dtype=self._dtype)
        return drawn.mul_(high - low).add_(low).requires_grad_(grad)

    def ids(self, *shape: int, size: int) -> Tensor:
        """Uniform random int64 below the size."""
        return torch.randint(size, shape, generator=self._generator, device=self._device)

    def module(self, build: Callable[[], Any]) -> Any:
        """The module, moved and converted."""
        return build().to(device=self._device, dtype=self._dtype)


class Call:
    """One operation on one set of inputs, with a gradient for each of its outputs."""

    def __init__(self, operation: Operation, arguments: Sequence[Any]) -> None:
        self._operation, self._arguments = operation, arguments
        self._leaves = [tensor for tensor in _tensors(arguments) if tensor.requires_grad]
        self._gradients: list[Tensor | None] | None = None

    @property
    def input_bytes(self) -> int:
        """Bytes of the inputs."""
        return _bytes(_tensors(self._arguments))

    def forward(self) -> list[Tensor]:
        """The outputs; nothing is kept for a backward pass."""
        with torch.no_grad():
            return _outputs(self._operation(*self._arguments))

    def forward_backward(self) -> list[Tensor]:
        """The outputs and the gradient of every input that takes one."""
        outputs = [output for output in _outputs(self._operation(*self._arguments)) if output.requires_grad]
        if self._gradients is None:  # made once, as inputs are
            self._gradients = [None if output.dim() == 0 else torch.randn_like(output) for output in outputs]
        return [*outputs, *torch.autograd.grad(outputs, self._leaves, self._gradients)]


def written_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes of what a call returned; tensors that share memory count once."""
    return _bytes(tensors)


def _bytes(tensors: Sequence[Tensor]) -> int:
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def _outputs(result: Any) -> list[Tensor]:
    """The tensors of a result; the None of a tuple stands for what was not asked for."""
    return [result] if isinstance(result, Tensor) else [part for part in result if isinstance(part, Tensor)]


def _tensors(arguments: Sequence[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for argument in arguments:
        if isinstance(argument, nn.Module):
            found += argument.parameters()
        elif isinstance(argument, Tensor):
            found.append(argument)
    return found
