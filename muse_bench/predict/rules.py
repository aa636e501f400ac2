"""What CUDA does that `meta` does not: one table of rules, each with the observation that established it.

Three kinds: operations that take another path on CUDA (`COMPOSITES`), memory that a kernel takes for itself while
it runs (`TEMPORARIES`), and products that keep a cuBLAS workspace (`PRODUCTS`). Operations go by their ATen name
without the overload.
"""

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from muse_bench.predict.attention import attention
from muse_bench.predict.gpus import RESIDENT_THREADS, Gpu
from muse_bench.predict.reduction import reduction_scratch

aten = torch.ops.aten
OPTIMIZER_DEVICE_LISTS = ("_get_foreach_kernels_supported_devices", "_get_fused_kernels_supported_devices")


def dropout(x: Tensor, p: float, train: bool) -> Tensor:
    """On CUDA dropout is one kernel that keeps a bool mask; elsewhere it multiplies by noise of the input's dtype."""
    if not train or p == 0 or x.numel() == 0:
        return x
    return aten.native_dropout(x, p, train)[0]  # type: ignore[no-any-return]


def log_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """On CUDA a float16 input asked for in float32 is converted inside the kernel, with no float32 copy of it."""
    if dtype == torch.float32 and x.dtype == torch.float16:
        return aten._log_softmax(x, dim, True)  # type: ignore[no-any-return]
    return aten._log_softmax(x if dtype is None else x.to(dtype), dim, False)  # type: ignore[no-any-return]


def softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """As log_softmax."""
    if dtype == torch.float32 and x.dtype == torch.float16:
        return aten._softmax(x, dim, True)  # type: ignore[no-any-return]
    return aten._softmax(x if dtype is None else x.to(dtype), dim, False)  # type: ignore[no-any-return]


@contextlib.contextmanager
def cuda_paths(capability: tuple[int, int]) -> Iterator[None]:
    """Inside, operations on `meta` tensors take the paths that they take on CUDA."""
    library = torch.library.Library("aten", "IMPL")
    composites: dict[str, Callable[..., Any]] = {
        "scaled_dot_product_attention": lambda *args, **kwargs: attention(*args, **kwargs, capability=capability),
        "dropout": dropout,
        "log_softmax.int": log_softmax,
        "softmax.int": softmax,
    }
    for name, function in composites.items():
        library.impl(name, function, "AutogradMeta")
    try:
        with cuda_optimizers():
            yield
    finally:
        library._destroy()


@contextlib.contextmanager
def cuda_optimizers() -> Iterator[None]:
    """Inside, optimizers choose foreach and fused kernels for `meta` as they do for CUDA."""
    optimizers = importlib.import_module("torch.optim.optimizer")
    foreach, fused = (getattr(optimizers, name)() for name in OPTIMIZER_DEVICE_LISTS)
    with (
        mock.patch.object(optimizers, OPTIMIZER_DEVICE_LISTS[0], return_value=[*foreach, "meta"]),
        mock.patch.object(optimizers, OPTIMIZER_DEVICE_LISTS[1], return_value=[*fused, "meta"]),
    ):
        yield


# Products that run on a cuBLAS handle; the first on each thread makes PyTorch take a workspace for that handle.
CUDNN_ATTENTION = {"_scaled_dot_product_cudnn_attention", "_scaled_dot_product_cudnn_attention_backward"}
PRODUCTS = {"mm", "addmm", "addmm_", "_addmm_activation", "bmm", "baddbmm", "baddbmm_"}


def runs_on_cublaslt(name: str, args: tuple[Any, ...]) -> bool:
    """Whether a product adds a bias as cuBLASLt's epilogue, which has a workspace of its own.

    Source: addmm_out_cuda_impl in aten/src/ATen/native/cuda/Blas.cpp.
    """
    return (
        name in ("addmm", "_addmm_activation")
        and args[0].dim() == 1
        and args[0].is_contiguous()
        and min(*args[1].shape, *args[2].shape) > 1
    )


Temporaries = Callable[[tuple[Any, ...], dict[str, Any], Gpu], list[int]]


