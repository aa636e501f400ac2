"""Results that cannot be saved, or printed.

The disk is a tmpfs of its own where this may be mounted, and else a limit on the size of a file.
"""

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from muse_bench.record import read_run_file

TMPFS_BYTES = 512 << 10
PATIENCE_SECONDS = 60


@pytest.fixture
def small_disk(folder):
    """A folder with a file system of 512 KiB; skipped, visibly, where none may be mounted."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(disk)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no tmpfs may be mounted here: see the test with a limit on the size of a file")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def earlier(path):
    """A whole record file that a run before this one has left."""
    path.write_text('{"schema_version": 1, "environment": {}, "records": []}')
    return path.read_bytes()


@pytest.mark.fault(
    "the disk is full when results are saved (a tmpfs of 512 KiB)",
    "one line; the table is printed all the same, the file of the run before stays whole, nothing half is left; "
    "with space again, --resume goes on",
)
def test_a_full_disk_costs_no_result(muse_bench, small_disk, counted):
    """Half a record file in place of a whole one; or the only copy of what had been computed lost with the process."""
    output = small_disk / "a.json"
    before = earlier(output)
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as stream:
        stream.write(bytes(TMPFS_BYTES - 12 * 1024))
    among = (*muse_bench.PREDICTED[:-1], output)
    left = muse_bench("compare", "--models", "baseline,ultra", *among)
    assert left.code == 2
    (line,) = left.err.splitlines()
    assert "disk" in line
    assert "No space left on device" in line
    assert "baseline" in left.out
    assert output.read_bytes() == before
    assert {path.name for path in small_disk.iterdir()} <= {"a.json", "a.jsonl", "filler"}
    filler.unlink()
    again = muse_bench("compare", "--models", "baseline,ultra", *among, "--resume")
    assert (again.code, again.err) == (0, "")
    assert [record.model for record in read_run_file(output).records] == ["baseline", "ultra"]
    counted(lines_on_stderr=1, half_written_files=0, exit_code=left.code, exit_code_when_resumed=again.code)


@pytest.mark.fault(
    "a file grows no further (a limit of the system on its size)", "the same, wherever no disk can be filled"
)
def test_a_limit_on_files_leaves_none_half_written(muse_bench, folder, counted):
    """The temporary file that was to become the output stayed behind."""
    output = folder / "x.json"
    before = earlier(output)
    among = (*muse_bench.PREDICTED[:-1], output)
    left = muse_bench("compare", "--models", "baseline", *among, before=limit_files)
    assert left.code == 2
    (line,) = left.err.splitlines()
    assert "cannot be written: File too large" in line
    assert "baseline" in left.out
    assert output.read_bytes() == before
    assert {path.name for path in folder.iterdir()} <= {"faulty.py", "x.json", "x.jsonl", "__pycache__"}
    counted(lines_on_stderr=1, half_written_files=0, exit_code=left.code)


def limit_files():
    """For this process and those that it starts."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))


@pytest.mark.fault(
    "the folder of the output goes away while cases run", "one line that names the file; the table is printed"
)
def test_a_folder_that_goes_away_costs_the_file_alone(muse_bench, folder, counted):
    """What had been computed was lost for want of a place to write it."""
    (folder / "out").mkdir()
    left = muse_bench.struck("remove_folder", "build", among=(*muse_bench.PREDICTED[:-1], "out/a.json"))
    assert left.code == 2
    (line,) = left.err.splitlines()
    assert "out/a.json" in line
    assert "cannot be written" in line
    assert "remove_folder_in_build" in left.out
    counted(lines_on_stderr=1, exit_code=left.code)


@pytest.mark.fault("the output is on a file system that is mounted to be read", "refused before anything runs")
def test_a_folder_that_cannot_be_written_is_refused_first(muse_bench, counted):
    """Hours of cases, and then nowhere to put them. /proc refuses even root."""
    said = muse_bench("compare", "--models", "faulty.py:hang_in_build", *muse_bench.PREDICTED, "-o", "/proc/a.md")
    assert "/proc/a.md: cannot be written" in said.usage_error()
    counted(cases_run=0, exit_code=said.code)


@pytest.mark.fault(
    "two runs with one output", "the second is refused while the first one runs; the first one's file is whole"
)
def test_two_runs_do_not_share_a_file(muse_bench, folder, counted):
    """The one that ended last won, in silence."""
    from_here = {"cwd": folder, "env": muse_bench.environment(), "stderr": subprocess.PIPE, "text": True}
    models = ("compare", "--models", "baseline,faulty.py:wait_in_build")
    first = subprocess.Popen(
        [*muse_bench.program(), *models, *muse_bench.PREDICTED], stdout=subprocess.PIPE, **from_here
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (folder / "waits").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    second = muse_bench("compare", "--models", "ultra", *muse_bench.PREDICTED)
    assert "another run is writing it" in second.usage_error()
    (folder / "go").touch()
    _, err = first.communicate(timeout=PATIENCE_SECONDS)
    assert (first.returncode, err) == (0, "")
    models = [record["model"] for record in json.loads((folder / "a.json").read_text())["records"]]
    assert models == ["baseline", "faulty.py:wait_in_build"]
    counted(first=first.returncode, second=second.code)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.fault(
    "stdout is full (/dev/full), or nobody reads it (a pipe to head)",
    "one line and exit code 2; for a pipe that was closed no line, and exit code 141, as of other programs",
)
def test_an_stdout_that_takes_nothing_is_told_in_one_line(muse_bench, folder, counted):
    """A traceback of the library that prints."""
    (folder / "x.json").write_bytes((Path(__file__).parent / "old_records" / "rules.json").read_bytes())
    command = [*muse_bench.program(), "report", "x.json"]
    with Path("/dev/full").open("w") as full:
        done = run_to(full, command, muse_bench, folder)
    assert done.returncode == 2
    assert done.stderr == "muse-bench: error: stdout: cannot be written: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    closed = run_to(writer, command, muse_bench, folder)
    os.close(writer)
    assert (closed.returncode, closed.stderr) == (141, "")
    counted(full=done.returncode, closed=closed.returncode)


def run_to(stdout, command, muse_bench, folder):
    environment = muse_bench.environment()
    return subprocess.run(
        command, stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment, check=False
    )
