"""Windows cover the text once a pass, in an order that the seed alone decides."""

import array

import pytest
import torch

from muse_bench.quality.batches import read_ids, window_starts, windows_at


def test_a_pass_shares_no_input_between_windows():
    starts = window_starts(1_000, 10, 98, seed=0)
    assert len(set(starts.tolist())) == 98
    assert len({start % 10 for start in starts.tolist()}) == 1
    assert max(starts.tolist()) + 10 < 1_000


def test_passes_begin_at_other_offsets_and_in_other_orders():
    starts = window_starts(1_000, 10, 300, seed=0).tolist()
    assert len({start % 10 for start in starts}) > 1
    assert starts == window_starts(1_000, 10, 300, seed=0).tolist()
    assert starts != window_starts(1_000, 10, 300, seed=1).tolist()


def test_one_window_is_enough_of_a_text():
    assert window_starts(11, 10, 3, seed=0).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("vocab", "code"), [(65_536, "H"), (70_000, "I")])
def test_ids_come_back_as_they_were_written(tmp_path, vocab, code):
    numbers = array.array(code, [0, 1, vocab - 1, 40_000, 5])
    (tmp_path / "ids").write_bytes(numbers.tobytes())
    ids = read_ids(tmp_path / "ids", 5, vocab, torch.device("cpu"))
    inputs, targets = windows_at(ids, torch.tensor([0, 1]), 3)
    assert inputs.tolist() == [[0, 1, vocab - 1], [1, vocab - 1, 40_000]]
    assert targets.tolist() == [[1, vocab - 1, 40_000], [vocab - 1, 40_000, 5]]
    assert inputs.dtype == torch.int64
