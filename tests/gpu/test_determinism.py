"""On a real GPU: a case that is measured five times has the same peak to the byte."""

import dataclasses

import pytest

from muse_bench.analysis.repeats import LEDGER, merge_repeats, spreads
from muse_bench.config import Case, Sizes
from muse_bench.execution.runner import Runner
from muse_bench.models.presets import find_preset

pytestmark = pytest.mark.gpu
RUNS = 5
SIZES = Sizes(vocab_size=10_000, d_model=256, n_layers=2, n_heads=4, seq_len=256)
TO_THE_BYTE = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes")


@pytest.mark.parametrize("name", ["baseline", "ultra"])
def test_five_trainings_have_one_peak(name: str) -> None:
    """What the allocator counts and each line of the ledger; the device is sampled, and time varies."""
    preset = find_preset(name)
    case = Case(
        model=name,
        config=preset.configure(SIZES),
        dtype=preset.dtype,
        batch=2,
        seq=256,
        vocab_size=10_000,
        optimizer=preset.optimizer,
        micro_batch=preset.micro_batch,
    )
    with Runner("cuda") as runner:
        records = list(runner.run([dataclasses.replace(case, repeat=index) for index in range(RUNS)]))
    (record,) = merge_repeats(records)
    assert [one.status for one in record.repeats] == RUNS * ["ok"]
    found = {one.figure: one for one in spreads(record)}
    assert {found[figure].runs for figure in TO_THE_BYTE} == {RUNS}
    kept = [one for one in found.values() if one.figure in TO_THE_BYTE or one.figure.startswith(LEDGER)]
    assert [one for one in kept if one.varies] == []
