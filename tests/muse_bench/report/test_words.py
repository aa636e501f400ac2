"""Figures as text, and notes that are said once."""

import pytest

from muse_bench.report import words


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "-"), (0, "0"), (999, "999"), (616_088, "616.1 K"), (322_512_896, "322.5 M"), (99_900_000_000, "99.9 B")],
)
def test_counts(count, text):
    assert words.count_text(count) == text


@pytest.mark.parametrize(("seconds", "text"), [(None, "-"), (0.0, "0.0 ms"), (0.1234, "123.4 ms"), (12.34, "12.3 s")])
def test_durations(seconds, text):
    assert words.duration_text(seconds) == text


def test_a_missing_figure_is_a_dash_and_zero_is_zero():
    assert (words.percent_text(None), words.percent_text(0.0)) == ("-", "0.0 %")
    assert (words.rate_text(None), words.rate_text(0.0)) == ("-", "0")


def test_text_from_files_cannot_steer_the_terminal():
    assert words.plain("a\x1b[2J\r\nb\x07") == "a?[2J b?"


def test_a_note_about_every_record_is_said_once_and_others_name_theirs(make_record):
    records = [
        make_record(notes=("all", "mine")),
        make_record("ultra", verdict="PASS", notes=("all", "verdict: PASS: fits")),
    ]
    assert words.notes(records) == ["all", "baseline: mine"]


def test_one_model_in_several_modes_is_told_apart_by_them(make_record):
    records = [
        make_record("streamed", mode="inference", link_seconds=0.4, notes=("mine",)),
        make_record("streamed", mode="train", status="oom"),
    ]
    assert words.notes(records) == ["streamed (inference): mine"]
    assert words.peculiarities(records) == ["streamed (inference): at least 400.0 ms a step over the host link"]
    assert words.failures(records) == ["streamed (train) ran out of memory"]


def test_only_models_that_cross_the_link_have_its_time_beside_them(make_record):
    """In comparisons and verdicts, whatever columns there is room for."""
    crossing = make_record("muse", host_bytes={"weights": 1 << 30}, link_seconds=0.4)
    none = make_record("ultra", to_device_bytes=0, to_host_bytes=0)
    assert words.peculiarities([none, crossing]) == [
        "muse: weights in host memory, at least 400.0 ms a step over the host link"
    ]
