"""Every row of the benchmarks, run at tiny sizes on the CPU: a row that calls an operation wrongly shows here."""

import dataclasses
import functools

import pytest
import torch

from muse_bench.kernel_bench import benchmarks
from muse_bench.kernel_bench.benchmark import LIMIT, OURS
from muse_bench.kernel_bench.tensors import Call, TensorMaker

CPU = torch.device("cpu")
LOSS_BYTES = 8  # a row may leave out its one number
NEED_GPU = ("Liger", "cut-cross-entropy", "accelerated-scan", "accelerated-scan warp", "fla ")
CASES = [
    pytest.param(name, sizes, id=f"{name}-{index}")
    for name, benchmark in benchmarks().items()
    for index, sizes in enumerate(benchmark.tiny)
]
CONTENDERS = [
    pytest.param(*case.values, contender, id=f"{case.id}-{contender.name}")
    for case in CASES
    for contender in benchmarks()[case.values[0]].contenders(case.values[1])
]


@pytest.fixture(autouse=True)
def no_compiler(monkeypatch):
    """torch.compile traces what it is given, and runs it as it is."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def run(name, sizes, contender):
    """The call of this implementation; skipped where it is not here, or needs a GPU."""
    if contender.name.startswith(NEED_GPU):
        pytest.skip(f"{contender.name} has no kernels for a CPU")
    make = contender.inputs or benchmarks()[name].inputs
    try:
        arguments = make(sizes, TensorMaker(CPU, sizes.dtype))
        return Call(contender.load(sizes), arguments), arguments
    except ImportError as error:
        pytest.skip(f"{contender.name}: {error}")


def seeded(call):
    """Both passes, from the same gradients each time."""
    torch.manual_seed(0)
    return call.forward_backward()


@pytest.mark.parametrize(("name", "sizes", "contender"), CONTENDERS)
def test_every_implementation_runs_both_ways(name, sizes, contender):
    call, _ = run(name, sizes, contender)
    outputs = call.forward()
    assert outputs
    assert not any(output.requires_grad for output in outputs)
    if contender.forward_only:
        return
    both = call.forward_backward()
    assert len(both) > len(outputs)
    assert all(torch.isfinite(tensor).all() for tensor in both)


@pytest.mark.parametrize(("name", "sizes", "contender"), CONTENDERS)
def test_peers_with_our_inputs_compute_what_ours_computes(name, sizes, contender):
    if contender.inputs is not None:
        pytest.skip("it has inputs of its own")
    sizes = dataclasses.replace(sizes, dtype="fp32")
    theirs, _ = run(name, sizes, contender)
    ours, _ = run(name, sizes, benchmarks()[name].contenders(sizes)[0])
    for mine, other in zip(seeded(ours), seeded(theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4, check_dtype=False)


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_forward_moves_every_input_and_every_output_once(name, sizes):
    benchmark = benchmarks()[name]
    call, _ = run(name, sizes, benchmark.contenders(sizes)[0])
    written = sum(output.nbytes for output in call.forward())
    moved = benchmark.forward(sizes).moved_bytes
    assert moved in (call.input_bytes + written, call.input_bytes + written - min(written, LOSS_BYTES // 2))


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_backward_writes_a_gradient_for_every_input_that_takes_one(name, sizes):
    """At least that, and the gradient that it begins from."""
    benchmark = benchmarks()[name]
    call, arguments = run(name, sizes, benchmark.contenders(sizes)[0])
    outputs = call.forward()
    took = sum(tensor.nbytes for tensor in arguments if isinstance(tensor, torch.Tensor) and tensor.requires_grad)
    shared = arguments[-1].nbytes if getattr(sizes, "residual", 0) else 0  # x and residual have one gradient
    given = sum(output.nbytes for output in outputs if output.dim())
    assert benchmark.backward(sizes).moved_bytes >= took - shared + given


@pytest.mark.parametrize("name", benchmarks())
def test_cases_are_told_apart_and_goals_name_somebody(name):
    benchmark = benchmarks()[name]
    for cases in (benchmark.cases, benchmark.tiny):
        assert len({sizes.label for sizes in cases}) == len(cases)
    for sizes in benchmark.cases:
        names = [contender.name for contender in benchmark.contenders(sizes)]
        assert names[0] == OURS
        assert len(set(names)) == len(names)
        for goal in benchmark.goals:
            assert not goal.when(sizes) or goal.against in (*names, LIMIT)


# --- the work of single cases, worked by hand


def work(name, **sizes):
    benchmark = benchmarks()[name]
    made = dataclasses.replace(benchmark.cases[0], **sizes)
    return benchmark.forward(made), benchmark.backward(made)


def test_the_work_of_a_norm():
    """10 rows of 4 numbers of 2 bytes, and a weight of 4."""
    forward, backward = work("rms_norm", tokens=10, d_model=4)
    assert forward == (80 + 80 + 8, 0)
    assert backward.moved_bytes == 80 + 80 + 8 + 80 + 8  # x, the gradient, the weight; both gradients
    forward, backward = work("rms_norm", tokens=10, d_model=4, residual=1)
    assert forward.moved_bytes == 2 * 80 + 8 + 2 * 80
    assert backward.moved_bytes == 3 * 80 + 8 + 80 + 8  # the sum and two gradients; one gradient for both inputs


def test_the_work_of_a_gated_norm():
    """10 tokens of 2 heads of 3 numbers of 2 bytes: x, v, gate and the result; a weight of 6 and a skip of 2."""
    forward, backward = work("gated_rms_norm", batch=1, seq=10, heads=2, head_dim=3)
    assert forward == (4 * 120 + 16, 0)
    assert backward.moved_bytes == 4 * 120 + 16 + 3 * 120 + 16


def test_the_work_of_a_scan():
    """The issue's size: 100,663,296 numbers, twice read and once written."""
    forward, backward = work("diagonal_scan", dtype="fp32")
    assert forward.moved_bytes == 3 * 8 * 1_536 * 8_192 * 4
    assert backward.moved_bytes == 5 * 8 * 1_536 * 8_192 * 4
    forward, backward = work("diagonal_scan", decay=0)
    assert (forward.moved_bytes, backward.moved_bytes) == (2 * 8 * 1_536 * 8_192 * 2,) * 2


