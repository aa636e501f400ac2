"""The machine's memory, within the limits of its container."""

from pathlib import Path

import pytest

from muse_bench import host_memory


@pytest.mark.parametrize(
    ("limits", "expected"),
    [((), 1 << 35), (("max\n",), 1 << 35), (("1073741824\n",), 1 << 30), (("9223372036854771712", "4096"), 4096)],
)
def test_the_least_that_is_told_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limits: tuple[str, ...], expected: int
) -> None:
    paths = [tmp_path / str(index) for index in range(2)]
    for path, text in zip(paths, limits, strict=False):
        path.write_text(text)
    monkeypatch.setattr(host_memory, "LIMITS", paths)
    monkeypatch.setattr(host_memory.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 1 << 23))
    assert host_memory.machine_bytes() == expected


def test_what_is_not_told_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: str) -> int:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(host_memory, "LIMITS", ())
    monkeypatch.setattr(host_memory.os, "sysconf", refuse)
    assert host_memory.machine_bytes() is None
