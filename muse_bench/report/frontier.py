"""Frontiers as tables: the largest values, the figures at each edge, and what was measured there."""

from collections.abc import Iterator, Sequence

from muse_bench.analysis.frontier import Check, Edge, Frontier
from muse_bench.analysis.interval import device_interval
from muse_bench.record import Record, RunFile
from muse_bench.report import words
from muse_bench.report.sheet import Sheet
from muse_bench.units import GIB, format_bytes, format_mib

NAMES = {
    "batch": "batch",
    "seq": "sequence",
    "layers": "number of layers",
    "d_model": "width",
    "parameters": "number of parameters",
}
ASSUMPTION = (
    "Found by bisecting predictions, which takes it that whatever is larger than what does not fit does not fit either."
)


def sheets(run: RunFile, frontiers: Sequence[Frontier]) -> list[Sheet]:
    """For each size that grew, the largest values and the edges; then the measurements, if there are any."""
    found: list[Sheet] = []
    for size in dict.fromkeys(frontier.size for frontier in frontiers):
        along = [frontier for frontier in frontiers if frontier.size == size]
        found += [_largest(run, size, along), _edges(size, along)]
        if any(frontier.checks for frontier in along):
            found.append(_checks(size, along))
    return found


def title(size: str, along: Sequence[Frontier]) -> str:
    """The title of the table, and of the chart, of the largest values."""
    predicted = [edge.record for frontier in along for edge in frontier.edges if edge.record is not None]
    return f"Largest {NAMES[size]} that fits, {_origin(predicted)}"


def largest_text(frontier: Frontier, edge: Edge) -> str:
    """The value at the edge, '>=' where it may be larger."""
    return f"{'>= ' if edge.is_least else ''}{_text(frontier.size, frontier.value(edge.count))}"


def _largest(run: RunFile, size: str, along: Sequence[Frontier]) -> Sheet:
    budgets = dict.fromkeys(edge.budget for frontier in along for edge in frontier.edges)
    predicted = [edge.record for frontier in along for edge in frontier.edges if edge.record is not None]
    headrooms = ", ".join(sorted({f"{budget.headroom * 100:.3g} %" for budget in budgets}))
    return Sheet(
        title=title(size, along),
        headings=("model", "dtype", *(f"{budget.budget_bytes / GIB:g} GiB" for budget in budgets)),
        rows=[
            (
                words.plain(one.model),
                one.dtype,
                *(_largest_cell(one, one.edges[i : i + 1]) for i in range(len(budgets))),
            )
            for one in along
        ],
        labels=2,
        notes=(
            f"{words.protocol(run)}; {words.software(run)}; {headrooms} of each budget left free.",
            *([_fits(predicted)] if predicted else []),
            *_on_host(along),
            ASSUMPTION + _resolution(along),
            *_oddities(along),
        ),
    )


def _edges(size: str, along: Sequence[Frontier]) -> Sheet:
    rows = [(one, edge, edge.record) for one in along for edge in one.edges]
    host = ("host", "host limit") if any(edge.budget.host_bytes is not None for _, edge, _ in rows) else ()
    return Sheet(
        title=f"At the largest {NAMES[size]}, in MiB",
        headings=("model", "budget", size, *_growing(size), "tokens", "params", "device", "at most", "limit", *host),
        rows=[_edge_row(size, one, edge, record) for one, edge, record in rows if record is not None],
        labels=2,
        notes=("at most: the upper bound of the device, which the limit is held against; tokens: in one step.",),
    )


def _checks(size: str, along: Sequence[Frontier]) -> Sheet:
    rows = [(one, check) for one in along for check in one.checks]
    cards = ", ".join(sorted({str(check.at_edge.gpu) for _, check in rows}))
    return Sheet(
        title=f"Measured at the largest {NAMES[size]}, {words.plain(cards)}, in MiB",
        headings=("model", "budget", size, "predicted", "measured", "beyond", "the edge"),
        rows=[_check_row(one, check) for one, check in rows],
        labels=2,
        notes=("predicted, measured: the device at the edge; beyond: measured one step beyond it, which may fit too.",),
    )


def _largest_cell(frontier: Frontier, edges: Sequence[Edge]) -> str:
    """The value, '>=' where it may be larger, 'none' where the least is too large, a dash where that is unknown."""
    if not edges:
        return "-"
    (edge,) = edges
    if edge.count:
        return largest_text(frontier, edge)
    if edge.record is None:
        return "-"
    return "none" if edge.record.verdict == "FAIL" else "none sure"


