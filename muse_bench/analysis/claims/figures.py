"""Figures: what can be found out about a claim, each from records, trainings or formulas, or None without them.

Values are in the unit of the claim: MiB, percent, times, millions of parameters. `questions` are the cases it needs.
"""

import statistics
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from muse_bench.analysis.claims.evidence import Evidence, Rows
from muse_bench.analysis.claims.question import Question
from muse_bench.analysis.sweep import along, exponent, step_of
from muse_bench.config import Sizes
from muse_bench.ledger import LEDGER_FIELDS
from muse_bench.models.parameters import count_parameters
from muse_bench.models.variants import find_model
from muse_bench.record import Record
from muse_bench.units import MIB

COUNTED = "counted"
TRAINED = "trained"
Side = Literal["theirs", "sound", "ours"]


@dataclass(frozen=True, slots=True)
class Found:
    """A value, a number or a word, and where it is from."""

    value: float | str
    origin: str


class Figure(ABC):
    """One thing to find out."""

    @property
    def questions(self) -> Sequence[Question]:
        """The cases whose records it needs."""
        return ()

    @abstractmethod
    def find(self, evidence: Evidence, side: Side) -> Found | None:
        """The value, from this run for `theirs`, else from what was measured if anything was."""


class Recorded(Figure):
    """A figure of the records of its questions."""

    timed = False

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        """As the figure's `of` says."""
        if self.timed:
            rows = evidence.timed(self.questions)
        else:
            rows = evidence.asked(self.questions) if side == "theirs" else evidence.best(self.questions)
        value = None if rows is None else self.of(rows, evidence)
        return None if rows is None or value is None else Found(value, rows.origin)

    @abstractmethod
    def of(self, rows: Rows, evidence: Evidence) -> float | str | None:
        """The value of these records, in the order of the questions."""


@dataclass(frozen=True, slots=True)
class OfOne(Recorded):
    """A figure of one record."""

    question: Question

    @property
    def questions(self) -> Sequence[Question]:
        """The question alone."""
        return (self.question,)


@dataclass(frozen=True, slots=True)
class OfTwo(Recorded):
    """A figure of a model's record and another's, of the same question."""

    question: Question
    against: str

    @property
    def questions(self) -> Sequence[Question]:
        """The question about both models."""
        return (self.question, self.question.of(self.against))


@dataclass(frozen=True, slots=True)
class Peak(OfOne):
    """The most that is allocated at once, MiB; `apart` leaves out the libraries' workspaces."""

    apart: bool = False

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        return _peak(rows.records[0], self.apart)


@dataclass(frozen=True, slots=True)
class Reduction(OfTwo):
    """How much less a model's peak is than another's in the same mode, percent."""

    apart: bool = False

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        ours, theirs = (_peak(record, self.apart) for record in rows.records)
        return None if ours is None or not theirs else 100 * (1 - ours / theirs)


@dataclass(frozen=True, slots=True)
class Saved(OfTwo):
    """How much a model's peak is below another's, MiB."""

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        ours, theirs = (_peak(record, apart=False) for record in rows.records)
        return None if ours is None or theirs is None else theirs - ours


@dataclass(frozen=True, slots=True)
class BeforeStep(OfOne):
    """What is allocated before a step: the parameters, and workspaces that earlier runs of a process left, MiB."""

    workspaces: int

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        return _before(rows.records[0], self.workspaces, evidence)


@dataclass(frozen=True, slots=True)
class PeakLessBefore(OfOne):
    """The peak less what is allocated before the step, MiB; workspaces that are there before are there at the peak."""

    workspaces: int

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        record = rows.records[0]
        peak = _peak(record, apart=False)
        before = _before(record, self.workspaces, evidence)
        if peak is None or before is None or record.ledger is None:
            return None
        taken = max(0, self.workspaces * evidence.workspace_bytes - record.ledger.workspace)
        return peak + taken / MIB - before


@dataclass(frozen=True, slots=True)
class Part(OfOne):
    """What some modules, or some categories of the ledger, hold at the peak, MiB."""

    module: str = ""
    categories: tuple[str, ...] = LEDGER_FIELDS

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        record = rows.records[0]
        inside = [row.ledger for row in record.modules if self.module in f".{row.module}."] if self.module else []
        ledgers = inside if self.module else [record.ledger] if record.ledger is not None else []
        if not ledgers:
            return None
        held: int = sum(getattr(ledger, name) for ledger in ledgers for name in self.categories)
        return held / MIB


@dataclass(frozen=True, slots=True)
class Slowdown(OfTwo):
    """How many times as long a step takes as another model's."""

    timed = True

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        ours, theirs = (record.step_time_seconds for record in rows.records)
        return ours / theirs if ours and theirs else None


