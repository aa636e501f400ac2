"""One record for the terminal: its ledger, the device around it, its modules, and the step that peaks."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from muse_bench.analysis.modules import collapse_blocks, sum_ledgers
from muse_bench.analysis.verdict import margin_bytes
from muse_bench.ledger import LEDGER_FIELDS, Ledger, ModuleRow
from muse_bench.record import Record, RunFile
from muse_bench.report import table, words
from muse_bench.report.chart import Timeline
from muse_bench.report.sharding import HEADINGS, PARTS, PEAKS, rank_lines, rank_rows
from muse_bench.units import format_bytes, format_mib

MODULE_ROWS = 12
BAR_WIDTH = 24


def single(run: RunFile) -> RenderableType:
    """The run's one record, in full."""
    (record,) = run.records
    return Group(*_parts(run, record))


def _parts(run: RunFile, record: Record) -> Iterator[RenderableType]:
    yield table.title(run, f"{words.plain(record.model)} ({_settings(record)}), GPU memory in MiB")
    yield ""
    if record.ledger is not None:
        yield _ledger_table(record, record.ledger)
        yield _figures(record)
    if record.of_ranks:
        yield from _rank_tables(record)
        yield Text("\n" + "\n".join(rank_lines(record)))
    if record.host_bytes:
        yield ""
        yield _host_table(record.host_bytes)
        if record.to_device_bytes is not None and record.to_host_bytes is not None:
            yield _crossing(record, record.to_device_bytes, record.to_host_bytes)
    if record.modules:
        yield Text("\nWhich modules hold the peak", style="bold")
        yield _module_table(record.modules)
    if record.timeline:
        yield Text("\nAllocated through the step that peaks\n", style="bold")
        yield Timeline(record.timeline)
    yield table.footnotes(run.records)


def _settings(record: Record) -> str:
    parts = [record.dtype, record.optimizer if record.mode == "train" else None]
    if record.sharding is not None:
        parts.append(words.sharding_text(record))
    if record.micro_batch:
        parts.append(f"micro-batch {record.micro_batch}")
    return words.plain(", ".join(part for part in parts if part))


def _ledger_table(record: Record, ledger: Ledger) -> Table:
    """The parts of the peak, which add up to it, and what lies around it up to the whole device."""
    peak = record.peak_allocated_bytes
    drawn = _table("at the peak", "MiB", "share")
    drawn.add_column("", width=BAR_WIDTH, no_wrap=True)
    for name in LEDGER_FIELDS:
        held = getattr(ledger, name)
        if name == "communication" and not held and record.sharding is None:
            continue
        drawn.add_row(words.CATEGORIES[name], format_mib(held), _share(held, peak), _bar(held, peak))
    drawn.add_section()
    drawn.add_row(Text("peak allocated", style="bold"), Text(format_mib(peak), style="bold"), _share(peak, peak))
    if peak is not None and ledger.total != peak:
        drawn.add_row(Text("the parts add up to", style="red"), format_mib(ledger.total), _share(ledger.total, peak))
    for label, size in _around(record):
        drawn.add_row(label, format_mib(size), "")
    return drawn


def _bar(held: int, peak: int | None) -> RenderableType:
    """A part's share of the peak; nothing for less than nothing, which only what is unattributed can be."""
    if not peak or held <= 0:
        return ""
    return ProgressBar(total=peak, completed=held, width=BAR_WIDTH, complete_style="cyan", finished_style="cyan")


def _rank_tables(record: Record) -> Iterator[RenderableType]:
    """What each rank took: its peaks, and parts of its ledger, which would not fit 80 columns side by side."""
    for headings in (PEAKS, PARTS):
        first = HEADINGS.index(headings[0])
        drawn = _table(HEADINGS[0], *headings)
        for rank, *sizes in rank_rows(record):
            drawn.add_row(rank, *sizes[first - 1 : first - 1 + len(headings)])
        yield Group("", drawn)