def _embedding_backward(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    """A gradient that is not contiguous, such as a sum's, is copied; above 3,072 ids the kernel sorts them, and sums
    the gradient's rows by segments of ten equal ids in float32.

    Seen on an H200 with 4,096 ids of width 768. Source: embedding_dense_backward_cuda in
    aten/src/ATen/native/cuda/Embedding.cu, embedding_backward_cuda_kernel in EmbeddingBackwardKernel.cu.
    """
    grad, indices, rows = args[0], args[1], args[2]
    copies = [] if grad.is_contiguous() else [grad.numel() * grad.element_size()]
    count = indices.numel()
    if count <= 3_072:
        return copies
    segments = count // 10 + min(count, rows)
    return [*copies, segments * grad.shape[-1] * 4, segments * 8, *[count * 8] * 5]


def _blas_copy(matrix: Tensor) -> int:
    """Bytes of the copy that cuBLAS needs of a matrix whose strides it cannot read; 0 when it can."""
    rows, columns = matrix.shape[-2:]
    row, column = matrix.stride()[-2:]
    readable = (column == 1 and row >= max(1, columns)) or (row == 1 and column >= max(1, rows))
    if readable or matrix.numel() == 0:
        return 0
    return matrix.numel() * matrix.element_size()


def _product(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    """Operands whose strides cuBLAS cannot read, such as an expanded gradient, are copied first.

    Source: prepare_matrix_for_cublas in aten/src/ATen/native/cuda/Blas.cpp.
    """
    matrices = [arg for arg in args if isinstance(arg, Tensor) and arg.dim() >= 2]
    return [size for size in map(_blas_copy, matrices[-2:]) if size]


def _reduce(args: tuple[Any, ...], gpu: Gpu, dims: Any, accumulator_bytes: int) -> list[int]:
    """Partial results, where several thread blocks share an output."""
    x: Tensor = args[0]
    if x.numel() == 0 or x.dim() == 0:
        return []
    wanted = range(x.dim()) if dims is None or dims == [] else dims if isinstance(dims, list | tuple) else [dims]
    reduced = {dim % x.dim() for dim in wanted}
    by_stride = sorted((x.stride(dim), dim) for dim in range(x.dim()) if x.shape[dim] > 1)
    outputs = math.prod(x.shape[dim] for dim in range(x.dim()) if dim not in reduced)
    return list(
        reduction_scratch(
            outputs,
            x.numel() // outputs,
            reduces_fastest=not by_stride or by_stride[0][1] in reduced,
            accumulator_bytes=accumulator_bytes,
            sm_count=gpu.sm_count,
            threads_per_sm=RESIDENT_THREADS[gpu.compute_capability],
        )
    )


def _sum(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    """Sums and means accumulate in float32 at least; integers and booleans are first copied to int64."""
    x: Tensor = args[0]
    dims = args[1] if len(args) > 1 else kwargs.get("dim")
    promoted = [] if x.dtype.is_floating_point or x.dtype == torch.int64 else [x.numel() * 8]
    return [*promoted, *_reduce(args, gpu, dims, max(4, x.element_size()))]


def _norm(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    dims = args[2] if len(args) > 2 else kwargs.get("dim")
    return _reduce(args, gpu, dims, max(4, args[0].element_size()))


def _cudnn_attention_backward(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    """One workspace: the query's gradient in float32, a float32 a row, and for grouped queries the gradients of key
    and value for every head.

    Established on an H200 for head size 64, with 8 and 12 heads, alone and in groups of 2, 4 and 8 (cuDNN 9.15).
    """
    query, key = args[1], args[2]
    batch, heads, seq, _ = query.shape
    workspace = query.numel() * 4 + batch * heads * seq * 4 + 256
    if key.shape[1] != heads:
        workspace += 2 * key.numel() // key.shape[1] * heads * key.element_size()
    return [workspace]


def _efficient_attention_backward(args: tuple[Any, ...], kwargs: dict[str, Any], gpu: Gpu) -> list[int]:
    """In float32: the product of output and its gradient, its row sums twice, and an accumulator of the query's
    gradient with a lock for every 64 queries; a copy of a gradient that is not laid out as (batch, seq, heads, dim).

    Established on an H200 for head sizes 64 and 128. Source: attention_backward.cu.
    """
    grad, query = args[0], args[1]
    batch, heads, seq, width = query.shape
    tiles = batch * heads * -(-seq // 64)
    sizes = [tiles * (64 * width * 4 + 16)]
    if query.dtype == torch.float32:
        sizes += [query.numel() * 4, batch * heads * seq * 4, batch * heads * seq * 4]
    else:
        sizes += [batch * heads * seq * 4]
    if not grad.transpose(1, 2).is_contiguous():
        sizes.append(grad.numel() * grad.element_size())
    return sizes


TEMPORARIES: dict[str, Temporaries] = {
    "embedding_dense_backward": _embedding_backward,
    "mm": _product,
    "addmm": _product,
    "addmm_": _product,
    "bmm": _product,
    "baddbmm": _product,
    "baddbmm_": _product,
    "sum": _sum,
    "mean": _sum,
    "linalg_vector_norm": _norm,
    "_scaled_dot_product_cudnn_attention_backward": _cudnn_attention_backward,
    "_scaled_dot_product_efficient_attention_backward": _efficient_attention_backward,
}


def _grouped_product(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """Products of groups of rows, for other dtypes than bfloat16 too, which alone is known on `meta`."""
    dtype = args[0].dtype
    halves = [torch.empty_strided(t.shape, t.stride(), dtype=torch.bfloat16, device="meta") for t in args[:2]]
    out: Tensor = func(*halves, *args[2:], **kwargs)
    return torch.empty_strided(out.shape, out.stride(), dtype=dtype, device="meta")


# Operations whose result `meta` does not know, or not always.
RESULTS: dict[str, Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]] = {"_grouped_mm": _grouped_product}

# Outputs that `meta` returns and CUDA does not allocate, by position: the seeds of attention without dropout.
ABSENT_OUTPUTS: dict[str, tuple[int, ...]] = {
    "_scaled_dot_product_efficient_attention": (2, 3),
}

# Operations whose result or its shape depends on what a tensor holds.
LOOKS_AT_CONTENTS = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
