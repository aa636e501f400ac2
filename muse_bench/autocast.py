"""Autocast for a step, on CUDA by PyTorch itself, and on `meta` by doing what PyTorch does there.

PyTorch's autocast looks at the device of each tensor and leaves `meta` tensors alone, so for a prediction a function
mode casts instead: products to the lower precision, with the cast of each weight kept until the forward pass ends;
norms, losses and the like to float32. Source: aten/src/ATen/autocast_mode.h (the lists of operations).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from muse_bench import scopes

LOWER = {
    *(
        "linear",
        "matmul",
        "__matmul__",
        "__rmatmul__",
        "mm",
        "bmm",
        "addmm",
        "baddbmm",
        "addbmm",
        "mv",
        "addmv",
        "einsum",
    ),
    *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "prelu"),
    *("scaled_dot_product_attention",),
}
FLOAT32 = {
    *("layer_norm", "group_norm", "nll_loss", "mse_loss", "l1_loss", "smooth_l1_loss", "kl_div"),
    *("binary_cross_entropy_with_logits", "cosine_similarity", "exp", "expm1", "log", "log2", "log10", "log1p", "pow"),
    *("__pow__", "rsqrt", "reciprocal", "softplus", "norm", "cdist", "dist", "erfinv", "acos", "asin", "cosh", "sinh"),
    *("tan", "renorm"),
}
FLOAT32_RESULT = {"softmax", "log_softmax", "sum", "cumsum", "cumprod", "prod"}
HALVES = (torch.float16, torch.bfloat16)


class MetaAutocast(TorchFunctionMode):
    """Casts the arguments of `meta` operations as autocast would on CUDA. Casts of weights are kept until `clear`."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._casts: dict[int, tuple[Tensor, Tensor]] = {}
        self._active = 0  # inside a listed operation its parts are not cast again
        self.in_forward = False
        self._recomputing = False

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if self._active or not (self.in_forward or self._recomputing):
            return func(*args, **kwargs)
        if name in LOWER:
            return self._inside(func, self._cast(args, self.dtype), self._cast(kwargs, self.dtype))
        if name in FLOAT32:
            return self._inside(func, self._cast(args, torch.float32), self._cast(kwargs, torch.float32))
        if func is functional.cross_entropy and args[0].dtype in HALVES:
            return self._cross_entropy(*args, **kwargs)
        if name in FLOAT32_RESULT and kwargs.get("dtype") is None and args[0].dtype in HALVES:
            return self._inside(func, args, {**kwargs, "dtype": torch.float32})
        return func(*args, **kwargs)

    def clear(self) -> None:
        """Forgets the casts of weights."""
        self._casts.clear()

    def follow_scope(self, name: str) -> None:
        """Runs again while a module does in backward: calling backward has taken every function mode away.

        A recomputation has an autocast of its own, which ends with it and forgets its casts.
        """
        if name and not self._recomputing and _in_backward():
            self._recomputing = True
            self.__enter__()  # type: ignore[no-untyped-call]
        elif not name and self._recomputing:
            self._recomputing = False
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            self.clear()

    def _cross_entropy(self, x: Tensor, target: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Its log-softmax asks for the input's own dtype, which autocast leaves alone; only the rest is in float32."""
        if args or kwargs.get("label_smoothing") or target.is_floating_point():
            return self._inside(functional.cross_entropy, self._cast((x, target), torch.float32) + args, kwargs)
        known = {name: value for name, value in kwargs.items() if name in ("weight", "ignore_index", "reduction")}
        log_probabilities = self._inside(functional.log_softmax, (x,), {"dim": 1, "dtype": x.dtype})
        return self._inside(functional.nll_loss, (log_probabilities.float(), target), known)

    def _inside(self, func: Any, args: Any, kwargs: Any) -> Any:
        self._active += 1
        try:
            return func(*args, **kwargs)
        finally:
            self._active -= 1

    def _cast(self, value: Any, dtype: torch.dtype) -> Any:
        if isinstance(value, Tensor):
            return self._cast_tensor(value, dtype)
        if isinstance(value, list | tuple):  # the last first, as the compiler of PyTorch's wrappers evaluates them
            return type(value)(reversed([self._cast(one, dtype) for one in reversed(value)]))
        if isinstance(value, dict):
            return {name: self._cast(one, dtype) for name, one in value.items()}
        return value

    def _cast_tensor(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        if not value.is_floating_point() or value.dtype in (dtype, torch.float64):
            return value
        if not (value.is_leaf and value.requires_grad and dtype == self.dtype and value.dtype == torch.float32):
            return value.to(dtype)
        if id(value) not in self._casts:
            self._casts[id(value)] = (value, value.to(dtype))
        return self._casts[id(value)][1]


def _in_backward() -> bool:
    return bool(torch._C._current_graph_task_id() != -1)


_installed: list[MetaAutocast] = []


@contextlib.contextmanager
def forward_autocast(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """The context of a forward pass and its loss; with dtype None it does nothing."""
    if dtype is None:
        yield
    elif device.type != "meta":
        with torch.autocast(device.type, dtype=dtype):
            yield
    else:
        (mode,) = _installed
        mode.in_forward = True
        try:
            yield
        finally:
            mode.in_forward = False
            mode.clear()


@contextlib.contextmanager
def meta_autocast(dtype: torch.dtype | None) -> Iterator[None]:
    """What a whole traced run happens in, so that recomputation in backward is autocast as its forward was."""
    if dtype is None:
        yield
        return
    mode = MetaAutocast(dtype)
    _installed.append(mode)
    try:
        with mode, scopes.listening(mode.follow_scope):
            yield
    finally:
        _installed.remove(mode)
