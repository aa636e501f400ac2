"""The same cases predicted at two commits: each is checked out in a temporary folder and runs in its own process."""

import contextlib
import dataclasses
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import muse_bench
from muse_bench.cli import console
from muse_bench.errors import ExitCode, UsageError
from muse_bench.record import RunFile, read_run_file

SECONDS_TO_END = 10.0
OURS = Path("muse_bench", "__main__.py")
OF_HOOKS = ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE")  # set in git's hooks, and not meant for another work tree


@dataclasses.dataclass(frozen=True, slots=True)
class Commit:
    """A commit as the user names it, and its hash."""

    name: str
    sha: str

    def __str__(self) -> str:
        return self.sha[:12] if self.sha.startswith(self.name) else f"{self.name} ({self.sha[:12]})"


def parse_commits(span: str) -> tuple[Commit, Commit]:
    """The two commits in 'BASE..HEAD'; without a last one HEAD.

    Raises: UsageError when they are not two commits of the repository that this folder is in.
    """
    base, dots, head = span.partition("..")
    if not base or not dots or head.startswith("."):
        raise UsageError(f"--git '{span}' are not two commits: write BASE..HEAD, such as main..HEAD")
    return _find(base), _find(head or "HEAD")


def predict_commit(commit: Commit, arguments: Sequence[str]) -> RunFile:
    """What `compare` predicts at the commit, with these arguments.

    Raises: UsageError when the commit cannot be checked out or its process does not get to a record.
    """
    root = Path(_git("rev-parse", "--show-toplevel"))
    console.stderr().print(f"predicting at {commit}")
    with _checked_out(root, commit) as (tree, scratch):
        folder = tree / Path.cwd().resolve().relative_to(root.resolve())
        if not folder.is_dir():
            raise UsageError(f"{commit} has no folder {folder.relative_to(tree)}: call from one that both commits have")
        output = scratch / "records.json"
        command = ["compare", *arguments, "--backend", "predict", "--output", str(output)]
        _run(command, commit, folder, _python_path(root, tree), output)
        # The command that is told is the one that was typed: the folders of this one are gone.
        return dataclasses.replace(read_run_file(output), command=shlex.join(["muse-bench", *sys.argv[1:]]))


@contextlib.contextmanager
def _checked_out(root: Path, commit: Commit) -> Iterator[tuple[Path, Path]]:
    """The commit's files in a temporary work tree, and a folder beside it; both are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="muse-bench-") as scratch:
        tree = Path(scratch, "tree")
        try:
            hooks = ("-c", f"core.hooksPath={os.devnull}")  # what a project does on checkout is not for this
            _git("-C", str(root), *hooks, "worktree", "add", "--detach", "--quiet", str(tree), commit.sha)
            yield tree, Path(scratch)
        finally:
            with contextlib.suppress(UsageError):  # there is none when it could not be added
                _git("-C", str(root), "worktree", "remove", "--force", str(tree))


def _run(arguments: Sequence[str], commit: Commit, folder: Path, path: str, output: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "muse_bench", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,  # a Ctrl-C reaches this process alone, which then ends that one
    )
    try:
        _, said = process.communicate()
    except BaseException:
        _end(process)
        raise
    if process.returncode not in (ExitCode.OK, ExitCode.CASE_FAILED) or not output.exists():
        lines = said.strip().splitlines() or [f"it ended with {process.returncode}"]
        raise UsageError(f"at {commit}: {lines[-1].removeprefix('muse-bench: error: ')}")


def _end(process: subprocess.Popen[str]) -> None:
    """Interrupts it, so that it ends its own workers; kills it when it takes too long."""
    process.send_signal(signal.SIGINT)
    try:
        process.communicate(timeout=SECONDS_TO_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()


def _python_path(root: Path, tree: Path) -> str:
    """Where Python looks first: the commit's own code, then this muse-bench unless the commit holds one."""
    given = [Path(part).resolve() for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    inside = root.resolve()
    moved = [tree / part.relative_to(inside) if part.is_relative_to(inside) else part for part in given]
    if (tree / OURS).is_file():
        return os.pathsep.join(map(str, (tree, tree / "kernels", *moved)))
    sources = [source for source in (tree, tree / "src") if source.is_dir()]
    return os.pathsep.join(map(str, (*sources, *moved, *_own_places())))


def _own_places() -> list[Path]:
    """The folders that hold this muse-bench, where Python would not look by itself."""
    kernels = importlib.util.find_spec("muse_kernels")
    files = [muse_bench.__file__, None if kernels is None else kernels.origin]
    places = dict.fromkeys(Path(file).resolve().parents[1] for file in files if file)
    return [place for place in places if place != Path(sysconfig.get_path("purelib")).resolve()]


def _find(name: str) -> Commit:
    try:
        return Commit(name, _git("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"))
    except UsageError as error:
        _git("rev-parse", "--show-toplevel")  # which says so where there is no repository
        raise UsageError(f"--git: '{name}' is no commit of this repository") from error


def _git(*arguments: str) -> str:
    """What git prints. Raises: UsageError with its last line when it fails or is not there."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_HOOKS}
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, errors="replace", env=environment)
    except OSError as error:
        raise UsageError(f"--git needs git: {error.strerror or error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it failed"]
        raise UsageError(f"git {arguments[0]}: {lines[-1]}")
    return done.stdout.strip()
