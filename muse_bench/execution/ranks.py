"""Measures a sharded case: a process for each rank on a GPU of its own, all asked at once. Imports no torch."""

import concurrent.futures
import contextlib
import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from muse_bench.config import Case
from muse_bench.errors import UsageError
from muse_bench.execution.blank import blank_record
from muse_bench.execution.fill import closed, explained, noted, with_device
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.execution.protocol import TIMING, Request, Result, Task
from muse_bench.ledger import Ledger, RankRow
from muse_bench.measure.nvml import DeviceView, NvmlSampler
from muse_bench.record import Record

Say = Callable[[str], None]


class RankFailed(Exception):  # noqa: N818
    """What a rank answered in place of figures, or how its process ended: a status and a reason."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Ranks:
    """Runs tasks of a sharded case in as many fresh processes as it has ranks."""

    def __init__(self, case: Case, variables: dict[str, str | None], timeout_seconds: float | None) -> None:
        # The first rank listens for the others, also under torchrun, whose agent listens for its own processes.
        self._variables = {**variables, "TORCHELASTIC_USE_AGENT_STORE": None}
        self._case, self._timeout_seconds = case, timeout_seconds

    def ask(self, task: Task, say: Say, samplers: Sequence[NvmlSampler] = ()) -> list[dict[str, Any]]:
        """Each rank's figures. The others are ended when one fails, for they would wait for it.

        Raises: RankFailed; UsageError for what the user has to mend.
        """
        workers = [WorkerProcess(self._variables) for _ in range(self._case.ranks)]
        try:
            for sampler, worker in zip(samplers, workers, strict=False):
                sampler.watch(worker.pid)
            return self._ask_all(task, workers, say, samplers)
        finally:
            for worker in workers:
                worker.close()

    def _ask_all(
        self, task: Task, workers: Sequence[WorkerProcess], say: Say, samplers: Sequence[NvmlSampler]
    ) -> list[dict[str, Any]]:
        meeting_point = _free_address()

        def ask(rank: int) -> Result:
            def follow(phase: str) -> None:
                if phase == TIMING and samplers:
                    samplers[rank].stop()
                if rank == 0:
                    say(phase)

            request = Request(task=task, case=self._case.to_json(), rank=rank, meeting_point=meeting_point)
            return workers[rank].ask(request, self._timeout_seconds, follow)

        with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
            asked = {pool.submit(ask, rank): rank for rank in range(len(workers))}
            found: dict[int, dict[str, Any]] = {}
            try:
                for one in concurrent.futures.as_completed(asked):
                    found[asked[one]] = _figures(asked[one], one)
            except BaseException:
                for worker in workers:
                    worker.kill()
                raise
        return [found[rank] for rank in range(len(workers))]


def check_gpus(case: Case, there: int) -> None:
    """Raises: UsageError where ranks would share a GPU, before a process is started for each."""
    if case.ranks > there:
        raise UsageError(
            f"{case.ranks} ranks need as many GPUs, and there are {there}: give fewer --ranks, or --backend predict"
        )


def measure_ranks(
    case: Case, variables: dict[str, str | None], timeout_seconds: float | None, say: Say, gpu: str | None
) -> tuple[Record, Mapping[str, Any]]:
    """The record of a sharded case on this machine's GPUs, and what the environment says of the first of them.

    Raises: UsageError for what the user has to mend.
    """
    record, ranks = blank_record(case, "measured", gpu), Ranks(case, variables, timeout_seconds)
    with contextlib.ExitStack() as inside:
        samplers = [inside.enter_context(NvmlSampler(rank)) for rank in range(case.ranks)]
        try:
            answers = ranks.ask("peaks", say, samplers)
        except RankFailed as failed:
            return dataclasses.replace(record, status=failed.status, reason=str(failed)), {}  # type: ignore[arg-type]
        views = [sampler.stop() for sampler in samplers]
    facts = answers[0]["gpu"]
    record, rows = _of_worst(dataclasses.replace(record, gpu=facts["gpu"]), answers, views, case)
    try:
        ledgers = ranks.ask("ledger", lambda phase: say(f"instrumented run: {phase}"))
    except RankFailed as failed:
        return noted(dataclasses.replace(record, of_ranks=tuple(rows)), f"no ledger: {failed}"), facts
    worst = _worst(answers)
    rows = [_with_ledger(row, values) for row, values in zip(rows, ledgers, strict=True)]
    return dataclasses.replace(closed(explained(record, ledgers[worst])), of_ranks=tuple(rows)), facts


def with_ranks(record: Record, of_ranks: Mapping[str, Mapping[str, Any]]) -> Record:
    """A prediction with the rows of the ranks that were traced, by their numbers; NCCL's own memory nobody predicts."""
    rows = tuple(
        RankRow(
            rank=int(rank),
            peak_allocated_bytes=values["steady_peak_allocated_bytes"],
            cold_peak_allocated_bytes=values["cold_peak_allocated_bytes"],
            peak_reserved_bytes=values["peak_reserved_bytes"],
            ledger=Ledger(**values["ledger"]),
        )
        for rank, values in of_ranks.items()
    )
    record = dataclasses.replace(record, of_ranks=rows, device_peak_bytes=None, device_peak_provenance=None)
    return noted(record, "the whole device is not predicted: NCCL takes memory of its own there")


def _figures(rank: int, asked: "concurrent.futures.Future[Result]") -> dict[str, Any]:
    try:
        result = asked.result()
    except WorkerDied as error:
        raise RankFailed("crashed", f"rank {rank}: {error}") from error
    if result["status"] == "usage":
        raise UsageError(str(result["reason"]))
    if result["status"] != "ok":
        raise RankFailed(result["status"], f"rank {rank}: {result['reason']}")
    return result["values"]


def _worst(answers: Sequence[Mapping[str, Any]]) -> int:
    return max(range(len(answers)), key=lambda rank: int(answers[rank]["peaks"]["peak_allocated_bytes"]))


def _of_worst(
    record: Record, answers: Sequence[Mapping[str, Any]], views: Sequence[DeviceView], case: Case
) -> tuple[Record, list[RankRow]]:
    """The figures of the rank that took the most, with the longest time and the rate of all; and each rank's peaks."""
    peaks = [answer["peaks"] for answer in answers]
    worst = _worst(answers)
    record = with_device(dataclasses.replace(record, **peaks[worst]), views[worst])
    seconds = max(one["step_time_seconds"] for one in peaks)
    rates = [one["tokens_per_second"] for one in peaks]
    rate = None if None in rates else min(rates) * (1 if case.sharding == "tensor" else case.ranks)
    rows = [
        RankRow(
            rank=rank,
            peak_allocated_bytes=one["peak_allocated_bytes"],
            cold_peak_allocated_bytes=one["cold_peak_allocated_bytes"],
            peak_reserved_bytes=one["peak_reserved_bytes"],
            device_peak_bytes=view.process_peak_bytes,
        )
        for rank, (one, view) in enumerate(zip(peaks, views, strict=True))
    ]
    return dataclasses.replace(record, step_time_seconds=seconds, tokens_per_second=rate), rows


def _with_ledger(row: RankRow, values: Mapping[str, Any]) -> RankRow:
    ledger = Ledger(**values["ledger"])
    rest = row.peak_allocated_bytes - ledger.total
    return dataclasses.replace(row, ledger=dataclasses.replace(ledger, unattributed=ledger.unattributed + rest))


def _free_address() -> str:
    """Where the first rank can listen: a port that nobody has now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{one.getsockname()[1]}"
