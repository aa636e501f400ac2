"""What the shell is offered: names that go on from what is typed."""

import os
import subprocess
import sys

import pytest


def offered(*words: str) -> list[str]:
    environment = os.environ | {
        "_MUSE_BENCH_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("muse-bench", *words)),
        "COMP_CWORD": str(len(words)),
    }
    ran = subprocess.run(
        [sys.executable, "-m", "muse_bench"], env=environment, capture_output=True, text=True, check=False
    )
    return ran.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("compare", "--models", "baseline,ul"), ["baseline,ultra", "baseline,ultimate"]),
        (("measure", "tu"), ["tuned"]),
        (("compare", "--gpu", "rtx-40"), ["rtx-4060"]),
        (("cl",), ["claims"]),
        (("compare", "--mode", "fo"), ["forward-backward"]),
    ],
)
def test_names_go_on_from_what_is_typed(words: tuple[str, ...], expected: list[str]) -> None:
    """Names before a comma lost, names of another kind, or an error in place of them."""
    found = offered(*words)
    assert set(expected) <= set(found)
    assert all(name.startswith(words[-1]) for name in found)
