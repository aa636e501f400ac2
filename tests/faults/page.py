"""Writes docs/reliability.md, to stdout, from what the tests of faults have counted: `page.py SUMMARY.json...`."""

import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = """# Reliability

What goes wrong, what the tool then does, and what a test counted of it, through the real process wherever one can be
made to fail so. Each row is a test in `tests/faults`; the numbers are those that it asserts. A test whose counts are
no longer these fails. `make reports` writes this page from `reports/reliability.json`, and from
`reports/h200/reliability.json` where a row needs a GPU; both are made by `pytest tests/faults --summary FILE`.
"""
NOT_YET = "needs a GPU: not run yet"


def main(paths: list[str]) -> None:
    """Prints the page. Of a test that is in several summaries, one in which it ran counts."""
    summaries = [json.loads(Path(path).read_text(encoding="utf-8")) for path in paths]
    rows: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        for row in summary["rows"]:
            if row["outcome"] == "passed" and row["needs_gpu"]:
                row["machine"] = summary["machine"]
            if row["outcome"] == "passed" or row["test"] not in rows:
                rows[row["test"]] = row
    ordered = sorted(rows.values(), key=lambda row: (row["part"], row["test"].partition("::")[0]))
    print(HEAD, end="")  # noqa: T201
    for part, of_part in itertools.groupby(ordered, key=lambda row: row["part"]):
        print("\n".join(("", f"## {part.rstrip('.')}", "", *_table(list(of_part)))))  # noqa: T201


def _table(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "| what happens | what the tool does | counted |"
    yield "| :--- | :--- | :--- |"
    yield from (f"| {row['happens']} | {row['answer']} | {_counted(row)} |".replace("<", "\\<") for row in rows)


def _counted(row: dict[str, Any]) -> str:
    if row["outcome"] != "passed":
        return NOT_YET if row["needs_gpu"] else row["outcome"]
    said = "; ".join(f"{name.replace('_', ' ')}: {count:,}" for name, count in row["counts"].items())
    return said + (f" ({row['machine'].partition(';')[0]})" if row["needs_gpu"] else "")


if __name__ == "__main__":
    main(sys.argv[1:])
