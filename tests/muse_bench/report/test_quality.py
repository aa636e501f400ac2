"""The tables of the quality bench, at the widths that people have."""

import csv
import dataclasses
import io

import pytest

from muse_bench.errors import UsageError
from muse_bench.quality.record import CorpusFacts, QualityRow, QualityRun, TokenizerFacts
from muse_bench.record import Environment
from muse_bench.report.charts import quality as charts
from muse_bench.report.charts.palette import LIGHT
from muse_bench.report.quality import quality_sheets, render_csv
from muse_bench.report.sheet import render_markdown, render_terminal

MIB = 1 << 20
SIZES = {"vocab_size": 10_000, "d_model": 512, "n_layers": 6}
ROW = QualityRow(
    model="baseline",
    config=SIZES,
    stage="final",
    seed=0,
    lr=1e-3,
    tokens=99_999_744,
    pool_tokens=60_000_000,
    batch=16,
    seq=512,
    dtype="fp32",
    optimizer="adamw",
    parameters=29_421_568,
    validation_tokens=999_936,
    tokens_per_second=251_000.0,
    peak_allocated_bytes=4_000 * MIB,
    gpu="NVIDIA H200",
    curve=((8_192, 9.2), (99_999_744, 2.9)),
    seconds=400.0,
)


def losses(row, *values):
    """A final run a seed."""
    return [
        dataclasses.replace(row, seed=seed, validation_loss=loss, bits_per_byte=loss / 2.5)
        for seed, loss in enumerate(values)
    ]


def sweep(row, **found):
    """A run a rate; a word in place of a loss is a status."""
    for rate, loss in found.items():
        ended = not isinstance(loss, str)
        changes = {"validation_loss": loss} if ended else {"status": loss, "reason": "the loss was not finite"}
        yield dataclasses.replace(
            row, stage="sweep", tokens=9_999_360, lr=float(rate.strip("r").replace("M", "-")), **changes
        )


@pytest.fixture
def quality_run():
    """A baseline, a smaller model that learns as much, one that diverges on a seed, one that never comes to an end."""
    small = {"dtype": "bf16", "optimizer": "adamw-fused", "parameters": 5_100_000, "seconds": 200.0}
    tuned = dataclasses.replace(
        ROW, **{**small, "model": "tuned", "lr": 3e-3, "peak_allocated_bytes": 900 * MIB, "tokens_per_second": 9e5}
    )
    ultra = dataclasses.replace(
        tuned, **{**small, "model": "ultra", "dtype": "fp16", "optimizer": "adamw", "skipped_steps": 12}
    )
    lost = dataclasses.replace(ultra, model="mine.py:build", config={}, peak_allocated_bytes=None)
    diverged = {"status": "diverged", "reason": "the loss was not finite after 81,920 tokens"}
    first, second, third = losses(ultra, 4.9, 5.1, 5.0)
    rows = [
        *sweep(ROW, r3eM4=3.4, r1eM3=3.2, r3eM3="diverged"),
        *losses(ROW, 2.90, 2.91, 2.93),
        *sweep(tuned, r3eM4=3.5, r1eM3=3.3, r3eM3=3.25),
        *losses(dataclasses.replace(tuned, notes=("trained without CUDA graphs: no\x1b[31m",)), 2.85, 2.88, 2.86),
        first,
        dataclasses.replace(second, validation_loss=None, bits_per_byte=None, tokens_per_second=None, **diverged),
        third,
        dataclasses.replace(lost, tokens_per_second=None, status="oom", reason="Tried to allocate 90.00 GiB"),
    ]
    return QualityRun(
        environment=Environment(muse_bench="0.1.0", torch="2.11.0", gpu="NVIDIA H200"),
        corpus=CorpusFacts(
            source="the installed Python",
            sha256="ef99808bc56fe8f5f6e288fc10591b35",
            files=13_249,
            train_files=13_004,
            train_bytes=229_531_760,
            validation_bytes=4_271_349,
        ),
        tokenizer=TokenizerFacts(vocab=10_000, words=10_000, sha256="a80e5ed3c164"),
        rows=tuple(rows),
    )


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal(quality_run, draw, snapshot, width):
    text = draw(render_terminal(*quality_sheets(quality_run)), width)
    assert max(map(len, text.splitlines())) <= width
    snapshot(f"quality_{width}.txt", text)


