"""Values for the few tensors whose content decides what a model does next: positions, ids, masks, counters.

A `meta` tensor has a shape and no content. Models still ask small integer questions, such as "is any token padding?".
So integer and boolean tensors made from known ones carry their content on the CPU beside them. Floating-point tensors
do too while they are made of constants only: what depends on activations cannot be known without running the model.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from muse_bench.errors import UntraceableModel

LARGEST_INTEGERS = 1 << 24
LARGEST_FLOATS = 1 << 16
ATTRIBUTE = "_muse_bench_value"
RANDOM = {"bernoulli", "bernoulli_", "rand", "rand_like", "randn", "randn_like", "multinomial", "native_dropout"}
aten = torch.ops.aten


class KeepIndices(TorchFunctionMode):
    """Makes the lists in x[:, [-1, 0]] tensors whose content is known.

    PyTorch itself makes them tensors of x's device, below anything that can watch.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__getitem__ and args[0].device.type == "meta":
            index = args[1]
            parts = index if isinstance(index, tuple) else (index,)
            kept = tuple(_to_meta(torch.tensor(part)) if isinstance(part, list) else part for part in parts)
            args = (args[0], kept if isinstance(index, tuple) else kept[0])
        return func(*args, **(kwargs or {}))


def follow(func: Any, args: Any, kwargs: dict[str, Any], out: Any) -> None:
    """Gives the results of an operation their content, when all that went in has one and they are small."""
    outs = out if isinstance(out, list | tuple) else (out,)
    if not all(isinstance(one, Tensor) and one.device.type == "meta" and _is_small(one) for one in outs):
        return
    if func.overloadpacket.__name__ in RANDOM:
        return
    try:
        known = _on_cpu(args), _on_cpu(kwargs)
    except LookupError:
        for one in outs:
            if any(tensor is one for tensor in _tensors(args)):  # written by something unknown
                _forget(one)
        return
    in_place = bool(args) and args[0] is out
    if in_place and _content(args[0]) is None:
        return
    try:
        result = func(*known[0], **known[1])
    except NotImplementedError:  # CUDA has kernels that the CPU has not, such as histc of integers
        for one in outs:
            _forget(one)
        return
    for one, content in zip(outs, result if isinstance(out, list | tuple) else (result,), strict=True):
        setattr(one, ATTRIBUTE, content)


def answer(func: Any, args: Any, kwargs: dict[str, Any], name: str) -> Any:
    """The result of an operation that looks at contents, computed on the CPU; its tensors come back as `meta`.

    A single floating-point number that is not known, such as a norm or a loss, is taken to be 1: memory does not
    depend on it.
    Raises: UntraceableModel that names the operation when a content that can matter is not known.
    """
    try:
        result = func(*_on_cpu(args), **_on_cpu(kwargs))
    except LookupError:
        if name == "_local_scalar_dense" and args[0].is_floating_point():
            return 1.0
        raise UntraceableModel(f"{name} asks what a tensor holds, which only a run on a GPU can tell") from None
    return torch.utils._pytree.tree_map_only(Tensor, _to_meta, result)


def _to_meta(value: Tensor) -> Tensor:
    made = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    setattr(made, ATTRIBUTE, value)
    return made


def _is_small(tensor: Tensor) -> bool:
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        return tensor.numel() <= LARGEST_FLOATS
    return tensor.numel() <= LARGEST_INTEGERS


def _content(tensor: Tensor) -> Tensor | None:
    if tensor.device.type != "meta":
        return tensor if _is_small(tensor) else None
    value: Tensor | None = getattr(tensor, ATTRIBUTE, None)
    return value


def _forget(tensor: Tensor) -> None:
    if hasattr(tensor, ATTRIBUTE):
        delattr(tensor, ATTRIBUTE)


def _on_cpu(value: Any) -> Any:
    """The arguments with contents in place of tensors. Raises: LookupError when one is not known."""
    if isinstance(value, Tensor):
        content = _content(value)
        if content is None:
            raise LookupError
        return content
    if isinstance(value, list | tuple):
        return type(value)(_on_cpu(one) for one in value)
    if isinstance(value, dict):
        return {name: _on_cpu(one) for name, one in value.items()}
    return torch.device("cpu") if isinstance(value, torch.device) and value.type == "meta" else value


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in values if isinstance(value, Tensor))
