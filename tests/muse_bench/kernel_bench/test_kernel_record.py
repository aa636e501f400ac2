"""The record of the kernel benchmarks: what is written is read, and nothing else is."""

import json

import pytest

from muse_bench.errors import UsageError
from muse_bench.kernel_bench.record import GoalOutcome, KernelRun, read_kernel_file
from muse_bench.record import Environment, RunFile


@pytest.fixture
def saved(make_row, rates, tmp_path):
    goal = GoalOutcome(goal="forward faster than eager", at_most=1.0, ratio=0.5, met=True)
    rows = (make_row(goals=(goal,)), make_row("Liger", status="missing", reason="no module", forward_seconds=None))
    run = KernelRun(environment=Environment(muse_bench="0.1.0"), rates=rates, rows=rows, command="muse-bench kernels")
    path = tmp_path / "kernels.json"
    path.write_text(run.to_json())
    return run, path


def test_a_run_comes_back_as_it_was(saved):
    run, path = saved
    assert read_kernel_file(path) == run


def test_newer_minor_fields_are_ignored(saved):
    run, path = saved
    values = json.loads(path.read_text())
    values["benchmarks"][0]["colour"] = values["rates"]["colour"] = "red"
    path.write_text(json.dumps(values))
    assert read_kernel_file(path) == run


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        ("row", "forward_seconds", "fast"),
        ("row", "forward_seconds", -1.0),
        ("row", "peak_bytes", 1.5),
        ("row", "status", "fine"),
        ("row", "dtype", "int4"),
        ("row", "sizes", {"tokens": "many"}),
        ("row", "sizes", None),
        ("row", "goals", {}),
        ("row", "goals", [{"goal": "faster"}]),
        ("row", "contender", ...),
        ("rates", "copy_bytes_per_second", None),
        ("rates", "bf16_operations_per_second", ...),
        ("file", "rates", []),
        ("file", "benchmarks", {}),
        ("file", "benchmarks", [7]),
        ("file", "benchmarks", []),
        ("file", "schema_version", 99),
        ("file", "environment", 3),
    ],
)
def test_what_is_not_right_is_refused_in_one_line(saved, place, name, value):
    _, path = saved
    values = json.loads(path.read_text())
    target = {"file": values, "rates": values["rates"], "row": values["benchmarks"][0]}[place]
    if value is ...:
        del target[name]
    else:
        target[name] = value
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        read_kernel_file(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_file_of_another_command_is_refused(tmp_path):
    path = tmp_path / "compare.json"
    path.write_text(RunFile(environment=Environment(muse_bench="0.1.0"), records=()).to_json())
    with pytest.raises(UsageError, match="benchmarks"):
        read_kernel_file(path)


def test_the_limit_is_bytes_or_operations_whichever_takes_longer(rates):
    assert rates.seconds(4_000_000, 0, "bf16") == pytest.approx(1e-6)
    assert rates.seconds(4_000_000, 8 * 10**9, "bf16") == pytest.approx(1e-5)
    assert rates.seconds(4_000_000, 8 * 10**9, "fp32") == pytest.approx(1.6e-4)


def test_scratch_is_what_need_not_be_written(make_row):
    assert make_row().scratch_bytes == 6 << 20
    assert make_row(peak_bytes=None).scratch_bytes is None
