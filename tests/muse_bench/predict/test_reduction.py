"""Scratch of reductions: what an H200's allocator recorded for sums over rows."""

import pytest

from muse_bench.predict.reduction import reduction_scratch

H200 = {"sm_count": 132, "threads_per_sm": 2_048}


@pytest.mark.parametrize(
    ("columns", "rows", "recorded"),
    [
        (128, 1_024, 1_048_576),
        (512, 1_024, 4_194_304),
        (1_536, 1_024, 12_582_912),
        (2_048, 1_024, 16_777_216),
        (10_000, 1_024, 81_920_000),
        (1_024, 2_048, 16_777_216),
        (3_072, 2_048, 50_331_648),
        (4_096, 2_048, 67_108_864),
        (512, 1_376, 5_767_168),
    ],
)
def test_a_sum_over_rows_takes_what_was_recorded(columns: int, rows: int, recorded: int) -> None:
    scratch = reduction_scratch(columns, rows, reduces_fastest=False, accumulator_bytes=4, **H200)
    assert scratch[0] == recorded


def test_few_rows_need_no_scratch() -> None:
    """A bias gradient over a few hundred rows is summed inside one block an output."""
    assert reduction_scratch(512, 300, reduces_fastest=False, accumulator_bytes=4, **H200) == ()


def test_a_whole_sum_has_one_partial_a_block() -> None:
    partial, semaphores = reduction_scratch(1, 10_240_000, reduces_fastest=True, accumulator_bytes=4, **H200)
    assert (partial, semaphores) == (4 * 132 * 4, 4)  # four blocks of 512 threads fit an SM


@pytest.mark.parametrize(("outputs", "inputs"), [(0, 5), (5, 0), (5, 1), (1, 1)])
def test_nothing_to_share_takes_nothing(outputs: int, inputs: int) -> None:
    assert reduction_scratch(outputs, inputs, reduces_fastest=True, accumulator_bytes=4, **H200) == ()
