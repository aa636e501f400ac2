"""Several runs of one case as text: what was the same to the byte, and what varied by how much."""

from collections.abc import Sequence

from muse_bench.analysis.repeats import LEDGER, TIME, Spread, spreads
from muse_bench.record import Record
from muse_bench.report.words import CATEGORIES, duration_text, label, plain
from muse_bench.units import format_bytes, format_mib

FIGURES = {
    "peak_allocated_bytes": "peak",
    "cold_peak_allocated_bytes": "cold peak",
    "peak_reserved_bytes": "reserved",
    "context_bytes": "context",
    "device_peak_bytes": "device",
    TIME: "step time",
}


def repeat_lines(records: Sequence[Record]) -> list[str]:
    """What is to be said of the cases that ran several times, with the models it is about unless it is all of them."""
    models: dict[str, list[str]] = {}
    for record in records:
        if record.repeats:
            models.setdefault(repeat_text(record), []).append(label(record, records))
    return [
        plain(text if len(names) == len(records) else f"{', '.join(names)}: {text}") for text, names in models.items()
    ]


def repeat_text(record: Record) -> str:
    """How often the case ran, what was the same each time, and what was not."""
    total = len(record.repeats)
    failed = sum(one.status != "ok" for one in record.repeats)
    found = spreads(record)
    same = [one for one in found if not one.varies]
    parts = [
        f"{failed} of them failed" if failed else "",
        f"{_listed(_names(same, found, record))} the same to the byte" if _sizes(same) else "",
        *(_varying(one, record, total) for one in found if one.varies),
    ]
    return f"{total} runs: {'; '.join(filter(None, parts))}"


def repeat_rows(record: Record) -> list[tuple[str, str, str, str]]:
    """Each figure, its least and its most, sizes in MiB, and how far they are apart."""
    return [(_name(one.figure, record), *_ends(one)) for one in spreads(record)]


def _varying(one: Spread, record: Record, total: int) -> str:
    lacking = "" if one.runs == total else f" in {one.runs} of them"
    name = _name(one.figure, record)
    if one.figure == TIME:
        return f"{name} {duration_text(one.least)} to {duration_text(one.most)}{lacking}"
    least, most = int(one.least), int(one.most)
    return f"{name} {format_bytes(least)} to {format_bytes(most)}, {_bytes(most - least)} apart{lacking}"


def _ends(one: Spread) -> tuple[str, str, str]:
    if one.figure == TIME:
        return duration_text(one.least), duration_text(one.most), duration_text(one.most - one.least)
    apart = _bytes(int(one.most - one.least)) if one.varies else "same"
    return format_mib(int(one.least)), format_mib(int(one.most)), apart


def _bytes(count: int) -> str:
    """To the byte, which MiB would round away."""
    return f"{count:,} byte{'s' * (count != 1)}"


def _names(same: Sequence[Spread], found: Sequence[Spread], record: Record) -> list[str]:
    """Those of sizes, the lines of the ledger as one where they are all the same."""
    lines = [one for one in found if one.figure.startswith(LEDGER)]
    whole = bool(lines) and not any(one.varies for one in lines)
    names = [_name(one.figure, record) for one in _sizes(same) if not (whole and one in lines)]
    return [*names, "every line of the ledger"] if whole else names


def _sizes(found: Sequence[Spread]) -> list[Spread]:
    return [one for one in found if one.figure != TIME]


def _name(figure: str, record: Record) -> str:
    if figure == "device_peak_bytes" and record.device_peak_provenance == "sampled":
        return f"{FIGURES[figure]} (sampled)"
    return FIGURES.get(figure) or CATEGORIES[figure.removeprefix(LEDGER)]


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
