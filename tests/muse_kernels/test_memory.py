"""The memory that docstrings promise, watched on meta tensors of real sizes: peaks, and tensors never built."""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, prod

import pytest
import torch
from torch import Tensor

from muse_kernels import (
    diagonal_scan,
    int8_linear,
    linear_cross_entropy,
    quantise_int8,
    rms_norm,
    tensor_train_cross_entropy,
    tt_embedding,
    tt_linear,
    tt_shape,
)

TOKENS, VOCAB, WIDTH, RANK = 2048, 20_011, 600, 6
(V1, V2), (D1, D2) = tt_shape(VOCAB), tt_shape(WIDTH)
CORES = ((V1, RANK, D1), (V2, RANK, D2), (RANK,))
X = (TOKENS, WIDTH)


@dataclass(frozen=True)
class Case:
    """A call, and its promised scratch in bytes; e is the size of an element, w = 4 that of a sum."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]
    shapes: tuple[tuple[int, ...], ...]
    forward_bytes: Callable[[int], int]
    backward_bytes: Callable[[int], int]


def ids() -> Tensor:
    return torch.empty(TOKENS, dtype=torch.int64, device="meta")


def chunk(item_bytes: int, e: int, multiple: int = 1) -> int:
    """ceil(max(bytes of x, 1 MiB) / item_bytes), rounded up to the multiple."""
    items = ceil(max(TOKENS * WIDTH * e, 2**20) / item_bytes)
    return ceil(items / multiple) * multiple


def wide_copy(e: int) -> int:
    """Bytes that an element of 16 bits takes once more, in float32."""
    return 4 if e == 2 else 0


def four_cores(e: int) -> int:
    return 4 * 4 * sum(prod(shape) for shape in CORES)


def embedding_bytes(e: int) -> int:
    item = e * (D1 * D2 + RANK * (D1 + D2))
    return chunk(item, e) * item + four_cores(e)


def head_chunk(e: int) -> int:
    return chunk(e * (V1 * V2 + V1 * RANK * D2), e)


def head_forward(e: int) -> int:
    return head_chunk(e) * e * (V1 * V2 + V1 * RANK * D2 + D1 * D2) + four_cores(e)


def head_backward(e: int) -> int:
    return head_forward(e) + head_chunk(e) * e * (V1 * RANK * D2 + 2 * D1 * D2)


def dense_forward(e: int) -> int:
    return TOKENS * chunk(TOKENS * e, e, multiple=64) * (e + wide_copy(e))


def norm_bytes(buffers: int) -> Callable[[int], int]:
    return lambda e: buffers * WIDTH * 4 * chunk(buffers * WIDTH * 4, e)


WEIGHT_INT8 = torch.empty(4 * WIDTH, WIDTH, dtype=torch.int8, device="meta")
SCALE = torch.empty(4 * WIDTH, device="meta")
SEQUENCE = (2, TOKENS, 32)

CASES = {
    "tt_embedding": Case(
        lambda *cores: tt_embedding(ids(), *cores, vocab_size=VOCAB, d_model=WIDTH),
        CORES,
        embedding_bytes,
        lambda e: embedding_bytes(e) + chunk(e * (D1 * D2 + RANK * (D1 + D2)), e) * RANK * D1 * 4,
    ),
    "tt_linear": Case(
        lambda x, *cores: tt_linear(x[:256], *cores, vocab_size=VOCAB), (X, *CORES), head_forward, head_backward
    ),
    "tensor_train_cross_entropy": Case(
        lambda *inputs: tensor_train_cross_entropy(*inputs, ids(), vocab_size=VOCAB),
        (X, *CORES),
        lambda e: head_forward(e) + head_chunk(e) * VOCAB * wide_copy(e),
        lambda e: head_backward(e) + head_chunk(e) * VOCAB * wide_copy(e),
    ),
    "linear_cross_entropy": Case(
        lambda x, weight, bias: linear_cross_entropy(x, weight, ids(), bias=bias),
        (X, (VOCAB, WIDTH), (VOCAB,)),
        dense_forward,
        lambda e: dense_forward(e) + TOKENS * WIDTH * wide_copy(e),
    ),
    "running_sum": Case(diagonal_scan, (SEQUENCE,), lambda e: 4 * prod(SEQUENCE), lambda e: 4 * prod(SEQUENCE)),
    "diagonal_scan": Case(
        diagonal_scan, (SEQUENCE, SEQUENCE), lambda e: 8 * prod(SEQUENCE), lambda e: 8 * prod(SEQUENCE)
    ),
    "rms_norm": Case(rms_norm, (X, (WIDTH,)), norm_bytes(1), norm_bytes(3)),
    "rms_norm_residual": Case(
        lambda x, weight, residual: rms_norm(x, weight, residual=residual),
        (X, (WIDTH,), X),
        norm_bytes(1),
        norm_bytes(3),
    ),
    "int8_linear": Case(
        lambda x: int8_linear(x, WEIGHT_INT8, SCALE),
        (X,),
        lambda e: WIDTH * e * chunk(WIDTH * e, e),
        lambda e: 4 * WIDTH * e * chunk(4 * WIDTH * e, e),
    ),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)

# What docstrings leave out: vectors of one number a token, row or channel. Eight of them, 8 bytes a number.
VECTORS_BYTES = 8 * 8 * TOKENS


def tensor_bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@every_case
@every_dtype
def test_scratch_is_what_the_docstring_says(case: Case, dtype: torch.dtype, memory_watch) -> None:
    inputs = tuple(torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in case.shapes)
    with memory_watch:
        result = case.call(*inputs)
        outputs = result if isinstance(result, tuple) else (result,)
        forward_peak, kept = memory_watch.peak_bytes, memory_watch.live_bytes
        cotangents = [torch.empty_like(output) for output in outputs]
        before = memory_watch.peak_bytes = memory_watch.live_bytes
        gradients = torch.autograd.grad(outputs, inputs, cotangents)
    backward_peak = memory_watch.peak_bytes - before
    assert kept <= tensor_bytes(outputs) + VECTORS_BYTES
    assert forward_peak <= tensor_bytes(outputs) + case.forward_bytes(dtype.itemsize) + VECTORS_BYTES
    assert backward_peak <= tensor_bytes(gradients) + case.backward_bytes(dtype.itemsize) + VECTORS_BYTES


@pytest.mark.parametrize(
    ("name", "forbidden_elements"),
    [
        ("tt_embedding", VOCAB * WIDTH),
        ("tt_linear", VOCAB * WIDTH),
        ("tensor_train_cross_entropy", VOCAB * WIDTH),  # TOKENS * VOCAB is larger still
        ("linear_cross_entropy", TOKENS * VOCAB),
    ],
)
@every_dtype
def test_neither_table_nor_all_logits_are_built(
    name: str, forbidden_elements: int, dtype: torch.dtype, memory_watch
) -> None:
    inputs = [torch.empty(shape, dtype=dtype, device="meta", requires_grad=True) for shape in CASES[name].shapes]
    with memory_watch:
        CASES[name].call(*inputs).sum().backward()
    assert memory_watch.largest_elements > TOKENS * WIDTH // 2  # it saw the operation's own tensors
    assert memory_watch.largest_elements < forbidden_elements


def test_the_watch_sees_a_table_that_is_built(memory_watch) -> None:
    cores = [torch.empty(shape, device="meta") for shape in CORES]
    with memory_watch:
        tt_linear(torch.empty(2, WIDTH, device="meta"), *cores, vocab_size=VOCAB, implementation="reference")
    assert memory_watch.largest_elements >= VOCAB * WIDTH
    assert memory_watch.live_bytes == 0


def test_an_expanded_gradient_is_copied_by_the_chunk(memory_watch) -> None:
    x, *cores = (torch.empty(shape, device="meta", requires_grad=True) for shape in (X, *CORES))
    logits = tt_linear(x, *cores, vocab_size=VOCAB)
    with memory_watch:
        logits.sum().backward()
    assert memory_watch.largest_elements < logits.numel() // 8


def test_the_copy_of_an_expanded_int8_gradient_is_seen(memory_watch) -> None:
    y = int8_linear(torch.empty(X, device="meta", requires_grad=True), WEIGHT_INT8, SCALE)
    with memory_watch:
        y.sum().backward()
    assert memory_watch.largest_elements == y.numel()  # a product would make this copy out of a tracer's sight


def test_a_frozen_weight_takes_no_gradient_memory(memory_watch) -> None:
    x = torch.empty(X, device="meta", requires_grad=True)
    loss = linear_cross_entropy(x, torch.empty(VOCAB, WIDTH, device="meta"), ids())
    with memory_watch:
        loss.backward()
    assert memory_watch.largest_elements < VOCAB * WIDTH // 4


@every_dtype
def test_quantising_takes_a_block_of_rows(dtype: torch.dtype, memory_watch) -> None:
    weight = torch.empty(VOCAB, WIDTH, dtype=dtype, device="meta")
    with memory_watch:
        outputs = quantise_int8(weight)
    assert memory_watch.peak_bytes <= tensor_bytes(outputs) + VOCAB * WIDTH + 4 * WIDTH + 8 * VOCAB + VECTORS_BYTES
