"""Does what a predicted case keeps in host memory fit there, and if not, how large a model would?"""

import dataclasses
from dataclasses import dataclass

from muse_bench.analysis.verdict import NOTE as VERDICT
from muse_bench.record import Record
from muse_bench.units import format_bytes, format_count

NOTE = "host memory is short:"


@dataclass(frozen=True, slots=True)
class HostBudget:
    """The host memory that must do; only what was asked for decides a verdict: another machine may have more."""

    size_bytes: int
    asked: bool

    def judge(self, record: Record) -> Record:
        """The record, with a note when it needs more; then a FAIL where this much was asked for."""
        needed = record.host_total_bytes
        if record.provenance != "predicted" or needed is None or needed <= self.size_bytes:
            return record
        note = (
            f"{NOTE} {format_bytes(needed)} needed, {format_bytes(self.size_bytes)} {self._whose()}{self._room(record)}"
        )
        earlier = tuple(text for text in record.notes if not text.startswith(NOTE))
        if not self.asked:
            return dataclasses.replace(record, notes=(*earlier, note))
        notes = (text for text in earlier if not text.startswith(VERDICT))
        return dataclasses.replace(record, verdict="FAIL", notes=(*notes, note, f"{VERDICT} FAIL: {note}"))

    def _whose(self) -> str:
        return "given" if self.asked else "available in this machine"

    def _room(self, record: Record) -> str:
        """The parameters of a model that would fit: host memory grows in proportion to them."""
        needed = record.host_total_bytes
        if not needed or record.parameters is None:
            return ""
        return f"; about --params {format_count(record.parameters * self.size_bytes // needed)} would fit"
