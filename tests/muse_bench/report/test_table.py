"""The terminal's comparison and verdicts, at the widths that people have."""

import dataclasses

import pytest

from muse_bench.report import words
from muse_bench.report.fit import Fit
from muse_bench.report.table import Comparison


@pytest.mark.parametrize("width", [80, 120])
def test_comparison(run, draw, snapshot, width):
    snapshot(f"comparison_{width}.txt", draw(Comparison(run), width))


@pytest.mark.parametrize("width", [80, 120])
def test_verdicts(run, draw, snapshot, width):
    snapshot(f"fit_{width}.txt", draw(Fit(run), width))


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_no_line_is_wider_than_the_terminal_and_no_row_is_lost(run, draw, width):
    text = draw(Comparison(run), width)
    assert max(map(len, text.splitlines())) <= width
    assert all(model in text for model in ("baseline", "ultra", "streamed"))


def test_large_figures_and_the_longest_verdict_fit_80_columns(run, draw):
    grown = [dataclasses.replace(row, peak_allocated_bytes=16_397 << 20, verdict="INCONCLUSIVE") for row in run.records]
    text = draw(Comparison(dataclasses.replace(run, records=tuple(grown[:2]))), 80)
    assert "16,397.0" in text
    assert "INCONCLUSIVE" in text
    assert "activ-" in text


def test_rows_of_different_protocols_say_what_differs(run, draw):
    first, second, *_ = run.records
    mixed = dataclasses.replace(run, records=(first, dataclasses.replace(second, mode="inference", batch=4)))
    text = draw(Comparison(mixed), 120)
    heading = next(line for line in text.splitlines() if line.startswith("model"))
    assert heading.split()[1:3] == ["mode", "batch"]
    assert "no reduction" not in text


def test_a_prediction_says_so_and_why(run, draw):
    rows = tuple(
        dataclasses.replace(row, provenance="predicted", gpu="NVIDIA GeForce RTX 4060", notes=(words.NO_GPU,))
        for row in run.records
    )
    text = draw(Comparison(dataclasses.replace(run, records=rows)), 80)
    assert "predicted for NVIDIA GeForce RTX 4060 (no GPU on this machine)" in text
    assert words.NO_GPU not in text


def test_a_name_is_never_read_as_markup(run, draw):
    record = dataclasses.replace(run.records[0], model="[red]x[/red]")
    assert "[red]x[/red]" in draw(Comparison(dataclasses.replace(run, records=(record,))), 120)
