"""The waterfall: savings add up to the whole to the byte, also over steps that failed, and never over protocols."""

import pytest

from muse_bench.analysis.ablation import total_saved, waterfall
from muse_bench.errors import UsageError
from muse_bench.models.ablation import route

PEAKS = (1_000_003, 500_001, 510_000, 77)


@pytest.fixture
def fall(make_record):
    def make(*peaks, **changes):
        names = route("baseline", "tuned")
        return [
            make_record(name, peak_allocated_bytes=peak, status="ok" if peak else "oom", **changes)
            for name, peak in zip(names, peaks, strict=False)
        ]

    return make


def test_savings_add_up_to_the_whole(fall):
    falls = waterfall(fall(*PEAKS))
    assert [one.saved_bytes for one in falls] == [None, 500_002, -9_999, 509_923]
    assert total_saved(falls) == PEAKS[0] - PEAKS[-1]
    assert sum(one.share or 0 for one in falls) == pytest.approx(falls[-1].reduction)
    assert [one.label for one in falls] == ["baseline", "dtype", "embedding and head", "fused loss"]
    assert falls[1].changes == "dtype=bf16"


def test_what_a_failed_step_would_have_saved_goes_to_the_next(fall):
    falls = waterfall(fall(1_000, None, 600, 100))
    assert [one.saved_bytes for one in falls] == [None, None, 400, 500]
    assert total_saved(falls) == 900


def test_without_a_first_peak_there_is_nothing_to_subtract_from(fall):
    falls = waterfall(fall(None, 600, 100))
    assert [one.saved_bytes for one in falls] == [None, None, None]
    assert total_saved(falls) is None


def test_nothing_is_subtracted_between_protocols(fall):
    rows = [*fall(1_000)[:1], *fall(1_000, 500, mode="inference")[1:]]
    with pytest.raises(UsageError, match="mode is inference here and train there"):
        waterfall(rows)
