"""The command line as a process of its own among faulty models, and what each test counts for docs/reliability.md."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
STALE = "docs/reliability.md says something else: pytest tests/faults --summary reports/reliability.json"
STAND_IN = HERE / "standing" / "stand_in.py"
SAVED = {False: ROOT / "reports" / "reliability.json", True: ROOT / "reports" / "h200" / "reliability.json"}


@dataclass(frozen=True)
class Left:
    """What a process left: its exit code, what it printed, and the records that it saved, if it was asked to."""

    code: int
    out: str
    err: str
    records: list[dict[str, Any]] = field(default_factory=list)

    def usage_error(self) -> str:
        """The one line of a wrong usage. Fails where there is more, or anything else."""
        assert (self.code, self.out) == (2, ""), self.err
        (line,) = self.err.splitlines()
        assert line.startswith("muse-bench: error: ")
        return line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder with the faulty models in it."""
    (tmp_path / "faulty.py").write_bytes((HERE / "faulty.py").read_bytes())
    return tmp_path


class CommandLine:
    """Runs `muse-bench ARGUMENTS` as a process in the folder of the faulty models."""

    SMALL = ("--vocab", "61", "--d-model", "16", "--layers", "1", "--heads", "2", "--seq", "8")
    PREDICTED = (*SMALL, "--backend", "predict", "--gpu", "h200", "-o", "a.json")
    MEASURED = (*SMALL, "--backend", "cuda", "-o", "a.json")
    PHASES = ("build", "forward", "backward", "optimizer")

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self,
        *arguments: str | Path,
        stands_in: bool = False,
        paths: tuple[Path, ...] = (),
        environment: Mapping[str, str] = MappingProxyType({}),
        before: Callable[[], None] | None = None,
        **options: Any,
    ) -> Left:
        """What the process left. With `stands_in` cases are measured by a stand-in for a worker on a GPU.

        `before` runs in the process before it becomes the command line; modules are looked for in `paths` first.
        """
        command = [*self.program(stands_in), *map(str, arguments)]
        options = {"cwd": self.folder, "env": self.environment(*paths, **environment), "timeout": 120, **options}
        done = subprocess.run(command, capture_output=True, text=True, preexec_fn=before, check=False, **options)
        saved = self.folder / "a.json"
        records = json.loads(saved.read_text())["records"] if saved.is_file() else []
        assert "Traceback" not in done.stderr
        return Left(done.returncode, done.stdout, done.stderr, records)

    def struck(self, strike: str, *phases: str, among: tuple[str, ...] = PREDICTED, **options: Any) -> Left:
        """Compares a model for each phase, in which it strikes, and then one that is sound."""
        models = [f"faulty.py:{strike}_in_{phase}" for phase in phases]
        return self("compare", "--models", ",".join([*models, "baseline"]), *among, **options)

    @staticmethod
    def program(stands_in: bool = False) -> list[str]:
        """The beginning of a command line."""
        return [sys.executable, str(STAND_IN)] if stands_in else [sys.executable, "-m", "muse_bench"]

    @staticmethod
    def environment(*paths: Path, **more: str) -> dict[str, str]:
        """The environment of a process that has this tree's code before any other."""
        found = [*map(str, (*paths, ROOT, ROOT / "kernels", STAND_IN.parent)), os.environ.get("PYTHONPATH", "")]
        return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found)), "COLUMNS": "120", **more}


@pytest.fixture
def muse_bench(folder: Path) -> CommandLine:
    """The command line, among the faulty models."""
    return CommandLine(folder)


def pytest_configure(config: pytest.Config) -> None:
    """`fault(happens, answer)`: a row of docs/reliability.md."""
    config.addinivalue_line("markers", "fault(happens, answer): what goes wrong, and what the tool then does")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Rows are known of tests that are skipped, too."""
    if (mark := item.get_closest_marker("fault")) is not None:
        happens, answer = mark.args
        about = (item.module.__doc__ or "").partition("\n")[0]  # type: ignore[attr-defined]
        needs_gpu = item.get_closest_marker("gpu") is not None
        row = {"part": about, "happens": happens, "answer": answer, "needs_gpu": needs_gpu}
        item.user_properties.append(("fault", row))


@pytest.fixture
def counted(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Takes what a test has counted. Without --summary it must be what the document says."""

    def take(**counts: int) -> None:
        request.node.user_properties.append(("counts", counts))
        if request.config.getoption("summary") is None:
            needs_gpu = request.node.get_closest_marker("gpu") is not None
            assert _documented(request.node.nodeid, SAVED[needs_gpu]) in (counts, None if needs_gpu else counts), STALE

    return take


def _documented(test: str, path: Path) -> dict[str, int] | None:
    """The counts that are saved of a test; of one that needs a GPU, there may be none yet."""
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    return next((row["counts"] for row in rows if row["test"] == test), None)


@pytest.fixture
def child_runs(folder: Path) -> Callable[[], bool]:
    """Whether the process that a faulty model left behind is still there, and not only its entry."""

    def runs() -> bool:
        try:
            state = Path(f"/proc/{int((folder / 'child').read_text())}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state not in "ZX"

    return runs
