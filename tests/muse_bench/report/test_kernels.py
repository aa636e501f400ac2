"""The tables of the kernel benchmarks, at the widths that people have."""

import dataclasses

import pytest

from muse_bench.kernel_bench.record import GoalOutcome, KernelRow, KernelRun, Rates
from muse_bench.record import Environment
from muse_bench.report.charts import kernels as charts
from muse_bench.report.charts.palette import LIGHT
from muse_bench.report.kernels import kernel_sheets, render_csv
from muse_bench.report.sheet import render_markdown, render_terminal

CASE = KernelRow(
    kernel="tt_embedding",
    case="50,257 x 1,024, 16,384 tokens, rank 16 bf16",
    sizes={"vocab_size": 50_257, "d_model": 1_024, "tokens": 16_384, "rank": 16},
    dtype="bf16",
    contender="muse_kernels",
    forward_seconds=9.87e-6,
    forward_wall_seconds=4.5e-5,
    forward_backward_seconds=3.21e-5,
    forward_backward_wall_seconds=1.9e-4,
    peak_bytes=40 << 20,
    written_bytes=36 << 20,
    forward_limit_seconds=8.1e-6,
    forward_backward_limit_seconds=1.65e-5,
    goals=(
        GoalOutcome(goal="forward at 80 % of the limit or more", at_most=1.25, ratio=9.87 / 8.1, met=True),
        GoalOutcome(goal="forward+backward faster than nn.Embedding", at_most=1.0, ratio=1.02, met=False),
        GoalOutcome(goal="forward+backward 5 x as fast as tensorly-torch", at_most=0.2, ratio=None, met=None),
    ),
)
BARE = dataclasses.replace(
    CASE,
    forward_wall_seconds=None,
    forward_backward_seconds=None,
    forward_backward_wall_seconds=None,
    peak_bytes=None,
    written_bytes=None,
    goals=(),
)


@pytest.fixture
def kernel_run():
    """Ours, a faster peer, one whose backward pass failed, one that is not there."""
    faster = dataclasses.replace(CASE, contender="nn.Embedding", forward_seconds=1.2e-5, goals=())
    half = dataclasses.replace(BARE, contender="tensorly-torch", status="crashed", reason="backward: RuntimeError: no")
    absent = dataclasses.replace(
        BARE,
        contender="Liger",
        forward_seconds=None,
        status="missing",
        reason="ModuleNotFoundError: No module named 'liger_kernel'\x1b[31m",
    )
    return KernelRun(
        environment=Environment(muse_bench="0.1.0", torch="2.11.0", triton="3.6.0", gpu="NVIDIA H200"),
        rates=Rates(
            copy_bytes_per_second=4.3e12,
            fp32_operations_per_second=5.1e13,
            fp16_operations_per_second=7.4e14,
            bf16_operations_per_second=7.9e14,
        ),
        rows=(CASE, faster, half, absent),
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal(kernel_run, draw, snapshot, width):
    text = draw(render_terminal(*kernel_sheets(kernel_run)), width)
    assert max(map(len, text.splitlines())) <= width
    snapshot(f"kernels_{width}.txt", text)


def test_markdown(kernel_run, snapshot):
    snapshot("kernels.md", render_markdown(*kernel_sheets(kernel_run)))


def test_csv_has_seconds_and_bytes_and_leaves_missing_values_empty(kernel_run):
    head, first, *_, last = render_csv(kernel_run).splitlines()
    assert head.startswith("kernel,case,sizes,dtype,contender,status")
    assert "9.87e-06" in first
    assert str(4 << 20) in first
    assert ",,,,," in last


def test_the_chart_has_a_bar_for_each_pass_and_the_limit_on_it(kernel_run):
    """A pass that failed is named and has no bar; one that there is not, of what did not fail, is left out."""
    fill = dataclasses.replace(CASE, contender="fill_", forward_backward_seconds=None, goals=())
    (picture,) = charts.pictures(dataclasses.replace(kernel_run, rows=(*kernel_run.rows, fill)))
    rows = [row for rows in picture.specification(LIGHT)["datasets"].values() for row in rows]
    found = {(row["contender"], row["name"]): (row["milliseconds"], row["limit"], row["end"]) for row in rows}
    forward, both = "forward", "forward and backward"
    milliseconds, limit, end = found["muse_kernels", forward]
    assert (milliseconds, limit) == (pytest.approx(9.87e-3), pytest.approx(8.1e-3))
    assert end == "0.0099 ms, 82 % of the limit"
    assert found["tensorly-torch", both] == (0, None, "crashed")
    assert found["Liger", forward] == (0, None, "missing")
    assert ("fill_", both) not in found
    assert picture.title == kernel_sheets(kernel_run)[0].title
    assert "82 % of the limit" in picture.says
