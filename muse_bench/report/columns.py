"""The columns that tables of records are made of, and which of them a table of given records needs."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from muse_bench.ledger import LEDGER_FIELDS, Ledger
from muse_bench.record import Record
from muse_bench.report.words import count_text, duration_text, percent_text, plain, rate_text, sharding_text
from muse_bench.units import format_mib


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the text that it shows of a record, and what that means; sizes are in MiB, missing ones a dash.

    A table has the column when `tells` something of one of its records: that it is not missing, unless said otherwise.
    """

    heading: str
    text: Callable[[Record], str]
    meaning: str | None = None
    left: bool = False
    tells: Callable[[Record], bool] | None = None

    def is_told(self, record: Record) -> bool:
        """Whether the column says something of this record."""
        return self.text(record) != "-" if self.tells is None else self.tells(record)


def of_ledger(heading: str, *parts: str, meaning: str | None = None) -> Column:
    """The sum of some parts of the ledger."""
    return Column(heading, lambda record: format_mib(_sum(record.ledger, parts)), meaning)


MODEL = Column("model", lambda record: plain(record.model), left=True)
DTYPE = Column("dtype", lambda record: plain(record.dtype), left=True)
PARAMETERS = Column("params", lambda record: count_text(record.parameters))
PEAK = Column(
    "peak",
    lambda record: format_mib(record.peak_allocated_bytes) if record.status == "ok" else record.status,
    "the most allocated at once after warm-up",
)
REDUCTION = Column("reduction", lambda record: percent_text(record.reduction))
COLD = Column("cold", lambda record: format_mib(record.cold_peak_allocated_bytes), "the peak of the first step")
RESERVED = Column("reserved", lambda record: format_mib(record.peak_reserved_bytes), "held by the allocator")
DEVICE = Column("device", lambda record: format_mib(record.device_peak_bytes), "reserved and the context")
LOWER = Column("at least", lambda record: format_mib(record.device_lower_bytes))
UPPER = Column("at most", lambda record: format_mib(record.device_upper_bytes), "bounds of the predicted device")
HOST = Column(
    "host",
    lambda record: format_mib(record.host_total_bytes),
    "kept in pinned host memory",
    tells=lambda record: bool(record.host_total_bytes),
)
SMALLEST = Column(
    "smallest\nbudget",
    lambda record: format_mib(record.smallest_budget_bytes),
    "the least device memory in which the steps still run, no headroom",
)
PROOF = Column(
    "proof", lambda record: _proof_text(record), "a run under a cap of the limit less the context", left=True
)
STEP = Column("step", lambda record: duration_text(record.step_time_seconds))
RATE = Column("tokens/s", lambda record: rate_text(record.tokens_per_second))
PREFILL = Column("prompt", lambda record: duration_text(record.prefill_seconds), "the time until the first new token")
NEW_TOKEN = Column(
    "a token",
    lambda record: duration_text(record.new_token_seconds),
    "the time of each new token after the first; tokens/s counts those, of all sequences",
)
STATE = Column(
    "state per\nsequence",
    lambda record: format_mib(record.state_per_sequence_bytes, decimals=3),
    "what decoding keeps of a sequence: the cache of keys and values, or the recurrent state",
)
VERDICT = Column("verdict", lambda record: record.verdict or "-", left=True)

# A reader must not take rows of different protocols for the same one: what differs is shown.
PROTOCOL = (
    Column("mode", lambda record: plain(record.mode), left=True),
    Column("batch", lambda record: str(record.batch)),
    Column("seq", lambda record: "-" if record.input_shape else f"{record.seq:,}"),
    Column("input", lambda record: plain(record.input_shape or "-"), left=True),
    Column("gpu", lambda record: plain(record.gpu or "-"), left=True),
    Column("from", lambda record: plain(record.provenance), left=True),
    Column("logits", lambda record: plain(record.logits), left=True),
    Column("workspaces", lambda record: plain(record.workspace_setting), left=True),
    Column("sharding", lambda record: sharding_text(record), left=True),
)

SPEED = (STEP, PREFILL, NEW_TOKEN, RATE)
SUMMARY = (MODEL, DTYPE, PARAMETERS, PEAK, REDUCTION, COLD, RESERVED, DEVICE, HOST, *SPEED, STATE, VERDICT)
LEDGER = (
    of_ledger("parameters", "parameters"),
    of_ledger("buffers", "buffers"),
    of_ledger("gradients", "gradients"),
    of_ledger("optimizer", "optimizer_state"),
    of_ledger("saved", "activations_saved", meaning="activations kept for backward"),
    of_ledger("temporary", "activations_temporary", meaning="activations not kept"),
    of_ledger("inputs", "inputs"),
    of_ledger("workspace", "workspace", meaning="held by cuBLAS"),
    dataclasses.replace(
        of_ledger("communication", "communication", meaning="what collectives send from and receive into"),
        tells=lambda record: record.ledger is not None and record.ledger.communication > 0,
    ),
    of_ledger("unattributed", "unattributed"),
)
AROUND = (COLD, RESERVED, DEVICE, LOWER, UPPER, SMALLEST, HOST)
FULL = (MODEL, DTYPE, PARAMETERS, PEAK, REDUCTION, *LEDGER, *AROUND, *SPEED, STATE, PROOF, VERDICT)
COMPACT = (
    MODEL,
    PEAK,
    REDUCTION,
    of_ledger("weights,\ngrads,\nstate", "parameters", "buffers", "gradients", "optimizer_state"),
    of_ledger("activ-\nations", "activations_saved", "activations_temporary"),
    of_ledger("work-\nspace", "workspace"),
    of_ledger("other", "inputs", "communication", "unattributed", meaning="inputs, communication and unattributed"),
    HOST,
    STATE,
    VERDICT,
)
NARROW = tuple(column for column in COMPACT if column is not HOST)
LEAST = (MODEL, PEAK, REDUCTION, STATE, VERDICT)


def with_protocol(columns: Sequence[Column], records: Sequence[Record]) -> tuple[Column, ...]:
    """The columns that hold a value for some record, with those of the protocol that differ behind the first."""
    held = (column for column in columns[1:] if any(map(column.is_told, records)))
    return (columns[0], *differing(records), *held)


def meanings(columns: Sequence[Column]) -> str:
    """What the columns mean, those that need saying, in one line."""
    said = (f"{one_line(column.heading)}: {column.meaning}" for column in dict.fromkeys(columns) if column.meaning)
    return "; ".join(said) + "."


def one_line(heading: str) -> str:
    """A heading that a narrow table breaks, in one line."""
    return heading.replace("-\n", "").replace("\n", " ")


def differing(records: Sequence[Record]) -> tuple[Column, ...]:
    """The protocol's columns in which these records are not all alike."""
    return tuple(column for column in PROTOCOL if len({column.text(record) for record in records}) > 1)


def _proof_text(record: Record) -> str:
    if record.proof is None:
        return "-"
    return "ran" if record.proof.ran else "out of memory"


def _sum(ledger: Ledger | None, parts: Sequence[str]) -> int | None:
    assert set(parts) <= set(LEDGER_FIELDS)
    return None if ledger is None else sum(getattr(ledger, part) for part in parts)
