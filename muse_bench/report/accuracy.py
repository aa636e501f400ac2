"""The tables of a calibration: errors by part, verdicts that came true, other predictors, and each case."""

from collections.abc import Iterable, Iterator, Sequence

from muse_bench.analysis.accuracy import FIGURES, Pair, Summary, pair_up, summarise
from muse_bench.analysis.calibration import (
    BUDGETS,
    HEADROOM,
    WITH_WORKSPACES,
    VerdictCount,
    by_part,
    compare_peers,
    count_verdicts,
    part_of,
)
from muse_bench.record import Record, RunFile
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import ENDINGS, plain
from muse_bench.units import GIB, format_mib

NAMES = {
    "peak_allocated_bytes": "peak",
    "cold_peak_allocated_bytes": "cold",
    "peak_reserved_bytes": "reserved",
    "device_peak_bytes": "device",
}
PREDICTORS = {
    "mem-tracker": "MemTracker, CPU tensors",
    f"mem-tracker{WITH_WORKSPACES}": "the same and our workspaces",
    "mem-tracker-cuda": "MemTracker, CUDA tensors",
    f"mem-tracker-cuda{WITH_WORKSPACES}": "the same and our workspaces",
    "accelerate": "accelerate estimate-memory",
}
ERRORS = ("median", "p95", "worst", "under")
ZOO = "muse_bench.calibration.zoo:"
SIZES = "Sizes: vocabulary/width of a preset, then batch x sequence."


def accuracy_sheets(runs: Sequence[RunFile]) -> tuple[Sheet, ...]:
    """The tables of every case that is both measured and predicted; of the predictions alone where there is none."""
    records = [record for run in runs for record in run.records]
    pairs = pair_up(records)
    if not pairs:
        return (_predictions(records),)
    peers = _peers(pairs)
    return (_summary(pairs, runs), _verdicts(pairs), *([peers] if peers.rows else []), _cases(pairs, records))


def case_name(record: Record) -> str:
    """The model and how it runs, in a few words."""
    autocast = f" autocast {record.autocast}" if record.autocast else ""
    return plain(f"{record.model.removeprefix(ZOO).replace('_', '-')} {record.dtype}{autocast}")


def _summary(pairs: Sequence[Pair], runs: Sequence[RunFile]) -> Sheet:
    releases = sorted({f"torch {run.environment.torch}" for run in runs})
    commits = ", ".join(dict.fromkeys(run.environment.commit for run in runs if run.environment.commit))
    rows = [
        (part, NAMES[figure], *_summary_cells(summary), f"{summary.worst_under_estimate:.2%}")
        for part, group in by_part(pairs).items()
        for figure in FIGURES
        if (summary := summarise(pair.error(figure) for pair in group)) is not None
    ]
    return Sheet(
        title=f"Prediction error, {_gpus(pair.measured for pair in pairs)}",
        headings=("part", "figure", "cases", *ERRORS, "worst under"),
        rows=rows,
        labels=2,
        notes=(
            "Errors by absolute size: median, 95th percentile (p95) and worst; under: how many predictions say less "
            "than was measured, and by how much.",
            "No rule of prediction was changed for a held-out case; other: not in the matrix.",
            f"{plain('; '.join(releases))}."
            + (" Releases differ in what they keep for cuBLAS, by a few MiB." if len(releases) > 1 else ""),
            *([plain(f"Commits: {commits}.")] if commits else []),
        ),
    )


def _summary_cells(summary: Summary) -> tuple[str, ...]:
    errors = (summary.median, summary.percentile_95, summary.worst)
    return (str(summary.cases), *(f"{error:.2%}" for error in errors), str(summary.under_estimates))


def _verdicts(pairs: Sequence[Pair]) -> Sheet:
    return Sheet(
        title="No PASS that fails: predicted verdicts against measured use",
        headings=("budget", "PASS right", "PASS wrong", "FAIL right", "FAIL wrong", "INCONCLUSIVE"),
        rows=[_verdict_row(count_verdicts(pairs, budget)) for budget in BUDGETS],
        notes=(
            f"Each budget less {HEADROOM:.0%} headroom is the limit. PASS wrong: the measured device peak exceeds it; "
            "FAIL wrong: it does not.",
        ),
    )


