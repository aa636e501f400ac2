"""What stands in reports/, the README's tables and the list of commands is what the code as it is makes of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("reports", "docs")


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_rendering_the_records_anew_changes_no_file(tmp_path: Path) -> None:
    """A record that was replaced without its tables, a table written by hand, a renderer changed without either."""
    (tmp_path / "tests" / "faults").mkdir(parents=True)
    for name in ("Makefile", "README.md", "tests/faults/page.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tmp_path / name)
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "MAKEFLAGS")}
    command = ["make", "--silent", "rendered", f"BIN={Path(sys.executable).parent}"]
    made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    kept, now = contents(ROOT), contents(tmp_path)
    assert now.keys() == kept.keys()
    assert [name for name, text in kept.items() if now[name] != text] == []


def contents(root: Path) -> dict[str, bytes]:
    """What the files hold, by their places."""
    files = [root / "README.md", *(path for name in FOLDERS for path in (root / name).rglob("*") if path.is_file())]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
