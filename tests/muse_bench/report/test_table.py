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


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("view", [Comparison, Fit])
def test_host_memory_has_a_column_where_some_model_uses_it(run, draw, view, width):
    def shown(*held):
        """What the column says of each model; None when it is not there."""
        changes = [{"host_bytes": parts} for parts in held]
        lines = draw(view(dataclasses.replace(run, records=_changed(run, *changes))), width).splitlines()
        heading = next((line for line in lines if line.startswith("model") and " host" in line), None)
        if heading is None:
            return None
        end = heading.index(" host") + len(" host")
        return [line[:end].split()[-1] for line in lines if line.startswith(("baseline", "ultra"))][:2]

    assert shown({}, {"checkpoints": 96 << 20}) == ["0.0", "96.0"]
    assert shown(None, {"checkpoints": 96 << 20}) == ["-", "96.0"]
    assert shown({}, {}) is shown(None, {}) is None


@pytest.mark.parametrize("view", [Comparison, Fit])
def test_what_sets_a_model_apart_is_said_below_the_table(run, draw, view):
    held = {"weights": 1, "checkpoints": 2, "optimizer state": 0}
    apart = {"update": "in-backward", "execution": "graph", "host_bytes": held}
    plain = {"update": "after", "execution": "eager", "host_bytes": {}}
    text = draw(view(dataclasses.replace(run, records=_changed(run, plain, apart))), 120)
    assert "\nultra: update in backward, CUDA graph, weights and checkpoints in host memory\n" in text
    assert "baseline: " not in text


def _changed(run, *changes):
    return tuple(dataclasses.replace(record, **each) for record, each in zip(run.records, changes, strict=False))


def test_a_name_is_never_read_as_markup(run, draw):
    record = dataclasses.replace(run.records[0], model="[red]x[/red]")
    assert "[red]x[/red]" in draw(Comparison(dataclasses.replace(run, records=(record,))), 120)
