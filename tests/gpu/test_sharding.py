"""On two real GPUs: sharded cases are measured as they are predicted, alone and under torchrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from muse_bench.config import Case, Sizes
from muse_bench.execution.at_hand import choose_gpu
from muse_bench.execution.runner import Runner
from muse_bench.models.presets import find_preset
from muse_bench.record import Record, read_run_file

pytestmark = pytest.mark.gpu
RANKS = 2
LARGEST_ERROR = 0.03
SIZES = Sizes(vocab_size=20_000, d_model=512, n_layers=4, n_heads=8, seq_len=512)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def two_gpus() -> None:
    import torch

    if torch.cuda.device_count() < RANKS:
        pytest.skip(f"needs {RANKS} GPUs")


def one(case: Case, backend: str) -> Record:
    gpu = choose_gpu("auto").name if backend == "predict" else None
    with Runner(backend, gpu=gpu) as runner:  # type: ignore[arg-type]
        (record,) = runner.run([case])
    assert (record.status, record.reason) == ("ok", None)
    return record


@pytest.mark.parametrize("sharding", ["fsdp", "tensor", "replicas"])
def test_what_is_measured_is_within_three_per_cent_of_the_prediction(sharding: str) -> None:
    config = find_preset("baseline").configure(SIZES)
    case = Case(
        model="baseline",
        config=config,
        batch=2,
        seq=512,
        vocab_size=20_000,
        sharding=sharding,  # type: ignore[arg-type]
        ranks=RANKS,
    )
    measured, predicted = one(case, "cuda"), one(case, "predict")
    for figure in ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes"):
        assert getattr(predicted, figure) == pytest.approx(getattr(measured, figure), rel=LARGEST_ERROR), figure
    assert [row.rank for row in measured.of_ranks] == list(range(RANKS))
    for row in measured.of_ranks:
        assert row.ledger is not None
        assert row.ledger.total == row.peak_allocated_bytes
        assert abs(row.ledger.unattributed) <= row.peak_allocated_bytes / 100
    assert measured.step_time_seconds


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)]])
def test_it_runs_by_itself_and_under_torchrun(launcher: list[str], tmp_path: Path) -> None:
    """The other processes of torchrun leave; the first starts a fresh one for each rank."""
    sizes = ["--vocab", "10000", "--d-model", "256", "--layers", "2", "--heads", "4", "--seq", "256"]
    command = [sys.executable, *launcher, "-m", "muse_bench", "measure", "baseline", "--fsdp", *sizes]
    paths = os.pathsep.join((str(ROOT), str(ROOT / "kernels"), os.environ.get("PYTHONPATH", "")))
    finished = subprocess.run(
        [*command, "--backend", "cuda", "-o", "out.json"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=540,
    )
    assert finished.returncode == 0, finished.stderr[-2_000:]
    assert finished.stdout.count("imbalance: ") == 1
    sharded, alone = read_run_file(tmp_path / "out.json").records
    assert (sharded.sharding, sharded.ranks, len(sharded.of_ranks), alone.sharding) == ("fsdp", RANKS, RANKS, None)
    assert sharded.reduction is not None