def test_markdown(quality_run, snapshot):
    snapshot("quality.md", render_markdown(*quality_sheets(quality_run)))


def test_a_run_that_broke_off_in_its_first_sweep_shows_the_sweep(quality_run):
    (sheet,) = quality_sheets(dataclasses.replace(quality_run, rows=quality_run.rows[:2]))
    assert sheet.rows == [("baseline", "3.4000", "3.2000")]


def test_several_passes_are_said(quality_run):
    row = dataclasses.replace(quality_run.rows[3], pool_tokens=20_000_000)
    sheets = quality_sheets(dataclasses.replace(quality_run, rows=(row,)))
    assert any("more than twice" in note for sheet in sheets for note in sheet.notes)


def test_the_baseline_can_be_chosen_and_must_be_there(quality_run):
    cells = quality_sheets(quality_run, "tuned")[0].rows
    assert cells[0][3].startswith("+0.05")
    with pytest.raises(UsageError, match="--baseline 'none'"):
        quality_sheets(quality_run, "none")


def test_csv_has_a_line_a_run_and_leaves_missing_values_empty(quality_run):
    lines = list(csv.DictReader(io.StringIO(render_csv(quality_run))))
    assert len(lines) == len(quality_run.rows)
    assert lines[0]["config"] == "vocab_size=10000 d_model=512 n_layers=6"
    assert lines[-1]["validation_loss"] == ""
    assert "curve" not in lines[0]


def test_training_losses_on_the_way_are_means_up_to_there_over_seeds(quality_run: QualityRun) -> None:
    """A point of another seed left out, one of the other end of the run, or the last one before the window."""
    curves = ([(100, 9.0), (200, 5.0), (960, 3.0), (1_000, 2.0)], [(100, 8.0), (200, 4.0), (960, 3.0), (1_000, 1.0)])
    rows = [
        dataclasses.replace(ROW, tokens=1_000, seed=seed, validation_loss=2.5, curve=tuple(curve))
        for seed, curve in enumerate(curves)
    ]
    sheet = quality_sheets(dataclasses.replace(quality_run, rows=rows))[1]
    assert sheet.headings == ("model", "100", "200", "300", "500", "700", "1.0 K")
    assert sheet.rows == [("baseline", "8.500", "4.500", "-", "-", "-", "2.250")]


def drawn(picture):
    """The rows of the chart's data."""
    return [row for rows in picture.specification(LIGHT)["datasets"].values() for row in rows]


def test_the_charts_have_each_model_that_came_to_an_end_once(quality_run):
    """Three seeds as three points, a model that never ended, or one without a peak at 0 MiB."""
    beside, falling = charts.pictures(quality_run)
    points = {row["group"]: (row["mib"], row["loss"]) for row in drawn(beside)}
    assert len(drawn(beside)) == len(points) == 3
    assert points["baseline"] == (4_000, pytest.approx((2.90 + 2.91 + 2.93) / 3))
    assert beside.title == quality_sheets(quality_run)[0].title
    assert {row["group"] for row in drawn(falling)} == {"baseline", "tuned", "ultra"}


def test_a_curve_is_the_mean_of_the_seeds_at_the_tokens_that_all_have(quality_run):
    curves = (((100, 9.0), (200, 4.0)), ((100, 7.0), (150, 6.0), (200, 2.0)))
    rows = [dataclasses.replace(row, curve=curve) for row, curve in zip(losses(ROW, 2.0, 2.1), curves, strict=True)]
    _, falling = charts.pictures(dataclasses.replace(quality_run, rows=tuple(rows)))
    assert {(row["x"], row["y"]) for row in drawn(falling)} == {(100, 8.0), (200, 3.0)}
    apart = [dataclasses.replace(rows[0], curve=((100, 9.0),)), dataclasses.replace(rows[1], curve=((150, 6.0),))]
    assert len(charts.pictures(dataclasses.replace(quality_run, rows=tuple(apart)))) == 1
