"""What a report says of a case on several GPUs, in every format."""

import dataclasses
import json

import pytest

from muse_bench.ledger import LEDGER_FIELDS, Ledger, RankRow
from muse_bench.record import RunFile, read_run_file
from muse_bench.report import formats
from muse_bench.report.sharding import rank_lines, rank_rows
from muse_bench.report.single import single

MIB = 1 << 20


def row(rank, peak, **changes):
    held = Ledger(parameters=(peak - 11) * MIB, communication=11 * MIB)
    return RankRow(
        rank=rank,
        peak_allocated_bytes=peak * MIB,
        cold_peak_allocated_bytes=(peak - 1) * MIB,
        peak_reserved_bytes=(peak + 1) * MIB,
        **{"ledger": held, **changes},
    )


@pytest.fixture
def sharded(make_record):
    rows = (row(0, 330), row(1, 270))
    return make_record(sharding="fsdp", ranks=2, of_ranks=rows, reduction=0.25, reduction_against="one GPU")


@pytest.fixture
def run_of(run):
    def make(*records):
        return RunFile(environment=run.environment, records=records)

    return make


def test_imbalance_is_of_the_largest_above_the_mean(sharded):
    """330 above a mean of 300."""
    assert rank_lines(sharded) == [
        "imbalance: the largest peak is 10.0 % above the mean of these ranks",
        "25.0 % less than the same on one GPU",
    ]


def test_what_takes_more_than_one_gpu_is_not_less_by_a_negative_share(sharded):
    """Replicas have buckets besides: it was '-17.0 % less'."""
    assert rank_lines(dataclasses.replace(sharded, reduction=-0.17))[1] == "17.0 % more than the same on one GPU"


def test_a_rank_without_a_ledger_has_no_sizes_of_its_parts(make_record):
    """Zeros would say that it holds nothing."""
    record = make_record(sharding="fsdp", ranks=2, of_ranks=(row(0, 330, ledger=None),))
    assert rank_rows(record) == [("0", "330.0", "329.0", "331.0", *["-"] * 6)]


@pytest.mark.parametrize("width", [80, 120])
def test_the_ranks_fit_a_terminal(sharded, run_of, draw, width):
    """Also those of the largest GPUs, whose figures were cut off in one wide table."""
    held = Ledger(**dict.fromkeys(LEDGER_FIELDS, 20_000 * MIB))
    large = row(7, 200_000, ledger=held, device_peak_bytes=250_000 * MIB)
    lines = draw(single(run_of(dataclasses.replace(sharded, of_ranks=(large,)))), width).splitlines()
    words = [line.split() for line in lines]
    assert ["7", "200,000.0", "199,999.0", "200,001.0", "250,000.0"] in words
    assert ["7", "20,000.0", "20,000.0", "20,000.0", "40,000.0", "20,000.0"] in words
    lines = draw(single(run_of(sharded)), width).splitlines()
    assert "imbalance: the largest peak is 10.0 % above the mean of these ranks" in lines
    assert "25.0 % less than the same on one GPU" in lines
    assert max(map(len, lines)) <= width


def test_every_format_has_the_ranks(sharded, run_of, make_record, tmp_path):
    """A case on one GPU beside it has none."""
    whole = run_of(sharded, make_record())
    found = formats()
    for text in (found["markdown"].render(whole), found["html"].render(whole)):
        assert text.count("Ranks of baseline, FSDP2 on 2 GPUs, MiB") >= 1
        assert "imbalance: the largest peak is 10.0 % above the mean" in text
        assert "329.0" in text
        assert "Ranks of baseline, -" not in text
    first, second = found["csv"].render(whole).splitlines()[1:3]
    assert ",fsdp,2," in first
    assert ",fsdp," not in second
    path = tmp_path / "a.json"
    path.write_text(found["json"].render(whole))
    assert read_run_file(path).records[0].of_ranks == sharded.of_ranks
    assert not json.loads(path.read_text())["records"][1]["of_ranks"]
