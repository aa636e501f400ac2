"""On a real GPU: the numbers agree with each other and with what other tools measured."""

import dataclasses
import pickle
from pathlib import Path

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.execution.runner import Runner
from muse_bench.ledger import LEDGER_FIELDS
from muse_bench.models.presets import find_preset
from muse_bench.record import Record

pytestmark = pytest.mark.gpu
MIB = 1 << 20
SIZES = Sizes(vocab_size=10_000, d_model=512, n_layers=6, n_heads=8, seq_len=512)


def case_of(name: str, mode: str, **changes: object) -> Case:
    preset = find_preset(name)
    case = Case(
        model=name,
        config=preset.configure(SIZES),
        mode=mode,  # type: ignore[arg-type]
        dtype=preset.dtype,
        batch=2,
        seq=512,
        vocab_size=10_000,
        optimizer=preset.optimizer,
        update=preset.update,
        execution=preset.execution,
        micro_batch=preset.micro_batch,
    )
    return dataclasses.replace(case, **changes)  # type: ignore[arg-type]


def measured(name: str, mode: str, snapshot: Path | None = None, **changes: object) -> Record:
    case = case_of(name, mode, **changes)
    with Runner("cuda", workspace=case.workspace, snapshot=snapshot) as runner:
        (record,) = runner.run([case])
    return record


def predicted(name: str, mode: str) -> Record:
    with Runner("predict", gpu="h200") as runner:
        (record,) = runner.run([case_of(name, mode)])
    return record


@pytest.mark.parametrize("name", ["encoder", "baseline", "tuned", "ultra"])
def test_the_ledger_closes(name: str) -> None:
    """Every byte of the peak has a name, but for one in a hundred at most."""
    record = measured(name, "train")
    assert record.ledger is not None
    assert record.peak_allocated_bytes is not None
    assert record.ledger.total == record.peak_allocated_bytes
    assert abs(record.ledger.unattributed) <= 0.01 * record.peak_allocated_bytes


def test_a_snapshot_has_stacks_and_the_ledger_still_closes(tmp_path: Path) -> None:
    """The file is the one written just now, so that reading it runs nothing of a stranger's."""
    record = measured("ultra", "train", snapshot=tmp_path / "a.pickle")
    assert record.ledger is not None
    assert not any("snapshot" in note for note in record.notes), record.notes
    assert record.peak_allocated_bytes is not None
    assert abs(record.ledger.unattributed) <= 0.01 * record.peak_allocated_bytes
    snapshot = pickle.loads((tmp_path / "a.pickle").read_bytes())
    traced = next(entries for entries in snapshot["device_traces"] if entries)
    assert any(entry.get("frames") for entry in traced)


def test_the_reports_baseline_comes_out() -> None:
    """440.01 MiB without workspaces, on any GPU: the activations do not depend on it."""
    record = measured("encoder", "forward-backward", workspace="off")
    assert record.peak_allocated_bytes == pytest.approx(440.01 * MIB, rel=0.005)


def test_ultra_saves_what_the_reports_own_code_saves() -> None:
    encoder = measured("encoder", "forward-backward", workspace="off").peak_allocated_bytes
    ultra = measured("ultra", "forward-backward", workspace="off").peak_allocated_bytes
    assert encoder is not None
    assert ultra is not None
    assert 1 - ultra / encoder >= 0.846


def test_host_memory_is_what_a_prediction_says() -> None:
    """Weights, state, and the inputs of two halves of six blocks in bf16; a graph's capture must not pin them again."""
    record = measured("muse", "train")
    assert record.host_bytes is not None
    assert record.host_bytes["checkpoints"] == 2 * 6 * 2 * 512 * 512 * 2
    assert record.host_bytes == predicted("muse", "train").host_bytes


@pytest.mark.parametrize(
    ("name", "mode"), [("baseline", "forward-backward"), ("tuned", "inference"), ("muse", "train")]
)
def test_each_part_of_the_ledger_is_what_a_prediction_says(name: str, mode: str) -> None:
    """Peaks that agree to the byte hid outputs that were saved in one ledger, and temporary in the other."""
    found, told = measured(name, mode), predicted(name, mode)
    assert found.ledger is not None
    assert told.ledger is not None
    for part in LEDGER_FIELDS:
        assert getattr(found.ledger, part) == pytest.approx(getattr(told.ledger, part), abs=MIB), part


def test_a_case_that_does_not_fit_is_a_row() -> None:
    record = measured("baseline", "train", batch=1 << 16)
    assert record.status == "oom"
