"""What is known: the records of this run, saved measurements, trainings and floors, looked up by question."""

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from muse_bench.analysis.claims.question import Question
from muse_bench.analysis.floor import Floor
from muse_bench.analysis.quality import Comparison, compare_quality
from muse_bench.quality.record import QualityRun, merged
from muse_bench.record import Record, RunFile
from muse_bench.units import GIB


@dataclass(frozen=True, slots=True)
class Rows:
    """Records of one file and one setting of workspaces, in the order asked; and where they are from."""

    records: tuple[Record, ...]
    origin: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """`run` is this run's records; `saved` are measured; `floors` are of `ultimate`, with all logits and with the last.

    `workspace_bytes` is what one handle of cuBLAS holds on the GPU that the run is about.
    """

    run: RunFile
    saved: tuple[RunFile, ...] = ()
    trained: tuple[QualityRun, ...] = ()
    floors: tuple[Floor, Floor] | None = None
    workspace_bytes: int = 0
    settings: tuple[str, ...] = field(default=("off", "default"))

    def asked(self, questions: Sequence[Question]) -> Rows | None:
        """This run's records of all these."""
        return _all_of(questions, self.run, None)

    def timed(self, questions: Sequence[Question]) -> Rows | None:
        """Records with times: this run's, or saved ones."""
        return next((rows for rows in self._sources(questions) if _has_times(rows)), None)

    def best(self, questions: Sequence[Question]) -> Rows | None:
        """What was measured, without workspaces if it was; else this run's records."""
        return next(self._sources(questions, last=True), None) if questions else None

    def perplexities(self, model: str, against: str) -> tuple[float, float] | None:
        """Those of both, each at the best of its rates, after the most tokens that both were trained on alike."""
        found = []
        for run in merged(self.trained):
            for comparison in compare_quality(run.rows, against):
                ours, theirs = (_perplexity(comparison, name) for name in (model, against))
                if ours is not None and theirs is not None:
                    found.append((comparison.first.tokens, (ours, theirs)))
        return max(found)[1] if found else None

    def streamed(self) -> Record | None:
        """The largest model with weights in host memory that was trained within 8 GiB, and measured."""
        trained = [
            record
            for run in self.saved
            for record in run.records
            if (record.status, record.mode, record.model, record.verdict) == ("ok", "train", "streamed", "PASS")
            and (record.budget_bytes or 0) <= 8 * GIB
        ]
        return max(trained, key=lambda record: record.parameters or 0, default=None)

    def _sources(self, questions: Sequence[Question], *, last: bool = False) -> Iterator[Rows]:
        """This run's records first, or `last`."""
        ours = [] if (own := self.asked(questions)) is None else [own]
        saved = [
            rows
            for setting in self.settings
            for run in self.saved
            if (rows := _all_of(questions, run, setting)) is not None
        ]
        return iter([*saved, *ours] if last else [*ours, *saved])


def _all_of(questions: Sequence[Question], run: RunFile, setting: str | None) -> Rows | None:
    """The records of one file that answer all questions; None where one is missing."""
    found = []
    for question in questions:
        record = next((one for one in run.records if _answers(one, question, setting)), None)
        if record is None:
            return None
        found.append(record)
    return Rows(tuple(found), origin_of(run, found[0])) if found else None


def _answers(record: Record, question: Question, setting: str | None) -> bool:
    suits = setting is None or record.workspace_setting == setting
    return suits and record.status == "ok" and question.is_answered_by(record)


def _has_times(rows: Rows) -> bool:
    return all(record.step_time_seconds for record in rows.records)


def _perplexity(comparison: Comparison, model: str) -> float | None:
    """Of the mean loss over the seeds, at the rate where that is least."""
    losses: dict[float, list[float]] = {}
    for row in (row for one in comparison.summaries if one.model == model for row in one.ended):
        if row.validation_loss is not None:
            losses.setdefault(row.lr, []).append(row.validation_loss)
    return math.exp(min(map(statistics.fmean, losses.values()))) if losses else None


def origin_of(run: RunFile, record: Record) -> str:
    """How a record came about, and for which GPU."""
    return f"{record.provenance}, {record.gpu or run.environment.gpu or 'no GPU'}"
