"""Bounds of what a prediction may really mean, wider where less is known."""

import pytest

from muse_bench.analysis.interval import device_interval

MIB = 1 << 20


@pytest.mark.parametrize(
    ("source", "lower", "upper", "said"),
    [
        ("measured: by NVML", 920 + 484, 1_080 + 516, "context -16 to +16 MiB, measured"),
        ("estimated: from others", 920 + 372, 1_080 + 756, "context -128 to +256 MiB, estimated"),
        (None, 920 + 372, 1_080 + 756, "estimated"),
    ],
)
def test_a_context_that_was_measured_is_known_better(make_record, source, lower, upper, said):
    """A record that does not say where its context is from is taken for the worse."""
    sizes = {"peak_reserved_bytes": 1_000 * MIB, "device_peak_bytes": 1_500 * MIB}
    found = device_interval(make_record(context_source=source, **sizes))
    assert (found.lower_bytes, found.upper_bytes) == (lower * MIB, upper * MIB)
    assert said in found.source


def test_a_small_context_is_not_less_than_nothing(make_record):
    found = device_interval(make_record(peak_reserved_bytes=100 * MIB, device_peak_bytes=150 * MIB))
    assert found.lower_bytes == 92 * MIB


@pytest.mark.parametrize(
    "changes", [{"provenance": "measured"}, {"device_peak_bytes": None}, {"peak_reserved_bytes": None}]
)
def test_what_was_not_predicted_has_none(make_record, changes):
    assert device_interval(make_record(**changes)) is None
