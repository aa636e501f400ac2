"""One measuring run a GPU, and a word about who else is on it: with real processes, on a GPU that is invented."""

import os
import subprocess
import sys

import pytest

from muse_bench.errors import UsageError
from muse_bench.execution import gpu_lock
from muse_bench.execution.gpu_lock import crowd, hold_gpu, lock_file, taken_gpu
from muse_bench.measure.nvml import DeviceName, OtherProcess

from .conftest import LARGEST_LINUX_PID

GPU = DeviceName("GPU-aaaa-0", "NVIDIA H200")
MIB = 1 << 20
HOLD = """
import sys
from muse_bench.execution.gpu_lock import hold_gpu
from muse_bench.measure.nvml import DeviceName
with hold_gpu(DeviceName("GPU-aaaa-0", "NVIDIA H200"), waits=False):
    print("held", flush=True)
    sys.stdin.readline()
"""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="locks of files")


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    """Of these tests alone: the machine's own GPU may be in use."""
    monkeypatch.setattr(gpu_lock.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def holder(folder):
    """Another process that holds the GPU, until it is killed."""
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "PYTHONPATH": paths, "TMPDIR": str(folder)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_told_who_holds_the_gpu(holder):
    said = rf"NVIDIA H200 is measured on by process {holder.pid} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d: .* --wait"
    with pytest.raises(UsageError, match=said), hold_gpu(GPU, waits=False):
        pytest.fail("two runs hold it")
    with hold_gpu(DeviceName("GPU-bbbb-1", "NVIDIA H200"), waits=False):
        pass  # another GPU is free


def test_one_that_waits_comes_after_it_and_a_killed_run_leaves_no_lock(holder):
    said = []

    def say(text):
        said.append(text)
        holder.kill()

    with hold_gpu(GPU, waits=True, say=say):
        assert str(os.getpid()) in lock_file(GPU.uuid).read_text()
    assert said[0].endswith(": waiting for it to end")
    with hold_gpu(GPU, waits=False):
        pass


def test_runs_within_one_process_do_not_lock_each_other_out():
    with hold_gpu(GPU, waits=False), hold_gpu(GPU, waits=False):
        pass
    assert not gpu_lock.OURS


def test_a_note_that_makes_no_sense_is_not_believed(holder):
    lock_file(GPU.uuid).write_text('{"pid": "rm -rf", "since": []}')
    with pytest.raises(UsageError, match="by another process:"), hold_gpu(GPU, waits=False):
        pytest.fail("two runs hold it")


def test_others_on_the_gpu_are_counted(install):
    install((900, {LARGEST_LINUX_PID + 1: 300 * MIB, LARGEST_LINUX_PID + 2: 212 * MIB}))
    said = []
    with taken_gpu(None, waits=False, say=said.append) as here:
        assert here == GPU
    (line,) = said
    assert line.startswith("warning: 2 other processes on the GPU hold 512.0 MiB: ")
    assert "1 other process on the GPU holds an unknown amount" in crowd([OtherProcess(1, None, None)])


def test_a_gpu_that_is_ours_alone_needs_no_word(install):
    install((900, {}))
    said = []
    with taken_gpu(None, waits=False, say=said.append):
        assert said == []


def test_without_nvml_there_is_nothing_to_lock(install, folder):
    with taken_gpu(None, waits=False, say=pytest.fail) as here:
        assert here is None
    assert list(folder.iterdir()) == []
