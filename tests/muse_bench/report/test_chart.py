"""The timeline's bars keep the peak at any width."""

import pytest

from muse_bench.ledger import Ledger, TimelinePoint
from muse_bench.report.chart import ROWS, Timeline

MIB = 1 << 20


@pytest.fixture
def spiked() -> list[TimelinePoint]:
    """500 quiet moments with one spike."""
    sizes = [10] * 400 + [90] + [10] * 99
    return [TimelinePoint(phase="forward", ledger=Ledger(activations_saved=size * MIB)) for size in sizes]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_spike_of_one_moment_is_never_lost(spiked, draw, width):
    lines = draw(Timeline(spiked), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "peak 90.0 MiB" in lines[0]
    assert lines[1].count("░") == 1
    assert lines[1].index("░") == lines[0].index(" v") + 1


def test_the_bars_are_as_high_as_the_bytes(draw):
    points = [TimelinePoint(phase="forward", ledger=Ledger(parameters=size * MIB)) for size in (ROWS, 3)]
    bars = draw(Timeline(points), 80).splitlines()[1 : ROWS + 1]
    half = len(bars[-1]) // 2 + 3
    assert sum("█" in line[:half] for line in bars) == ROWS
    assert sum("█" in line[half:] for line in bars) == 3


def test_bands_are_stacked_in_the_ledgers_order(draw):
    points = [TimelinePoint(phase="forward", ledger=Ledger(parameters=MIB, gradients=MIB, inputs=MIB))]
    bars = draw(Timeline(points), 80).splitlines()[1 : ROWS + 1]
    assert [line.split()[-1][-1] for line in bars] == ["·"] * 3 + ["▓"] * 3 + ["█"] * 3


def test_a_terminal_without_unicode_gets_letters(spiked, draw):
    text = draw(Timeline(spiked), 80, encoding="ascii")
    assert "A activations" in text


def test_phases_are_named_under_their_part(draw):
    points = [TimelinePoint(phase=phase, ledger=Ledger(parameters=MIB)) for phase in ("forward", "backward")]
    assert "|forward" in draw(Timeline(points), 80).splitlines()[ROWS + 1]
    assert "|backward" in draw(Timeline(points), 80).splitlines()[ROWS + 1]


def test_a_step_that_holds_nothing_still_draws(draw):
    assert "peak 0.0 MiB" in draw(Timeline([TimelinePoint(phase="forward", ledger=Ledger())]), 80)