def _verdict_row(count: VerdictCount) -> tuple[str, ...]:
    counts = (count.passes_right, count.passes_wrong, count.fails_right, count.fails_wrong, count.inconclusive)
    return (f"{count.budget_bytes // GIB} GiB", *map(str, counts))


def _peers(pairs: Sequence[Pair]) -> Sheet:
    return Sheet(
        title="Other predictors, steady peak",
        headings=("part", "predictor", "cases", "no answer", *ERRORS),
        rows=[
            (
                found.part,
                plain(PREDICTORS.get(found.predictor, found.predictor)),
                *_with_no_answer(found.errors, found.without_answer),
            )
            for found in compare_peers(pairs)
        ],
        labels=2,
        notes=(
            "MemTracker: torch's, under FakeTensorMode, the peak of the second step. It knows no workspaces of cuBLAS; "
            "a second row adds those that muse-bench predicts.",
            "accelerate: its weights for inference and decoding, its training with Adam; no answer for the rest.",
        ),
    )


def _with_no_answer(errors: Summary | None, without: int) -> tuple[str, ...]:
    cells = ("0", *("-" for _ in ERRORS)) if errors is None else _summary_cells(errors)
    return (cells[0], str(without), *cells[1:])


def _cases(pairs: Sequence[Pair], records: Iterable[Record]) -> Sheet:
    return Sheet(
        title="Each case, in MiB",
        headings=("part", "case", "peak", "predicted", "error", "cold", "reserved", "device"),
        rows=[_case_row(pair) for pair in pairs],
        labels=2,
        notes=(f"cold, reserved and device are errors of the prediction. {SIZES}", *_failures(records)),
    )


def _case_row(pair: Pair) -> tuple[str, ...]:
    record = pair.measured
    return (
        part_of(record),
        case_text(record),
        format_mib(record.peak_allocated_bytes),
        format_mib(pair.predicted.peak_allocated_bytes),
        *(_percent(pair.error(figure)) for figure in FIGURES),
    )


def _predictions(records: Sequence[Record]) -> Sheet:
    predicted = [record for record in records if record.provenance == "predicted"]
    return Sheet(
        title=f"Predicted for {_gpus(predicted)}, in MiB",
        headings=("part", "case", *(NAMES[figure] for figure in FIGURES)),
        rows=[
            (part_of(one), case_text(one), *(format_mib(getattr(one, figure)) for figure in FIGURES))
            for one in predicted
        ],
        labels=2,
        notes=(SIZES, *_failures(records)),
    )


def case_text(record: Record) -> str:
    """The whole case in one text."""
    optimizer = f" {record.optimizer}" if record.optimizer else ""
    workspace = " workspace off" if record.workspace_setting == "off" else ""
    return plain(f"{case_name(record)}, {record.mode}{optimizer}{workspace}, {_sizes(record)}")


def _failures(records: Iterable[Record]) -> Iterator[str]:
    """A line for each case that was not measured, or not predicted."""
    for record in records:
        if record.status != "ok":
            what = "measurement" if record.provenance == "measured" else "prediction"
            reason = f": {record.reason}" if record.reason else ""
            yield plain(f"{case_text(record)}: the {what} {ENDINGS[record.status]}{reason}")


def _gpus(records: Iterable[Record]) -> str:
    return plain(", ".join(sorted({str(record.gpu) for record in records})))


def _sizes(record: Record) -> str:
    vocab, width = (record.config.get(name) for name in ("vocab_size", "d_model"))
    shape = f"{vocab}/{width}, " if width else ""
    return f"{shape}{record.batch} x {record.input_shape or record.seq}"


def _percent(error: float | None) -> str:
    return "-" if error is None else f"{error:+.2%}"
