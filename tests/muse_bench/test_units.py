"""Bytes to text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muse_bench.errors import UsageError
from muse_bench.units import (
    GIB,
    KIB,
    MIB,
    format_bytes,
    format_count,
    format_mib,
    format_shape,
    parse_bytes,
    parse_count,
    parse_percent,
    parse_shape,
)

LARGEST = (1 << 63) - 1  # what a record can hold


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("8GiB", 8 * GIB),
        ("8 gib", 8 * GIB),
        (" 512 MiB\n", 512 * MIB),
        ("1.5KIB", 1_536),
        ("0.5 TiB", 512 * GIB),
        ("8589934592", 8 * GIB),
        ("17 b", 17),
        ("1", 1),
        ("1.9", 1),
    ],
)
def test_text_becomes_bytes(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "GiB", "8 GB", "8G", "-8GiB", "+1", "1e9", "8,0GiB", ".5GiB", "1.GiB", "0", "0.0GiB", "0.4"),
        *("nan", "inf", "0x10", "8 GiB 4", "8\x00GiB", "\u0663GiB"),
    ],
)
def test_what_is_no_size_is_refused_by_name(text):
    with pytest.raises(UsageError) as caught:
        parse_bytes(text)
    assert f"'{text}' is not a size" in str(caught.value)


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5_000 + "TiB", str(LARGEST + 1), "8388608TiB"])
def test_a_size_that_no_record_can_hold_is_refused(text):
    """A float overflows at 309 digits, int() refuses 4,301 of them, and 2^63 bytes cannot be read back."""
    with pytest.raises(UsageError):
        parse_bytes(text)


@given(st.integers(1, LARGEST))
def test_whole_bytes_are_exact(count):
    """By way of a float every count above 2^53 would be rounded."""
    assert parse_bytes(str(count)) == count


@given(st.integers(1, 9 * 1_024), st.sampled_from([("KiB", KIB), ("MiB", MIB), ("GiB", GIB)]))
def test_a_unit_multiplies(number, unit):
    assert parse_bytes(f"{number}{unit[0]}") == number * unit[1]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (None, "-"),
        (0, "0.0 MiB"),
        (8_519_680, "8.1 MiB"),
        (10 * GIB - MIB, "10,239.0 MiB"),
        (10 * GIB, "10.00 GiB"),
        (-3 * MIB, "-3.0 MiB"),
        (-20 * GIB, "-20.00 GiB"),
        (100 * GIB + GIB // 2, "100.50 GiB"),
    ],
)
def test_bytes_become_text(count, text):
    """MiB below 10 GiB, GiB from there, by magnitude; a dash, not a zero, for what is missing."""
    assert format_bytes(count) == text


def test_decimals_are_one_more_for_gib():
    assert format_bytes(MIB + MIB // 4, decimals=2) == "1.25 MiB"
    assert format_bytes(16 * GIB, decimals=0) == "16.0 GiB"


@pytest.mark.parametrize(("count", "text"), [(None, "-"), (0, "0.0"), (1_536 * MIB, "1,536.0"), (20 * GIB, "20,480.0")])
def test_a_column_of_mib_has_bare_numbers(count, text):
    assert format_mib(count) == text


@given(st.integers(1, 9_999))
def test_what_is_printed_in_mib_reads_back(mebibytes):
    """Both sides mean 2^20 by MiB."""
    assert parse_bytes(format_bytes(mebibytes * MIB).replace(",", "")) == mebibytes * MIB


@pytest.mark.parametrize(
    ("text", "fraction"), [("10%", 0.1), ("0.1", 0.1), (" 5 % ", 0.05), ("0", 0.0), ("0%", 0.0), ("99.9%", 0.999)]
)
def test_a_share_is_a_fraction(text, fraction):
    assert parse_percent(text) == pytest.approx(fraction, rel=1e-15)


@pytest.mark.parametrize("text", ["", "%", "100%", "1", "10", "-1%", "ten", "10%%", "nan", "inf", "9" * 400, "1e-1"])
def test_what_is_no_share_is_refused_by_name(text):
    """'10' means neither ten times nor ten percent."""
    with pytest.raises(UsageError) as caught:
        parse_percent(text)
    assert f"'{text}' is not a share" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "count"),
    [("100M", 100_000_000), ("2.5k", 2_500), (" 1B ", 10**9), ("20_000", 20_000), ("1", 1)],
)
def test_text_becomes_a_count(text, count):
    assert parse_count(text) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5", "0.0001K", "many", "1e6", "10 MiB", "nan", "9999999B"])
def test_what_is_no_count_is_refused_by_name(text):
    with pytest.raises(UsageError, match="is not a count"):
        parse_count(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1k"),
        (8_190_000_000, "8.1b"),
        (44_799_999_999, "44.7b"),
        (199_999_999_999, "199b"),
    ],
)
def test_a_count_is_rounded_down_and_reads_again(count, text):
    assert format_count(count) == text
    assert count == 0 or parse_count(text) <= count


def test_a_shape_reads_back():
    assert parse_shape("3x224x224") == parse_shape("3X224X224") == (3, 224, 224)
    assert format_shape(parse_shape("16000")) == "16000"


@pytest.mark.parametrize("text", ["", "x", "3x", "0x8", "3x-1", "3,224", "3 x 8", "1.5", "3x8x"])
def test_what_is_no_shape_is_refused_by_name(text):
    with pytest.raises(UsageError, match=f"'{text}' is not a shape: write the sizes of one sample"):
        parse_shape(text)
