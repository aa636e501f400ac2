"""A worker that dies, hangs or floods.

Each model does it to its own process; the command line is a real one, and so are its workers.
"""

import time

import pytest


@pytest.mark.fault(
    "kill -9 of the worker that predicts: in build, forward, backward, optimizer", "a row says so; the next case runs"
)
def test_a_worker_that_is_killed_is_a_row(muse_bench, counted):
    """A case after the one that was killed asked the dead worker, or the exit code was that of a run that went well."""
    left = muse_bench.struck("kill", *muse_bench.PHASES)
    assert [record["status"] for record in left.records] == ["crashed"] * 4 + ["ok"]
    assert {record["reason"] for record in left.records[:-1]} == {"the worker process was killed by signal 9"}
    assert left.out.count("crashed: the worker process was killed by signal 9") == 4
    assert left.err == ""
    counted(killed=4, other_cases_finished=1, exit_code=left.code)


MEASURED_PHASES = (
    *("peaks-building-building", "peaks-first-step", "peaks-steady-steps", "peaks-timing-timing"),
    *("ledger-building-building", "ledger-step-3", "ledger-ledger-ledger"),
)


@pytest.mark.fault(
    "kill -9 of the worker that measures, in each phase that it says; the instrumented run's are the last three",
    "a row says so; the peaks of a case whose instrumented run was killed stay, with a note that the ledger is missing",
)
def test_a_measuring_worker_that_is_killed_is_a_row(muse_bench, counted):
    """Peaks that had been measured were lost with the process that was to explain them."""
    models = ",".join([*(f"die:{phase}" for phase in MEASURED_PHASES), "baseline"])
    left = muse_bench("compare", "--models", models, *muse_bench.MEASURED, stands_in=True)
    assert [record["status"] for record in left.records] == ["crashed"] * 4 + ["ok"] * 4
    assert all("killed by signal 9" in record["reason"] for record in left.records[:4])
    explained, sound = left.records[4:7], left.records[7]
    assert all(record["peak_allocated_bytes"] == sound["peak_allocated_bytes"] for record in explained)
    assert all(record["ledger"] is None for record in explained)
    assert all("no ledger: the worker process was killed by signal 9" in record["notes"] for record in explained)
    assert sound["ledger"] is not None
    counted(killed=len(MEASURED_PHASES), peaks_kept=len(explained), other_cases_finished=1, exit_code=left.code)


@pytest.mark.gpu
@pytest.mark.fault(
    "kill -9 of the worker that measures on a GPU: in build, forward, backward, optimizer, instrumented run",
    "a row says so; the GPU's memory is free for the next case",
)
def test_a_worker_on_a_gpu_that_is_killed_is_a_row(muse_bench, counted):
    """The next case was measured with the memory of the killed one still taken."""
    left = muse_bench.struck("kill", *muse_bench.PHASES, "instrumented", among=muse_bench.MEASURED)
    assert [record["status"] for record in left.records] == ["crashed"] * 4 + ["ok", "ok"]
    assert left.records[-2]["ledger"] is None
    assert left.records[-2]["peak_allocated_bytes"] > 0
    counted(killed=5, peaks_kept=1, other_cases_finished=1, exit_code=left.code)


@pytest.mark.fault(
    "a model that raises in forward, backward or optimizer, or calls sys.exit()",
    "a row with the reason on one line; the worker goes on with the next case",
)
def test_a_model_that_fails_is_a_row(muse_bench, counted):
    """A model that calls sys.exit() ended its worker with an exit status, and the next case waited for another."""
    failing = [f"faulty.py:fail_in_{phase}" for phase in muse_bench.PHASES[1:]]
    models = ",".join([*failing, "faulty.py:leave_in_forward", "baseline"])
    left = muse_bench("compare", "--models", models, *muse_bench.PREDICTED)
    assert [record["status"] for record in left.records] == ["crashed"] * 4 + ["ok"]
    assert all("faulty.py" in record["reason"] for record in left.records[:3])
    assert all(record["reason"].endswith(": RuntimeError: two shapes do not fit") for record in left.records[:3])
    assert left.records[3]["reason"] == "SystemExit: usage: train.py DATA"
    counted(failed=4, other_cases_finished=1, exit_code=left.code)


@pytest.mark.fault(
    "a worker that hangs, deaf to SIGTERM, with processes of its own that hold its pipes open",
    "--timeout ends it and all that it started; the next case runs",
)
def test_a_worker_that_hangs_is_ended_with_all_that_it_started(muse_bench, child_runs, counted):
    """A process that the model forked lived on, on the GPU, and the runner waited for the pipe that it held."""
    left = muse_bench.struck("hang_with_child", "forward", among=("--timeout", "8", *muse_bench.PREDICTED))
    assert [record["status"] for record in left.records] == ["crashed", "ok"]
    assert left.records[0]["reason"] == "timed out after 8 s"
    assert not child_runs()
    counted(hung=1, processes_left=0, other_cases_finished=1, exit_code=left.code)


@pytest.mark.fault(
    "a worker that dies while a process that it forked holds its pipes open", "it is noticed with no --timeout"
)
def test_a_death_is_noticed_though_a_child_holds_the_pipe(muse_bench, child_runs, counted):
    """The runner waited for the end of the pipe, which a loader's process had a copy of: for good."""
    begun = time.monotonic()
    left = muse_bench.struck("die_with_child", "forward")
    assert [record["status"] for record in left.records] == ["crashed", "ok"]
    assert time.monotonic() - begun < 60  # it sleeps for 600
    assert not child_runs()
    counted(died=1, processes_left=0, other_cases_finished=1, exit_code=left.code)


@pytest.mark.fault(
    "a model that prints a gigabyte to stdout and another to stderr",
    "all of it is read and forgotten: the case is predicted, no file grows, memory neither",
)
def test_a_gigabyte_that_is_printed_fills_neither_disk_nor_memory(muse_bench, folder, counted):
    """What workers print went to a file in /tmp, which has no limit."""
    left = muse_bench.struck("shout", "build", before=limit_files_to_a_mebibyte)
    assert [record["status"] for record in left.records] == ["ok", "ok"]
    assert left.err == ""
    assert int((folder / "grown").read_text()) < 8 << 20
    counted(printed_gib=2, largest_file_mib=1, runner_grew_less_than_mib=8, exit_code=left.code)


@pytest.mark.fault("a worker whose code writes into the channel of its answers", "a row says so; the next case runs")
def test_an_answer_that_is_none_is_a_row(muse_bench, counted):
    """A line that is no JSON ended the whole run with a traceback."""
    left = muse_bench.struck("babble", "forward")
    assert [record["status"] for record in left.records] == ["crashed", "ok"]
    assert left.records[0]["reason"] == "the worker process answered what is no answer: {not an answer"
    counted(garbled=1, other_cases_finished=1, exit_code=left.code)


def limit_files_to_a_mebibyte() -> None:
    """For this process and those that it starts."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
