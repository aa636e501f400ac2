"""Records of other releases.

`old_records` has one of each form that records have had, as the code of its day wrote it; their version is still 1.
"""

import json
import sys
from pathlib import Path

import pytest

from muse_bench import cli
from muse_bench.kernel_bench.record import read_kernel_file
from muse_bench.quality.record import read_quality_file
from muse_bench.record import SCHEMA_VERSION, read_run_file

OLD = sorted((Path(__file__).parent / "old_records").glob("*.json"))
ROOT = Path(__file__).parents[2]
OTHERS = {
    read_quality_file: ROOT / "reports" / "h200" / "quality-muse.json",
    read_kernel_file: ROOT / "reports" / "h200" / "kernels.json",
    read_run_file: OLD[0],
}


@pytest.fixture
def call(monkeypatch, tmp_path, capsys):
    """Runs a command line in this process, in an empty folder; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["muse-bench", *map(str, arguments)])
        return int(cli.main()), *capsys.readouterr()

    return run


@pytest.mark.fault(
    "records as earlier code wrote them, one of each form that they have had", "they are shown, in every format"
)
def test_older_records_are_shown(call, counted):
    """A field that came later and that old records lack."""
    for path in OLD:
        code, out, err = call("report", path, "-o", "x.md", "-o", "x.csv", "-o", "x.json")
        assert (code, err) == (0, ""), path.name
        peaks = [record.peak_allocated_bytes for record in read_run_file(path).records]
        assert [record.peak_allocated_bytes for record in read_run_file(Path("x.json")).records] == peaks
        assert all(f"{peak / (1 << 20):,.1f}" in out for peak in peaks)
        assert call("diff", path, OLD[0])[0] == 0
        assert call("check", path, "--against", path)[0] == 0
    counted(forms=len(OLD), records=sum(len(read_run_file(path).records) for path in OLD), exit_code=0)


@pytest.mark.fault(
    "records of a newer schema: of runs, of trainings and of kernels", "refused in one line that says to upgrade"
)
def test_newer_records_are_refused(tmp_path, muse_bench, counted):
    """Fields that mean something else by then, read as if they still meant the same."""
    commands = {read_quality_file: ("quality", "--from"), read_kernel_file: ("kernels", "--from")}
    for reader, path in OTHERS.items():
        values = json.loads(path.read_text(encoding="utf-8"))
        (tmp_path / "newer.json").write_text(json.dumps({**values, "schema_version": SCHEMA_VERSION + 1}))
        said = muse_bench(*commands.get(reader, ("report",)), "newer.json").usage_error()
        assert f"newer.json: written by a newer muse-bench (schema {SCHEMA_VERSION + 1}" in said
        assert said.endswith("upgrade")
    counted(kinds=len(OTHERS), exit_code=2)
