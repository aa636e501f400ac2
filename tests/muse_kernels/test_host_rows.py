"""Rows of a table in host memory; on a GPU it is tests/gpu/test_streaming.py that reads them."""

import pytest
import torch

from muse_kernels import host_rows


def test_rows_come_in_the_order_of_the_ids() -> None:
    table = torch.randn(5, 3)
    ids = torch.tensor([[4, 0], [4, 2]])
    torch.testing.assert_close(host_rows(table, ids), table[ids], rtol=0, atol=0)


def test_a_table_that_does_not_lie_together_is_refused() -> None:
    with pytest.raises(ValueError, match="lie together on the CPU"):
        host_rows(torch.randn(3, 5).t(), torch.tensor([0]))
    with pytest.raises(ValueError, match="on meta"):
        host_rows(torch.randn(3, 5, device="meta"), torch.tensor([0]))
