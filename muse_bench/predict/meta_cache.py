"""Remembers what operations return on `meta`: most of a step repeats what has run before with the same shapes.

PyTorch computes the shape of a result anew at each call, often in Python; a hit makes it with one empty_strided.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Kind(NamedTuple):
    """What a schema says: whether all results are new tensors, or which argument is written and returned."""

    functional: bool
    returns_first: bool
    returns_out: bool


_Spec = tuple[torch.Size, tuple[int, ...], torch.dtype]


class MetaCache:
    """Runs operations on `meta` tensors, from memory where it can."""

    def __init__(self) -> None:
        self._kinds: dict[Any, _Kind] = {}
        self._results: dict[Hashable, tuple[bool, tuple[_Spec, ...]]] = {}

    def run(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
        """What func(*args, **kwargs) returns; the operation itself runs when its arguments are new, or not all meta."""
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = _kind(func)
        if not any(kind):
            return func(*args, **kwargs)
        key = _key(func, args, kwargs)
        if key is None:
            return func(*args, **kwargs)
        known = self._results.get(key)
        if known is not None:
            return _recall(kind, known, args, kwargs)
        out = func(*args, **kwargs)
        self._remember(key, kind, out, (*args, *kwargs.values()))
        return out

    def _remember(self, key: Hashable, kind: _Kind, out: Any, arguments: tuple[Any, ...]) -> None:
        outs = out if isinstance(out, tuple) else (out,)
        # Some operations return a view though their schema does not say so, such as _unsafe_view.
        taken = (
            {one.untyped_storage()._cdata for one in arguments if isinstance(one, Tensor)} if kind.functional else ()
        )
        if all(
            isinstance(one, Tensor)
            and one.device.type == "meta"
            and one.layout == torch.strided
            and one.untyped_storage()._cdata not in taken
            for one in outs
        ):
            specs = tuple((one.shape, one.stride(), one.dtype) for one in outs) if kind.functional else ()
            self._results[key] = (isinstance(out, tuple), specs)


def _recall(kind: _Kind, known: tuple[bool, tuple[_Spec, ...]], args: Any, kwargs: dict[str, Any]) -> Any:
    if kind.returns_first:
        return args[0]
    if kind.returns_out:
        return kwargs["out"]
    several, specs = known
    made = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in specs]
    return tuple(made) if several else made[0]


def _kind(func: Any) -> _Kind:
    schema = func._schema
    written = [argument for argument in schema.arguments if argument.alias_info is not None]
    all_tensors = bool(schema.returns) and all(str(one.type) == "Tensor" for one in schema.returns)
    if not all_tensors:
        return _Kind(False, False, False)
    if not written:
        return _Kind(True, False, False)
    single = len(written) == 1 and len(schema.returns) == 1 and written[0].alias_info.is_write
    return _Kind(False, single and written[0] is schema.arguments[0], single and written[0].name == "out")


def _key(func: Any, args: Any, kwargs: dict[str, Any]) -> Hashable | None:
    """What the result's shape depends on; None when an argument is neither a meta tensor nor a plain value."""
    parts: list[Any] = [func]
    for name, value in (*enumerate(args), *kwargs.items()):
        if isinstance(value, Tensor):
            if value.device.type != "meta":
                return None
            parts.append((name, value.shape, value.stride(), value.dtype))
        elif isinstance(value, list | tuple):
            if any(isinstance(one, Tensor) for one in value):
                return None
            parts.append((name, tuple(value)))
        else:
            parts.append((name, type(value), value))
    return tuple(parts)
