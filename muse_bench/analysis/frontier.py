"""How far one size of a model can grow within each budget: the edges, and what measuring at them gave."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from muse_bench.analysis.host_fit import HostBudget
from muse_bench.analysis.verdict import judge
from muse_bench.record import Record
from muse_bench.units import format_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The memory of a card, the share of it to leave free, and the host memory beside it where that counts too."""

    budget_bytes: int
    headroom: float
    host_bytes: int | None = None

    @property
    def limit_bytes(self) -> int:
        """What the whole device may use."""
        return int(self.budget_bytes * (1 - self.headroom))

    def judge(self, record: Record) -> Record:
        """The record with its verdict for this budget, on which a prediction does not depend."""
        judged = judge(dataclasses.replace(record, budget_bytes=self.budget_bytes, limit_bytes=self.limit_bytes))
        return judged if self.host_bytes is None else HostBudget(self.host_bytes, asked=True).judge(judged)


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What was found for one model and budget; counts are in steps of what varies.

    `count` is the largest that passes and `record` its prediction; `beyond` is the next that was tried, and does not.
    Where none passes `count` is 0 and `record` the prediction of the least; there is none where no prediction
    succeeded. Where nothing failed to pass `beyond` is None: the search came to its end, or to a prediction that failed
    with `reason`. `passes_again` are counts past `beyond` that pass.
    """

    budget: Budget
    count: int
    record: Record | None
    beyond: int | None = None
    reason: str | None = None
    passes_again: tuple[int, ...] = ()

    @property
    def is_least(self) -> bool:
        """Whether there may be larger counts that pass."""
        return self.beyond is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was measured at an edge, and beyond it, where something was predicted not to pass."""

    edge: Edge
    at_edge: Record
    beyond: Record | None

    @property
    def holds(self) -> bool | None:
        """Whether the edge was measured to pass; None where measuring did not decide."""
        return {"PASS": True, "FAIL": False}.get(self.at_edge.verdict or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """The edges of one model along one size, named `size`; each count stands for `unit` of it.

    `tolerance` is the share of a value within which the next one that was tried does not pass; 0 for the very next of
    those that have no more than `digits`, if any, before their zeros.
    """

    model: str
    dtype: str
    size: str
    unit: int
    tolerance: float = 0.0
    digits: int | None = None
    edges: tuple[Edge, ...] = ()
    checks: tuple[Check, ...] = ()

    def grown(self, edge: Edge, *checks: Check) -> Self:
        """The frontier with one edge more."""
        return dataclasses.replace(self, edges=(*self.edges, edge), checks=(*self.checks, *checks))

    def value(self, count: int) -> int:
        """The size at this count."""
        return count * self.unit

    def records(self) -> Iterator[Record]:
        """The predictions at the edges, then what was measured, each with a note of what it is."""
        for edge in self.edges:
            if edge.record is not None:
                yield _noted(edge.record, self._says(edge))
        for check in self.checks:
            yield _noted(check.at_edge, f"{self._says(check.edge)}, as predicted")
            if check.beyond is not None:
                yield _noted(check.beyond, f"{self._says(check.edge)}, as predicted: this is beyond it")

    def _says(self, edge: Edge) -> str:
        budget = f"{format_bytes(edge.budget.budget_bytes)} less {edge.budget.headroom * 100:.3g} %"
        if edge.budget.host_bytes is not None:
            budget += f" and {format_bytes(edge.budget.host_bytes)} of host memory"
        if edge.count == 0:
            return f"frontier: no {self.size} that was tried fits {budget}"
        known = "at least this" if edge.is_least else "this"
        return f"frontier: {self.size} {self.value(edge.count):,} fits {budget}, and the largest that does is {known}"


def _noted(record: Record, note: str) -> Record:
    return dataclasses.replace(record, notes=(*record.notes, note))
