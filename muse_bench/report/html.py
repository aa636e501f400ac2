"""A run as one HTML file: who takes how much, over one step, by module, with the tables of the same numbers."""

import importlib.util
from collections.abc import Iterator, Sequence

from muse_bench.analysis.modules import collapse_blocks
from muse_bench.errors import UsageError
from muse_bench.ledger import LEDGER_FIELDS, Ledger
from muse_bench.record import Environment, Record, RunFile
from muse_bench.report import columns, words
from muse_bench.report.charts.picture import Picture
from muse_bench.report.page import Facts, Part, page
from muse_bench.report.repeats import repeat_lines, repeat_rows, repeat_text
from muse_bench.report.sharding import HEADINGS, rank_lines, rank_rows, rank_title
from muse_bench.report.sheet import Sheet
from muse_bench.units import format_mib

SUFFIX = ".html"
EXTRA = ("altair", "vl_convert")


def check(what: str = "HTML") -> None:
    """Raises: UsageError where what draws the charts is not installed."""
    if any(importlib.util.find_spec(name) is None for name in EXTRA):
        raise UsageError(f"{what} needs altair: pip install 'muse-bench[html]'")


def render(run: RunFile) -> str:
    """The run as a document."""
    return page(f"Peak GPU memory, {words.origin(run)}", facts(run), list(_parts(run)), run.command)


def render_sheets(
    title: str, about: Facts, sheets: Sequence[Sheet], pictures: Sequence[Picture], command: str | None = None
) -> str:
    """A document of sheets; a picture with a sheet's title stands above it, the others come first.

    Of sheets and pictures that share a title, the first belongs to the first.
    """
    known: dict[str, list[Picture]] = {sheet.title: [] for sheet in sheets}
    for picture in pictures:
        known.setdefault(picture.title, []).append(picture)
    parts = [Part(one.title, known[one.title].pop(0) if known[one.title] else None, one) for one in sheets]
    alone = [Part(picture.title, picture) for left in known.values() for picture in left]
    return page(title, about, [*alone, *parts], command)


def facts(run: RunFile) -> Facts:
    """What a reader must know of a run before its figures."""
    environment, records = run.environment, run.records
    return (
        ("figures", words.origin(run)),
        ("protocol", words.protocol(run)),
        ("GPU", environment.gpu or ""),
        ("software", words.software(run)),
        ("reduction against", ", ".join(sorted({one.reduction_against for one in records if one.reduction_against}))),
        ("verdict", words.limit_text(records).removeprefix("Verdict: ").rstrip(".")),
    )


def origin(environment: Environment) -> Facts:
    """The same of what is no table of records: the machine and the software."""
    empty = RunFile(environment=environment, records=())
    return (("GPU", environment.gpu or ""), ("software", words.software(empty)))


def _parts(run: RunFile) -> Iterator[Part]:
    from muse_bench.report.charts import records as charts  # altair is slow to import

    labels = charts.labels(run.records)
    yield Part("What holds each peak", charts.comparison(run.records), _ledgers(run.records, labels))
    for record, label in zip(run.records, labels, strict=True):
        if record.timeline:
            picture = charts.step(record, label)
            yield Part(picture.title, picture, _moments(record), folded=True)
        if record.modules:
            picture = charts.modules(record, label)
            yield Part(picture.title, picture, _modules(record), folded=True)
    for record in run.records:
        if record.of_ranks:
            yield Part(rank_title(record), sheet=_ranks(record))
        if record.repeats:
            sheet = _repeats(record)
            yield Part(sheet.title, sheet=sheet, folded=True)
    yield Part("All figures", sheet=_all(run.records))


def _ledgers(records: Sequence[Record], labels: Sequence[str]) -> Sheet:
    shown = [part for part in LEDGER_FIELDS if any(one.ledger and getattr(one.ledger, part) for one in records)]
    rows = []
    for record, label in zip(records, labels, strict=True):
        held = ["-"] * len(shown) if record.ledger is None else _sizes(record.ledger, shown)
        rows.append((label, columns.PEAK.text(record), words.percent_text(record.reduction), *held))
    headings = ("case", "peak", "reduction", *(words.CATEGORIES[part] for part in shown))
    return Sheet("What holds each peak", headings, rows, notes=words.failures(records))


def _moments(record: Record) -> Sheet:
    shown = [part for part in LEDGER_FIELDS if any(getattr(point.ledger, part) for point in record.timeline)]
    rows = [
        (point.phase, str(number), format_mib(point.ledger.total), *_sizes(point.ledger, shown))
        for number, point in enumerate(record.timeline, 1)
    ]
    headings = ("phase", "moment", "allocated", *(words.CATEGORIES[part] for part in shown))
    return Sheet("The same as a table, MiB", headings, rows)


def _modules(record: Record) -> Sheet:
    rows = collapse_blocks(record.modules)
    shown = [part for part in LEDGER_FIELDS if any(getattr(row.ledger, part) for row in rows)]
    cells = [(row.module, format_mib(row.ledger.total), *_sizes(row.ledger, shown)) for row in rows]
    headings = ("module", "total", *(words.CATEGORIES[part] for part in shown))
    return Sheet("The same as a table, MiB", headings, cells)


def _repeats(record: Record) -> Sheet:
    title = words.plain(f"{len(record.repeats)} runs of {record.model}, sizes in MiB")
    headings = ("figure", "least", "most", "apart")
    return Sheet(title, headings, repeat_rows(record), notes=(words.plain(repeat_text(record)),))


def _ranks(record: Record) -> Sheet:
    return Sheet(rank_title(record), HEADINGS, rank_rows(record), labels=0, notes=rank_lines(record))


def _sizes(ledger: Ledger, parts: Sequence[str]) -> Iterator[str]:
    return (format_mib(getattr(ledger, part)) for part in parts)


def _all(records: Sequence[Record]) -> Sheet:
    shown = sorted(columns.with_protocol(columns.FULL, records), key=lambda column: not column.left)
    return Sheet(
        title="All figures, sizes in MiB",
        headings=[columns.one_line(column.heading) for column in shown],
        rows=[[column.text(record) for column in shown] for record in records],
        labels=sum(column.left for column in shown),
        notes=(columns.meanings(shown), *words.peculiarities(records), *repeat_lines(records), *words.notes(records)),
    )
