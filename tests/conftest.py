"""What all tests share: names of parameters that are the same in every process, and what needs a GPU."""

import json
import os
import platform
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, whose own functions are decorated then


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--summary FILE`: where it ran and how many tests of each file passed, as Markdown; as JSON what they counted."""
    parser.addoption("--summary", metavar="FILE", type=Path, help="write a summary of the run to this file")


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Writes the summary that was asked for."""
    path: Path | None = config.getoption("summary")
    if path is None:
        return
    if path.suffix == ".json":
        path.write_text(json.dumps({"machine": _machine(), "rows": _rows(terminalreporter)}, indent=1) + "\n")
        return
    found: dict[str, Counter[str]] = {}
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            found.setdefault(report.nodeid.partition("::")[0], Counter())[outcome] += 1
    failed = [report.nodeid for kind in ("failed", "error") for report in terminalreporter.stats.get(kind, [])]
    rows = [
        f"| {name} | {c['passed']} | {c['failed'] + c['error']} | {c['skipped']} |" for name, c in sorted(found.items())
    ]
    total = sum(found.values(), Counter())
    rows.append(f"| all | {total['passed']} | {total['failed'] + total['error']} | {total['skipped']} |")
    lines = [
        f"`pytest {' '.join(sys.argv[1:])}`: {_machine()}.",
        "",
        "| file | passed | failed | skipped |",
        "| :--- | ---: | ---: | ---: |",
        *rows,
        *([""] if failed else []),
        *(f"- failed: {name}" for name in failed),
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rows(terminalreporter: Any) -> list[dict[str, Any]]:
    """Of each test that stands for a fault: what that is, how the test ended, and what it counted."""
    rows: dict[str, dict[str, Any]] = {}
    for outcome in ("passed", "skipped", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            said = dict(getattr(report, "user_properties", ()))  # of a file that cannot be imported there are none
            if "fault" in said:
                counts = said.get("counts", {})
                rows[report.nodeid] = {"test": report.nodeid, **said["fault"], "outcome": outcome, "counts": counts}
    return [rows[test] for test in sorted(rows)]


def _machine() -> str:
    import torch
    import triton

    from muse_bench.execution.runner import source_commit

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU, Triton's interpreter"
    software = f"torch {torch.__version__}, Triton {triton.__version__}, Python {platform.python_version()}"
    return f"{gpu}; commit {source_commit() or 'unknown'}, {software}"


def pytest_make_parametrize_id(config: pytest.Config, val: Any, argname: str) -> str | None:
    """A function's name, not its address, which would differ between the processes that share the tests."""
    return getattr(val, "__name__", argname) if callable(val) and not isinstance(val, type) else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skips, visibly, what is marked `gpu` on a machine without one."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
