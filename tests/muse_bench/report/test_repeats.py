"""What a report says of a case that ran several times, in every format."""

import csv
import dataclasses
import io

import pytest

from muse_bench.analysis.repeats import merge_repeats
from muse_bench.record import RunFile
from muse_bench.report import formats
from muse_bench.report.repeats import repeat_lines, repeat_text
from muse_bench.report.single import single
from muse_bench.report.table import Comparison

MIB = 1 << 20


@pytest.fixture
def several(make_record):
    """Runs of a measured case with these figures, one of each a run, as one record."""

    def make(**figures):
        rows = [dict(zip(figures, values, strict=True)) for values in zip(*figures.values(), strict=True)]
        return merge_repeats([make_record(provenance="measured", **row) for row in rows])[0]

    return make


def test_what_is_the_same_is_said_to_be_so(several):
    text = repeat_text(several(peak_allocated_bytes=5 * [300 * MIB]))
    assert text.startswith("5 runs: peak, cold peak, reserved, ")
    assert text.endswith(" and every line of the ledger the same to the byte")


def test_what_varies_is_named_with_its_ends(several):
    record = several(
        device_peak_bytes=(700 * MIB, 702 * MIB),
        device_peak_provenance=2 * ["sampled"],
        step_time_seconds=(0.0101, 0.0104),
    )
    text = repeat_text(record)
    assert "device (sampled) 700.0 MiB to 702.0 MiB, 2,097,152 bytes apart" in text
    assert "step time 10.1 ms to 10.4 ms" in text
    assert "device" not in text.partition("the same to the byte")[0]


def test_a_byte_is_not_rounded_away(several):
    assert "1 byte apart" in repeat_text(several(peak_allocated_bytes=(300 * MIB, 300 * MIB + 1)))


def test_a_line_of_the_ledger_that_varies_is_named_and_the_others_are_not_lost(several, make_record):
    ledger = make_record().ledger
    other = dataclasses.replace(ledger, workspace=ledger.workspace + 512)
    text = repeat_text(several(ledger=(ledger, other)))
    assert "workspace" in text.partition("the same to the byte")[2]
    assert "optimizer state" in text.partition("the same to the byte")[0]
    assert "every line" not in text


def test_a_figure_that_some_runs_lack_is_not_said_of_all(several):
    text = repeat_text(several(device_peak_bytes=(5, None, 8)))
    assert "bytes apart in 2 of them" in text


def test_failures_are_counted(several):
    text = repeat_text(several(status=("ok", "oom", "oom")))
    assert text.startswith("3 runs: 2 of them failed; ")


def test_the_models_are_named_unless_it_is_all_of_them(several, make_record):
    record = several(peak_allocated_bytes=2 * [300 * MIB])
    assert repeat_lines([record])[0].startswith("2 runs")
    assert repeat_lines([record, make_record("other")])[0].startswith(f"{record.model}: 2 runs")
    assert repeat_lines([make_record("other")]) == []


def test_every_format_carries_it(several, run, draw):
    record = several(device_peak_bytes=(700 * MIB, 702 * MIB))
    varied = RunFile(environment=run.environment, records=(record,))
    for name in ("markdown", "html"):
        assert "2,097,152 bytes apart" in formats()[name].render(varied)
    for shown in (single(varied), Comparison(varied)):
        assert "2,097,152 bytes apart" in " ".join(draw(shown, 80).split())
    (row,) = csv.DictReader(io.StringIO(formats()["csv"].render(varied)))
    assert (row["repeats"], row["spread_device_peak_bytes"], row["spread_ledger_parameters"]) == ("2", "2097152", "0")
    plain = csv.DictReader(io.StringIO(formats()["csv"].render(run)))
    assert not [name for name in plain.fieldnames if name.startswith("spread_")]