def _edge_row(size: str, frontier: Frontier, edge: Edge, record: Record) -> tuple[str, ...]:
    sized = {
        "batch": record.batch,
        "seq": record.seq,
        "layers": record.config.get("n_layers"),
        "parameters": frontier.value(edge.count) or record.parameters,
    }
    value = sized.get(size, record.config.get("d_model"))
    host_limit = edge.budget.host_bytes
    return (
        words.plain(frontier.model),
        f"{edge.budget.budget_bytes / GIB:g} GiB",
        _text(size, value) + ("" if edge.count else f" ({'too large' if record.verdict == 'FAIL' else 'not sure'})"),
        *(str(record.config.get({"layers": "n_layers"}.get(name, name))) for name in _growing(size)),
        f"{record.batch * record.seq:,}",
        words.count_text(record.parameters),
        format_mib(record.device_peak_bytes),
        format_mib(record.device_upper_bytes),
        format_mib(edge.budget.limit_bytes),
        *(() if host_limit is None else (format_mib(record.host_total_bytes), format_mib(host_limit))),
    )


def _check_row(frontier: Frontier, check: Check) -> tuple[str, ...]:
    predicted = check.edge.record
    assert predicted is not None  # only what was predicted is checked
    return (
        words.plain(frontier.model),
        f"{check.edge.budget.budget_bytes / GIB:g} GiB",
        _text(frontier.size, frontier.value(check.edge.count)),
        format_mib(predicted.device_peak_bytes),
        _measured(check.at_edge),
        "-" if check.beyond is None else _measured(check.beyond),
        _outcome(check),
    )


def _measured(record: Record) -> str:
    return format_mib(record.device_peak_bytes) if record.status == "ok" else record.status


def _outcome(check: Check) -> str:
    if check.holds is None:
        return "undecided"
    if not check.holds:
        return "did not hold"
    return "held; next fits" if check.beyond is not None and check.beyond.verdict == "PASS" else "held"


def _growing(size: str) -> tuple[str, ...]:
    """What grows with it."""
    return {"d_model": ("layers",), "parameters": ("d_model", "layers")}.get(size, ())


def _origin(predicted: Sequence[Record]) -> str:
    cards = ", ".join(sorted({words.plain(str(record.gpu)) for record in predicted}))
    return f"predicted for {cards}" if cards else "predicted"


def _fits(predicted: Sequence[Record]) -> str:
    intervals = (device_interval(record) for record in predicted)
    sources = dict.fromkeys(interval.source for interval in intervals if interval is not None)
    return f"A value fits when the upper bound of its prediction does ({'; '.join(sources)})."


def _oddities(along: Sequence[Frontier]) -> Iterator[str]:
    """What a reader must know of single edges: searches that ended early, and assumptions that did not hold."""
    for one in along:
        ends = dict.fromkeys(edge.reason for edge in one.edges if edge.reason)
        for reason in ends:
            yield words.plain(f"{one.model}: the search ended where a prediction failed: {reason}")
        capped = [edge.count for edge in one.edges if edge.is_least and not edge.reason]
        if capped:
            yield words.plain(f"{one.model}: searched up to {one.size} {one.value(max(capped)):,}{_why(one)}.")
        for edge in one.edges:
            if edge.passes_again:
                values = ", ".join(f"{one.value(count):,}" for count in edge.passes_again)
                size = f"{edge.budget.budget_bytes / GIB:g} GiB"
                yield words.plain(f"{one.model}, {size}: the assumption does not hold: {one.size} {values} fits again.")


def _on_host(along: Sequence[Frontier]) -> Iterator[str]:
    """What models keep in host memory, against which limit."""
    edges = [edge for one in along for edge in one.edges if edge.record is not None and edge.record.host_total_bytes]
    for limit in dict.fromkeys(edge.budget.host_bytes for edge in edges):
        if limit is None:
            yield "What a model keeps in host memory is not limited here: --host-memory says how much there is."
        else:
            yield f"What a model keeps in host memory has to fit {format_bytes(limit)} too."


def _text(size: str, value: int | None) -> str:
    return words.count_text(value) if size == "parameters" else f"{value:,}"


def _resolution(along: Sequence[Frontier]) -> str:
    digits = along[0].digits
    if digits is not None:
        return f" Values of {digits} digits are tried."
    tolerance = max(one.tolerance for one in along)
    return f" The edge is found to {tolerance * 100:g} %." if tolerance else ""


def _why(frontier: Frontier) -> str:
    records = (edge.record for edge in frontier.edges if edge.record is not None)
    micro = {record.micro_batch for record in records} - {None}
    if frontier.size != "batch" or not micro:
        return ""
    return f", since every micro-batch of {micro.pop()} is traced anew and takes no more than its tokens"
