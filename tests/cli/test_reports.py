"""What stands in reports/ and in the README's tables is what the records give, rendered by the code as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_rendering_the_records_anew_changes_no_file(tmp_path: Path) -> None:
    """A record that was replaced without its tables, a table written by hand, a renderer changed without either."""
    for name in ("Makefile", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "reports", tmp_path / "reports")
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "MAKEFLAGS")}
    command = ["make", "--silent", "rendered", f"BIN={Path(sys.executable).parent}"]
    made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    kept = [ROOT / "README.md", *(path for path in (ROOT / "reports").rglob("*") if path.is_file())]
    made_now = {path.relative_to(tmp_path) for path in (tmp_path / "reports").rglob("*") if path.is_file()}
    assert made_now == {path.relative_to(ROOT) for path in kept[1:]}
    different = [path.relative_to(ROOT) for path in kept if path.read_bytes() != _made(path, tmp_path).read_bytes()]
    assert not different


def _made(path: Path, folder: Path) -> Path:
    return folder / path.relative_to(ROOT)