def _host_table(held: Mapping[str, int]) -> Table:
    """What is kept in host memory, which no figure of the GPU contains."""
    drawn = _table("kept in pinned host memory", "MiB")
    for part, size in held.items():
        drawn.add_row(words.plain(part), format_mib(size))
    if len(held) > 1:
        drawn.add_section()
        drawn.add_row(Text("all of it", style="bold"), Text(format_mib(sum(held.values())), style="bold"))
    return drawn


def _crossing(record: Record, inward: int, outward: int) -> Text:
    """What a step moves to the device and back, and the least that takes."""
    text = Text(f"\n{format_bytes(inward)} to the device and {format_bytes(outward)} back in a step")
    if record.new_token_to_device_bytes is not None:
        text.append(f", {format_bytes(record.new_token_to_device_bytes)} to the device for a new token")
    if least := words.link_text(record):
        text.append(f":\n{least} ({words.plain(record.link_source or '-')})")
    return text


def _around(record: Record) -> Iterator[tuple[str, int | None]]:
    yield "peak reserved by the allocator", record.peak_reserved_bytes
    yield "context and libraries", record.context_bytes
    device = "peak of the whole device"
    yield device if record.device_peak_provenance != "sampled" else f"{device} (sampled)", record.device_peak_bytes
    yield "first step's peak allocated", record.cold_peak_allocated_bytes


def _figures(record: Record) -> Text:
    """The lines that are not sizes in the ledger: parameters, how it ran, speed, verdict."""
    text = Text("\n")
    if record.parameters is not None:
        text.append(f"{record.parameters:,} parameters\n")
    if ran := words.execution_text(record):
        text.append(f"{ran}\n")
    if record.step_time_seconds is not None:
        speed = f", {words.rate_text(record.tokens_per_second)} tokens/s" if record.tokens_per_second else ""
        text.append(f"{words.duration_text(record.step_time_seconds)} a step{speed}\n")
    text.append_text(_decoding(record))
    margin = margin_bytes(record)
    if record.verdict is not None and record.limit_bytes is not None:
        text.append_text(table.verdict_text(record))
        side = "" if margin is None else f", {format_bytes(abs(margin))} {'below' if margin >= 0 else 'above'} it"
        text.append(f" for a limit of {format_bytes(record.limit_bytes)}{side}\n")
    text.rstrip()
    return text


def _decoding(record: Record) -> Text:
    """The times of the prompt and of each new token, and the state that decoding keeps."""
    text = Text()
    if record.prefill_seconds is not None:
        each = words.duration_text(record.new_token_seconds)
        text.append(f"{words.duration_text(record.prefill_seconds)} to read the prompt, {each} a new token after it\n")
    if record.state_per_sequence_bytes is not None:
        text.append(f"{format_mib(record.state_per_sequence_bytes, decimals=3)} MiB of state per sequence\n")
    return text


def _module_table(modules: Sequence[ModuleRow]) -> Table:
    """The largest modules; the others in one row, so that the column still adds up."""
    rows = collapse_blocks(modules)
    if len(rows) > MODULE_ROWS:
        rest = rows[MODULE_ROWS - 1 :]
        others = ModuleRow(module=f"{len(rest)} others", ledger=sum_ledgers(row.ledger for row in rest))
        rows = [*rows[: MODULE_ROWS - 1], others]
    drawn = _table("module", "total", "params", "grads", "state", "saved", "temporary", "other")
    for row in rows:
        drawn.add_row(Text(words.plain(row.module), style="bold"), *map(format_mib, _sizes(row.ledger)))
    return drawn


def _sizes(held: Ledger) -> tuple[int, ...]:
    """The total, and the parts that add up to it."""
    kept = (held.parameters + held.buffers, held.gradients, held.optimizer_state)
    other = held.inputs + held.workspace + held.communication + held.unattributed
    return (held.total, *kept, held.activations_saved, held.activations_temporary, other)


def _table(first: str, *others: str) -> Table:
    drawn = table.frame()
    drawn.add_column(first, overflow="fold")
    for heading in others:
        drawn.add_column(heading, justify="right", no_wrap=True)
    return drawn


def _share(held: int | None, peak: int | None) -> str:
    return words.percent_text(held / peak) if peak and held is not None else "-"
