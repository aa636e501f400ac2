"""What holds for every operation: accuracy, gradients, what is saved, meta tensors, checkpoints, names."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

import muse_kernels as kernels

TOKENS, VOCAB, WIDTH, RANK = 7, 11, 10, 2  # 11 and 10 are both cropped from 4 x 3 products


@dataclass(frozen=True)
class Operation:
    """A call of one operation on small inputs, and what it promises to save besides those inputs."""

    call: Callable[..., Tensor | tuple[Tensor, ...]]  # (implementation, *inputs)
    shapes: tuple[tuple[int, ...], ...]
    saved_inputs: Sequence[int]
    saved_bytes: Callable[[torch.dtype], int] = lambda dtype: 0
    kernel: bool = False  # whether it has a Triton kernel
    eager: bool = True  # whether its eager implementation is another than the definition


def wide_bytes(dtype: torch.dtype) -> int:
    """Bytes of one statistic a token, in the dtype of accumulation."""
    return TOKENS * (8 if dtype == torch.float64 else 4)


def index(device: torch.device, high: int) -> Tensor:
    ids = torch.tensor([0, 6, 5, high - 1, 2, 5, 1])
    return ids.to(device)


def embed(implementation: str, core1: Tensor, core2: Tensor, theta: Tensor) -> Tensor:
    ids = index(core1.device, VOCAB)
    return kernels.tt_embedding(
        ids, core1, core2, theta, vocab_size=VOCAB, d_model=WIDTH, implementation=implementation
    )


def tt_logits(implementation: str, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor) -> Tensor:
    return kernels.tt_linear(x, core1, core2, theta, vocab_size=VOCAB, implementation=implementation)


def targets(x: Tensor) -> Tensor:
    return index(x.device, VOCAB).masked_fill(torch.arange(TOKENS, device=x.device) == 4, -100)


def dense_loss(implementation: str, x: Tensor, weight: Tensor, bias: Tensor | None = None, **options) -> Tensor:
    return kernels.linear_cross_entropy(
        x, weight, targets(x), bias=bias, z_loss=0.1, implementation=implementation, **options
    )


def tt_loss(implementation: str, x: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, **options) -> Tensor:
    return kernels.tensor_train_cross_entropy(
        x, core1, core2, theta, targets(x), vocab_size=VOCAB, implementation=implementation, z_loss=0.1, **options
    )


def scan(implementation: str, x: Tensor, decay: Tensor | None = None) -> Tensor:
    decay = None if decay is None else decay.sigmoid()
    return kernels.diagonal_scan(x, decay, implementation=implementation)


def gate(
    implementation: str,
    u: Tensor,
    v: Tensor,
    scores: Tensor,
    decay: Tensor | None = None,
    initial: Tensor | None = None,
):
    decay = None if decay is None else decay.sigmoid()
    return kernels.gated_scan(u, v, scores, decay, initial=initial, return_state=True, implementation=implementation)


def convolve(implementation: str, x: Tensor, weight: Tensor, before: Tensor | None = None, add: Tensor | None = None):
    return kernels.causal_convolution(x, weight, before, add=add, implementation=implementation)


def mix(
    implementation: str, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, state: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    decay = -torch.nn.functional.softplus(decay)
    if state is None:
        return kernels.semiseparable_mix(q, k, v, decay, implementation=implementation)
    state = state if state.dtype == torch.float64 else state.float()
    o, final = kernels.semiseparable_mix(
        q, k, v, decay, initial_state=state, return_final_state=True, implementation=implementation
    )
    return o, final.to(v.dtype)


def norm(implementation: str, x: Tensor, weight: Tensor, residual: Tensor | None = None):
    return kernels.rms_norm(x, weight, residual=residual, implementation=implementation)


def gated_norm(implementation: str, *inputs: Tensor) -> Tensor:
    return kernels.gated_rms_norm(*inputs, implementation=implementation)


def discretised(implementation: str, *inputs: Tensor) -> Tensor:
    log_decay, scaled = kernels.discretise(*inputs, implementation=implementation)
    return scaled + log_decay.unsqueeze(-1).to(scaled.dtype)  # one output that depends on every input


def ffn(activation: str, implementation: str, x: Tensor, *parameters: Tensor) -> Tensor:
    weights, biases = parameters[::2], parameters[1::2]
    return kernels.low_rank_ffn(x, weights, biases, activation=activation, implementation=implementation)


def int8(implementation: str, x: Tensor, bias: Tensor | None = None) -> Tensor:
    weight = (torch.arange(VOCAB * WIDTH, device=x.device).view(VOCAB, WIDTH) * 37 % 255 - 127).to(torch.int8)
    scale = torch.linspace(0.001, 0.02, VOCAB, dtype=torch.float64, device=x.device)
    scale = scale if x.dtype == torch.float64 else scale.float()
    return kernels.int8_linear(x, weight, scale, bias=bias, implementation=implementation)


X, CORES = (TOKENS, WIDTH), ((4, RANK, 4), (3, RANK, 3), (RANK,))
NARROW = (TOKENS, 4)  # the vocabulary takes two blocks, of six columns and five; target 6 opens the second
SEQUENCE = (1, 3, 2)
MIXED = ((1, 7, 1, 3), (1, 7, 1, 3), (1, 7, 1, 2), (1, 7, 1))
OPERATIONS = {
    "tt_embedding": Operation(embed, CORES, (0, 1, 2), lambda dtype: TOKENS * 8, kernel=True),
    "tt_linear": Operation(tt_logits, (X, *CORES), (0, 1, 2, 3), kernel=True),
    "running_sum": Operation(scan, (SEQUENCE,), (), kernel=True),
    "diagonal_scan": Operation(
        scan, (SEQUENCE, SEQUENCE), (), lambda dtype: 3 * prod(SEQUENCE) * dtype.itemsize, kernel=True
    ),  # sigmoid saves its output, which is the decay; the scan saves decay and h
    "diagonal_scan_one_decay": Operation(
        scan, (SEQUENCE, (2,)), (), lambda dtype: (2 + prod(SEQUENCE)) * dtype.itemsize, kernel=True
    ),
    "gated_scan": Operation(gate, 3 * (SEQUENCE,), (0, 1, 2), kernel=True),
    "gated_scan_state": Operation(
        gate, (*3 * (SEQUENCE,), (2,), (1, 2)), (0, 1, 2, 4), lambda dtype: 2 * dtype.itemsize, kernel=True
    ),
    "causal_convolution": Operation(convolve, ((1, 5, 3), (3, 3)), (0, 1), kernel=True),
    "causal_convolution_add": Operation(convolve, ((1, 5, 3), (3, 3), (1, 2, 3), (1, 5, 3)), (0, 1, 2), kernel=True),
    "semiseparable_mix": Operation(
        mix, MIXED, (0, 1, 2, 3), lambda dtype: prod(MIXED[-1]) * dtype.itemsize, kernel=True
    ),  # softplus saves its input; its negative is the decay
    "semiseparable_mix_state": Operation(
        mix,
        (*MIXED, (1, 1, 3, 2)),
        (0, 1, 2, 3),
        lambda dtype: prod(MIXED[-1]) * dtype.itemsize + 3 * 2 * 4,
        kernel=True,
    ),
    "linear_cross_entropy": Operation(
        dense_loss, (NARROW, (VOCAB, 4)), (0, 1), lambda d: TOKENS * 8 + 2 * wide_bytes(d) + 4, kernel=True
    ),
    "linear_cross_entropy_bias": Operation(
        partial(dense_loss, reduction="sum"),
        (NARROW, (VOCAB, 4), (VOCAB,)),
        (0, 1, 2),
        lambda d: TOKENS * 8 + 2 * wide_bytes(d) + 4,
        kernel=True,
    ),
    "tensor_train_cross_entropy": Operation(
        tt_loss, (X, *CORES), (0, 1, 2, 3), lambda d: TOKENS * 8 + 2 * wide_bytes(d) + 4, kernel=True
    ),
    "rms_norm": Operation(norm, (X, (WIDTH,)), (0, 1), wide_bytes, kernel=True),
    "rms_norm_residual": Operation(
        norm, (X, (WIDTH,), X), (1,), lambda d: wide_bytes(d) + TOKENS * WIDTH * d.itemsize, kernel=True
    ),
    "discretise": Operation(discretised, ((1, 7, 2, 5), (1, 7, 2), (2,), (2,)), range(4), kernel=True, eager=False),
    "gated_rms_norm": Operation(
        gated_norm, ((1, 7, 2, 5), (1, 7, 2, 5), (2,), (1, 7, 10), (10,)), range(5), kernel=True, eager=False
    ),
    "low_rank_ffn": Operation(
        partial(ffn, "relu"),
        (X, (3, WIDTH), (3,), (WIDTH, 3), (WIDTH,)),
        range(5),
        lambda d: TOKENS * 3 * d.itemsize,
        kernel=True,
    ),
    "low_rank_ffn_four": Operation(
        partial(ffn, "gelu"),
        (X, (3, WIDTH), (3,), (17, 3), (17,), (3, 17), (3,), (WIDTH, 3), (WIDTH,)),
        range(9),
        lambda d: 2 * TOKENS * 3 * d.itemsize,
        kernel=True,
    ),
    "int8_linear": Operation(
        int8, (X, (VOCAB,)), (), lambda d: VOCAB * WIDTH + VOCAB * (8 if d == torch.float64 else 4), kernel=True
    ),
}
DTYPES = [torch.float32, torch.bfloat16, torch.float16]

pytestmark = pytest.mark.usefixtures("small_chunks")
every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS.keys())
every_lean = pytest.mark.parametrize(
    ("operation", "lean"),
    [
        pytest.param(operation, lean, id=f"{name}-{lean}")
        for name, operation in OPERATIONS.items()
        for lean in (*(["eager"] if operation.eager else []), *(["triton"] if operation.kernel else []))
    ],
)


def make_inputs(operation: Operation, dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    return [torch.randn(shape).to(device, dtype).requires_grad_() for shape in operation.shapes]


def first_output(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result[0] if isinstance(result, tuple) else result


@every_operation
@pytest.mark.parametrize("implementation", ["reference", "eager"])
def test_gradcheck(operation: Operation, implementation: str) -> None:
    assert torch.autograd.gradcheck(partial(operation.call, implementation), make_inputs(operation, torch.float64))


@every_lean
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy(
    operation: Operation, lean: str, dtype: torch.dtype, device: str, assert_accurate: Callable[..., None]
) -> None:
    assert_accurate(operation.call, *make_inputs(operation, dtype, device), implementation=lean)


@every_lean
def test_non_contiguous_inputs(
    operation: Operation, lean: str, device: str, assert_accurate: Callable[..., None]
) -> None:
    inputs = make_inputs(operation, torch.float32, device)
    inputs = [tensor.repeat_interleave(2, dim=-1)[..., ::2] for tensor in inputs]
    assert not any(tensor.is_contiguous() for tensor in inputs)
    assert_accurate(operation.call, *inputs, implementation=lean)


@every_lean
def test_expanded_gradient(operation: Operation, lean: str, device: str) -> None:
    def gradients(implementation: str) -> tuple[Tensor, ...]:
        output = first_output(operation.call(implementation, *inputs))
        return torch.autograd.grad(output.sum(), inputs, allow_unused=True)  # sum() sends back a stride-0 gradient

    inputs = make_inputs(operation, torch.float32, device)
    for ours, theirs in zip(gradients(lean), gradients("reference"), strict=True):
        torch.testing.assert_close(ours, theirs)


@every_lean
@pytest.mark.parametrize("frozen", [0, -1])
def test_a_frozen_input_gets_no_gradient(operation: Operation, lean: str, device: str, frozen: int) -> None:
    inputs = make_inputs(operation, torch.float32, device)
    inputs[frozen].requires_grad_(False)
    trained = [tensor for tensor in inputs if tensor.requires_grad]
    if trained:
        ours, theirs = (first_output(operation.call(name, *inputs)).sum() for name in (lean, "reference"))
        for got, expected in zip(torch.autograd.grad(ours, trained), torch.autograd.grad(theirs, trained), strict=True):
            torch.testing.assert_close(got, expected)


@every_lean
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_saves_only_what_it_promises(operation: Operation, lean: str, dtype: torch.dtype) -> None:
    saved: dict[int, Tensor] = {}
    inputs = make_inputs(operation, dtype, "meta")

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        result = operation.call(lean, *inputs)
    promised = [inputs[position].untyped_storage()._cdata for position in operation.saved_inputs]
    assert all(saved.pop(pointer, None) is not None for pointer in promised)
    assert sum(tensor.untyped_storage().nbytes() for tensor in saved.values()) <= operation.saved_bytes(dtype), [
        (tensor.shape, tensor.dtype) for tensor in saved.values()
    ]
    del result


@every_lean
def test_saves_nothing_without_gradient(operation: Operation, lean: str, device: str) -> None:
    inputs = make_inputs(operation, torch.float32, device)
    expected = first_output(operation.call(lean, *inputs))
    with torch.no_grad(), saved_tensors_hooks(lambda tensor: pytest.fail("a tensor was saved"), lambda tensor: tensor):
        assert torch.equal(first_output(operation.call(lean, *inputs)), expected)


@every_lean
def test_recomputes_in_a_checkpoint(operation: Operation, lean: str, device: str) -> None:
    inputs = make_inputs(operation, torch.float32, device)
    direct = torch.autograd.grad(first_output(operation.call(lean, *inputs)).sum(), inputs, allow_unused=True)
    output = first_output(checkpoint(partial(operation.call, lean), *inputs, use_reentrant=False))
    for ours, expected in zip(torch.autograd.grad(output.sum(), inputs, allow_unused=True), direct, strict=True):
        assert torch.equal(ours, expected)


@every_operation
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", ["reference", "eager", "triton"])
def test_runs_on_meta(operation: Operation, dtype: torch.dtype, implementation: str) -> None:
    if implementation == "triton" and not operation.kernel:
        return
    real, meta = make_inputs(operation, dtype), make_inputs(operation, dtype, "meta")
    expected = first_output(operation.call("reference", *real))
    output = first_output(operation.call(implementation, *meta))
    assert (output.shape, output.dtype, output.device.type) == (expected.shape, expected.dtype, "meta")
    output.sum().backward()
    assert all(tensor.grad.shape == tensor.shape for tensor in meta if tensor.grad is not None)


@every_operation
def test_auto_is_eager_on_a_cpu_and_other_names_are_errors(operation: Operation) -> None:
    inputs = make_inputs(operation, torch.float32)
    assert torch.equal(*(first_output(operation.call(name, *inputs)) for name in ("auto", "eager")))
    with pytest.raises(ValueError, match="implementation: 'fast' is unknown; choose from auto, reference, eager"):
        operation.call("fast", *inputs)
