"""The words and numbers that every report shares: labels of the ledger, figures as text, what a run was."""

from collections.abc import Callable, Sequence
from typing import Any

from muse_bench.config import SETUP
from muse_bench.record import Record, RunFile
from muse_bench.units import format_bytes

ToText = Callable[[float | None], str]

CATEGORIES: dict[str, str] = {
    "parameters": "parameters",
    "buffers": "buffers",
    "gradients": "gradients",
    "optimizer_state": "optimizer state",
    "activations_saved": "saved activations",
    "activations_temporary": "temporary activations",
    "inputs": "inputs",
    "workspace": "workspace",
    "communication": "communication",
    "unattributed": "unattributed",
}
UPDATES = {"after": "update after backward", "in-backward": "update in backward"}
EXECUTIONS = {"eager": "eager", "graph": "CUDA graph"}
SHARDINGS = {"fsdp": "FSDP2", "tensor": "tensor parallelism", "replicas": "replicas"}
NO_GPU = "predicted: no GPU on this machine"
ENDINGS = {"oom": "ran out of memory", "crashed": "crashed", "skipped": "was skipped"}


def plain(text: str) -> str:
    """Text on one line without control characters: records come from files that anybody may have written."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


def count_text(count: int | None) -> str:
    """A count with a unit of three digits: '616.1 K', '322.5 M', '99.9 B'."""
    if count is None:
        return "-"
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return str(count)


def sharding_text(record: Record) -> str:
    """How a case is shared out: 'FSDP2 on 2 GPUs'; a dash on one GPU."""
    if record.sharding is None:
        return "-"
    return f"{plain(SHARDINGS.get(record.sharding, record.sharding))} on {record.ranks} GPUs"


def percent_text(fraction: float | None) -> str:
    """A fraction as a percentage."""
    return "-" if fraction is None else f"{fraction * 100:.1f} %"


def duration_text(seconds: float | None) -> str:
    """Seconds from 10 s, milliseconds below."""
    if seconds is None:
        return "-"
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds * 1000:,.1f} ms"


def rate_text(rate: float | None) -> str:
    """A whole number a second."""
    return "-" if rate is None else f"{rate:,.0f}"


def failures(records: Sequence[Record]) -> list[str]:
    """One line a case that did not finish, with its reason."""
    lines = []
    for record in records:
        if record.status != "ok":
            reason = f": {record.reason}" if record.reason else ""
            lines.append(plain(f"{label(record, records)} {ENDINGS[record.status]}{reason}"))
    return lines


def label(record: Record, records: Sequence[Record]) -> str:
    """The record's model, with the mode where the records are not all of one."""
    return record.model if len({one.mode for one in records}) == 1 else f"{record.model} ({record.mode})"


def notes(records: Sequence[Record]) -> list[str]:
    """The records' notes, each once, with the models it is about when it is not about all of them.

    Left out is what the tables say already: that there is no GPU, and the reasons of clear verdicts.
    """
    models: dict[str, list[str]] = {}
    for record in records:
        for note in record.notes:
            if note != NO_GPU and not _is_clear_verdict(record, note):
                models.setdefault(note, []).append(label(record, records))
    return [
        plain(note if len(names) == len(records) else f"{', '.join(names)}: {note}") for note, names in models.items()
    ]


def execution_text(record: Record) -> str:
    """When the optimizer runs and how a step is launched, as far as the record says."""
    update = "" if record.update is None else UPDATES.get(record.update, f"update {record.update}")
    execution = "" if record.execution is None else EXECUTIONS.get(record.execution, record.execution)
    return plain(", ".join(filter(None, (update, execution))))


def link_text(record: Record) -> str:
    """The least time that copies between host and device take, and its share of the time measured, if there is one.

    Nothing where there are no copies, or their time is not known.
    """
    if record.link_seconds is None:
        return ""
    step = _least_text(record.link_seconds, record.step_time_seconds)
    each = record.new_token_link_seconds
    token = "" if each is None else f", {_least_text(each, record.new_token_seconds)} a new token"
    return f"at least {step} a step{token} over the host link"


def _least_text(least: float, taken: float | None) -> str:
    share = "" if not taken else f" ({percent_text(least / taken)} of the {duration_text(taken)} taken)"
    return f"{duration_text(least)}{share}"


def peculiarities(records: Sequence[Record]) -> list[str]:
    """What sets records apart from plain steps with everything on the device, with the models it is about."""
    models: dict[str, dict[str, None]] = {}
    for record in records:
        on_host = [part for part, size in (record.host_bytes or {}).items() if size]
        told = [
            UPDATES["in-backward"] if record.update == "in-backward" else "",
            EXECUTIONS["graph"] if record.execution == "graph" else "",
            f"{' and '.join(on_host)} in host memory" if on_host else "",
            link_text(record),
        ]
        if any(told):
            models.setdefault(", ".join(filter(None, told)), {})[label(record, records)] = None
    return [plain(f"{', '.join(names)}: {text}") for text, names in models.items()]


def origin(run: RunFile) -> str:
    """Measured or predicted, on or for which GPU."""
    kinds = {record.provenance for record in run.records}
    cards = {record.gpu or run.environment.gpu for record in run.records} - {None}
    card = plain(", ".join(sorted(map(str, cards)))) or "an unknown GPU"
    if kinds == {"measured"}:
        return f"measured on {card}"
    if kinds == {"predicted"}:
        return f"predicted for {card}" + (" (no GPU on this machine)" if _no_gpu(run) else "")
    return f"measured and predicted, {card}"


def limit_text(records: Sequence[Record]) -> str:
    """What the verdicts hold the device's peak against; nothing when there are none."""
    limits = sorted({record.limit_bytes for record in records if record.verdict and record.limit_bytes})
    return f"Verdict: device against {', '.join(map(format_bytes, limits))}." if limits else ""


def protocol(run: RunFile) -> str:
    """What the records have in common: mode, batch, sizes."""
    if all(record.model.startswith(SETUP) for record in run.records):
        return "a step of its own"
    wanted: tuple[tuple[str, Callable[[Record], Any]], ...] = (
        ("{}", lambda record: record.mode),
        ("batch {}", lambda record: record.batch),
        ("seq {:,}", lambda record: None if record.input_shape else record.seq),
        ("input {}", lambda record: record.input_shape),
        ("vocab {:,}", lambda record: _size(record, "vocab_size")),
        ("d_model {:,}", lambda record: _size(record, "d_model")),
        ("{} layers", lambda record: _size(record, "n_layers")),
    )
    facts = ((text, {get(record) for record in run.records} - {None}) for text, get in wanted)
    parts = [text.format(values.pop()) for text, values in facts if len(values) == 1]
    return plain(", ".join(parts))


def software(run: RunFile) -> str:
    """The versions that made the run, and the commits."""
    environment = run.environment
    names = (
        ("muse-bench", environment.muse_bench),
        ("commit", environment.commit),
        ("torch", environment.torch),
        ("CUDA", environment.cuda),
    )
    return plain(", ".join(f"{name} {version}" for name, version in names if version))


def _is_clear_verdict(record: Record, note: str) -> bool:
    if record.proof is not None:
        return False
    return note.startswith("verdict:") and (record.verdict != "INCONCLUSIVE" or record.status != "ok")


def _no_gpu(run: RunFile) -> bool:
    return all(NO_GPU in record.notes for record in run.records)


def _size(record: Record, name: str) -> int | None:
    value = record.config.get(name)
    return value if isinstance(value, int) else None