def test_the_work_of_a_loss():
    """10 tokens of width 4 against 7 words, in bf16: one product forward, two backward."""
    forward, backward = work("linear_cross_entropy", tokens=10, vocab_size=7, d_model=4)
    assert forward == (10 * 4 * 2 + 7 * 4 * 2 + 10 * 8, 2 * 10 * 7 * 4)
    assert backward == (forward.moved_bytes + 80 + 56, 4 * 10 * 7 * 4)


def test_the_work_of_an_embedding():
    """16,384 rows of 1,024; the cores of the issue's rank 16 hold 229,888 numbers and 16 angles."""
    forward, backward = work("tt_embedding", rank=16)
    assert forward == (16_384 * 8 + 229_904 * 2 + 16_384 * 1_024 * 2, 2 * 16 * 16_384 * 1_024)
    assert backward.moved_bytes == forward.moved_bytes + 229_904 * 2


def test_a_product_with_a_small_table_is_cheapest_core_by_core():
    """Rank 3 at vocab 50,257 x 1,024: 225 * 32 * 32 and 225 * 224 * 32 products a token and rank."""
    forward, _ = work("tt_linear", tokens=1, rank=3)
    assert forward.operations == 2 * 3 * (225 * 32 * 32 + 225 * 224 * 32)
    forward, _ = work("tt_linear", tokens=1, rank=200)
    assert forward.operations == 2 * 50_257 * 1_024


def test_the_work_of_a_mixer():
    """One step of one head: q, k of 2, v, o of 3, a decay; a state of 6."""
    forward, backward = work("semiseparable_mix", batch=1, seq=1, heads=1, head_dim=3, state=2)
    assert forward == ((2 + 2 + 3 + 3 + 1) * 2, 4 * 6)
    assert backward == ((2 + 2 + 3 + 1 + 3 + 2 + 2 + 3 + 1) * 2, 8 * 6)


def test_the_work_of_an_int8_product():
    """3 tokens, 4 to 5: bf16 activations, a byte a weight, 4 a scale."""
    forward, _ = work("int8_linear", tokens=3, inputs=4, outputs=5)
    assert forward == (3 * 4 * 2 + 3 * 5 * 2 + 20 + 20, 2 * 3 * 4 * 5)


def test_the_work_of_a_feed_forward_part():
    """2 tokens, 8 - 3 - 8, with biases."""
    forward, backward = work("low_rank_ffn", tokens=2, d_model=8, rank=3, wide=0)
    parameters = 8 * 3 + 3 + 3 * 8 + 8
    assert forward == ((2 * 8 * 2 + parameters) * 2, 2 * 2 * (8 * 3 + 3 * 8))
    assert backward == ((3 * 8 * 2 + 2 * parameters) * 2, 2 * forward.operations)