@dataclass(frozen=True, slots=True)
class Fits(OfOne):
    """The verdict for 8 GiB less a tenth, where it is clear."""

    def of(self, rows: Rows, evidence: Evidence) -> str | None:
        verdict = rows.records[0].verdict
        return None if verdict == "INCONCLUSIVE" else verdict


@dataclass(frozen=True, slots=True)
class Growth(Recorded):
    """The exponent of a power law through the step times by sequence."""

    asked: tuple[Question, ...]
    timed = True

    @property
    def questions(self) -> Sequence[Question]:
        return self.asked

    def of(self, rows: Rows, evidence: Evidence) -> float | None:
        (points,) = along(rows.records, "seq", step_of).values()
        return exponent(points)


@dataclass(frozen=True, slots=True)
class QualityLoss(Figure):
    """How much larger a model's perplexity is than another's after equal tokens, percent."""

    model: str
    against: str = "baseline"

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        pair = evidence.perplexities(self.model, self.against)
        return None if pair is None else Found(100 * (pair[0] / pair[1] - 1), TRAINED)


@dataclass(frozen=True, slots=True)
class TableParameters(Figure):
    """The parameters of an embedding, dense without a rank, in this unit."""

    sizes: Sizes
    rank: int | None
    unit: float

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        return Found(table_parameters(self.sizes, self.rank) / self.unit, COUNTED)


@dataclass(frozen=True, slots=True)
class Compression(Figure):
    """How many parameters fewer a tensor-train embedding has, percent, on average over ranks."""

    sizes: Sizes
    ranks: tuple[int, ...]

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        dense = table_parameters(self.sizes, None)
        kept = statistics.fmean(table_parameters(self.sizes, rank) / dense for rank in self.ranks)
        return Found(100 * (1 - kept), COUNTED)


@dataclass(frozen=True, slots=True)
class FewerParameters(Figure):
    """How many parameters fewer a model has than another, percent."""

    model: str
    against: str
    sizes: Sizes

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        ours, theirs = (count_parameters(find_model(name).configure(self.sizes)) for name in (self.model, self.against))
        return Found(100 * (1 - ours / theirs), COUNTED)


@dataclass(frozen=True, slots=True)
class Floor(Figure):
    """What a mode cannot do without, of one category or in all, MiB; with the logits of all tokens or of the last."""

    category: Literal["activations"] | None
    logits: Literal["all", "last"]

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        if evidence.floors is None:
            return None
        floor = evidence.floors[0 if self.logits == "all" else 1]
        size = floor.total_bytes if self.category is None else floor.of(self.category)
        return Found(size / MIB, COUNTED)


@dataclass(frozen=True, slots=True)
class Nothing(Figure):
    """A part of a floor that no program needs."""

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        return Found(0.0, COUNTED)


@dataclass(frozen=True, slots=True)
class Possible(Figure):
    """Whether a reduction of so many percent comes without a loss of quality."""

    reduction: Reduction
    quality: QualityLoss
    least: float

    @property
    def questions(self) -> Sequence[Question]:
        return self.reduction.questions

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        less, loss = self.reduction.find(evidence, side), self.quality.find(evidence, side)
        if less is None or loss is None:
            return None
        assert isinstance(less.value, float)
        assert isinstance(loss.value, float)
        return Found("yes" if less.value >= self.least and loss.value <= 0 else "no", less.origin)


@dataclass(frozen=True, slots=True)
class LargestTrained(Figure):
    """The parameters, in billions, of the largest model that was trained with its weights in host memory."""

    def find(self, evidence: Evidence, side: Side) -> Found | None:
        record = evidence.streamed()
        if record is None or record.parameters is None:
            return None
        return Found(record.parameters / 1e9, f"{record.provenance}, {record.gpu}")


def table_parameters(sizes: Sizes, rank: int | None) -> int:
    """The parameters of an embedding of a tensor train of this rank; of a dense one without."""
    table = sizes.vocab_size * sizes.d_model
    if rank is None:
        return table
    dense, train = (
        count_parameters(find_model(name).configure(sizes))
        for name in ("baseline", f"baseline+embedding=htt+embedding_rank={rank}")
    )
    return train - dense + table


def _peak(record: Record, apart: bool) -> float | None:
    workspace = 0
    if apart and record.workspace_setting != "off":
        if record.ledger is None:
            return None
        workspace = record.ledger.workspace
    return None if record.peak_allocated_bytes is None else (record.peak_allocated_bytes - workspace) / MIB


def _before(record: Record, workspaces: int, evidence: Evidence) -> float | None:
    held = workspaces * evidence.workspace_bytes
    return None if record.ledger is None else (record.ledger.parameters + held) / MIB
