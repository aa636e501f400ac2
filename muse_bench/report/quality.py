"""The tables of the quality bench: what was learned and how, what that took, and the sweep of rates; rows as CSV."""

import csv
import dataclasses
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from muse_bench.analysis.comparison import choose_baseline
from muse_bench.analysis.quality import Spread, Summary, compare_quality
from muse_bench.quality.record import QualityRow, QualityRun
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import count_text, percent_text, plain, rate_text
from muse_bench.units import format_bytes, format_mib

QUALITY = ("model", "seeds", "loss", "- baseline", "perplexity", "bits/byte")
COST = ("model", "trained in", "params", "rate", "tokens/s", "peak", "reduction", "time")
ENDINGS = {"diverged": "diverged", "oom": "ran out of memory", "crashed": "failed"}
CURVES = "Training loss on the way, by tokens"
MOST_PASSES = 2
ON_THE_WAY = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)  # shares of the tokens at which the training loss is shown
WINDOW = 0.05  # the share of the tokens before each that it is averaged over
EXPLANATION = (
    "loss: nats a token on text that was not trained on, mean and standard deviation over the seeds that came to their "
    "end; - baseline: less the baseline's of the same seed; perplexity: of the mean loss. All saw the same batches in "
    "the same order, seed by seed.",
    "tokens/s: in training, start and validation left out. peak: MiB, the most allocated at once in training, the "
    "tokenised text left out. time: all of the model's runs, its sweep included.",
)


def quality_sheets(run: QualityRun, baseline: str | None = None) -> list[Sheet]:
    """For each protocol: what the models learned, what it took, and how their rates were chosen.

    Raises: UsageError when the wanted baseline is not among the models.
    """
    against = choose_baseline([row.model for row in run.rows], baseline)
    sheets = []
    for comparison in compare_quality(run.rows, against):
        ended = [one for one in comparison.summaries if one.rows]
        if ended:
            sheets.append(_quality(comparison.first, ended, against))
            sheets += [_curves(comparison.first.tokens, ended)] if any(row.curve for row in _rows(ended)) else []
            sheets.append(_cost(ended))
        swept = [one for one in comparison.summaries if one.sweep]
        if swept:
            sheets.append(_sweep(swept))
    last = sheets[-1]
    sheets[-1] = dataclasses.replace(last, notes=(*last.notes, *EXPLANATION, _text(run), _software(run)))
    return sheets


def render_csv(run: QualityRun) -> str:
    """A line for each training run, its curve left out; a missing value is empty."""
    lines = [_flat(row) for row in run.rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(lines[0]), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return stream.getvalue()


def _quality(first: QualityRow, summaries: Sequence[Summary], baseline: str) -> Sheet:
    return Sheet(
        title=plain(protocol_text(first)),
        headings=QUALITY,
        rows=[_quality_cells(one, baseline) for one in summaries],
        notes=(*_failures(row for one in summaries for row in one.rows), *_warnings(first, summaries)),
    )


def _quality_cells(summary: Summary, baseline: str) -> tuple[str, ...]:
    failed = next((row.status for row in summary.rows if row.status != "ok"), "-")
    return (
        plain(summary.model),
        f"{len(summary.ended)} of {len(summary.rows)}",
        failed if summary.loss is None else spread_text(summary.loss, 4),
        "" if summary.model == baseline else spread_text(summary.difference, 4, sign=True),
        "-" if summary.perplexity is None else _figure(summary.perplexity),
        spread_text(summary.bits_per_byte, 4, bare=True),
    )


def _rows(summaries: Iterable[Summary]) -> Iterator[QualityRow]:
    return (row for one in summaries for row in one.ended)


def _curves(tokens: int, summaries: Sequence[Summary]) -> Sheet:
    return Sheet(
        title=CURVES,
        headings=("model", *(count_text(round(tokens * share)) for share in ON_THE_WAY)),
        rows=[(plain(one.model), *(_passed(one, tokens * share) for share in ON_THE_WAY)) for one in summaries],
        notes=(f"each the mean of the {WINDOW:.0%} of the tokens before, over all seeds",),
    )


def _passed(summary: Summary, tokens: float) -> str:
    """The training loss up to so many tokens."""
    losses = [
        loss
        for row in summary.ended
        for seen, loss in row.curve
        if tokens - WINDOW * row.tokens < seen <= max(tokens, row.curve[0][0])
    ]
    return f"{statistics.fmean(losses):.3f}" if losses else "-"


def _cost(summaries: Sequence[Summary]) -> Sheet:
    return Sheet(
        title="What it took",
        headings=COST,
        rows=[_cost_cells(one) for one in summaries],
        labels=2,
        notes=tuple(_remarks(summaries)),
    )


def _cost_cells(summary: Summary) -> tuple[str, ...]:
    row, speed = summary.rows[0], summary.tokens_per_second
    seconds = sum(one.seconds or 0.0 for one in (*summary.rows, *summary.sweep))
    return (
        plain(summary.model),
        f"{_precision(row)} {row.optimizer}",
        count_text(row.parameters),
        f"{row.lr:g}",
        rate_text(None if speed is None else speed.mean),
        format_mib(summary.peak_bytes),
        percent_text(summary.reduction),
        _clock(seconds),
    )


def _precision(row: QualityRow) -> str:
    if row.autocast is not None:
        return f"{row.autocast} autocast"
    return "tf32" if row.tf32 else row.dtype


def _sweep(summaries: Sequence[Summary]) -> Sheet:
    rates = sorted({row.lr for one in summaries for row in one.sweep})
    tokens = sorted({row.tokens for one in summaries for row in one.sweep})
    return Sheet(
        title=f"Validation loss by learning rate, after {' and '.join(map(count_text, tokens))} tokens",
        headings=("model", *(f"{rate:g}" for rate in rates)),
        rows=[(plain(one.model), *(_swept(one, rate) for rate in rates)) for one in summaries],
        notes=tuple(_failures(row for one in summaries for row in one.sweep)),
    )


def _swept(summary: Summary, rate: float) -> str:
    """The loss at a rate, with a star where it was chosen."""
    row = next((one for one in summary.sweep if one.lr == rate), None)
    if row is None:
        return ""
    loss = row.status if row.validation_loss is None or row.status != "ok" else f"{row.validation_loss:.4f}"
    return f"{loss} *" if summary.rows and summary.rows[0].lr == rate else loss


def learned_text(summary: Summary) -> str:
    """The loss that a model came to, and the peak of its training."""
    return f"loss {spread_text(summary.loss, 4)}, {format_mib(summary.peak_bytes)} MiB"


def protocol_text(row: QualityRow) -> str:
    """The tokens, sizes and batches that a row was trained with."""
    sizes = [("vocab {:,}", "vocab_size"), ("d_model {:,}", "d_model"), ("{} layers", "n_layers")]
    facts = [text.format(row.config[name]) for text, name in sizes if isinstance(row.config.get(name), int)]
    passes = f"{row.tokens / row.pool_tokens:.1f} passes"
    return ", ".join([f"Quality after {count_text(row.tokens)} tokens ({passes})", *facts, _batches(row)])


def _batches(row: QualityRow) -> str:
    return f"seq {row.seq:,}, batch {row.batch}"


def _failures(rows: Iterable[QualityRow]) -> Iterator[str]:
    """A line for each run without a result, with its reason."""
    for row in rows:
        if row.status != "ok":
            reason = f": {row.reason}" if row.reason else ""
            yield plain(f"{row.model}, rate {row.lr:g}, seed {row.seed} {ENDINGS[row.status]}{reason}")


def _warnings(first: QualityRow, summaries: Sequence[Summary]) -> Iterator[str]:
    """What a reader has to know before comparing."""
    for edge in ("largest", "smallest"):
        models = ", ".join(one.model for one in summaries if one.edge == edge)
        if models:
            yield plain(f"the best rate is the {edge} that was tried, and a better one may lie beyond: {models}")
    if first.tokens > MOST_PASSES * first.pool_tokens:
        yield "the text was gone through more than twice: models that memorise come out too well"


def _remarks(summaries: Sequence[Summary]) -> Iterator[str]:
    """Notes of the runs, each once for each model, and what float16 had to skip."""
    for one in summaries:
        for note in dict.fromkeys(note for row in one.rows for note in row.notes):
            yield plain(f"{one.model}: {note}")
        skipped = sum(row.skipped_steps or 0 for row in one.rows)
        if skipped:
            yield plain(f"{one.model}: steps skipped as scaled gradients overflowed float16: {skipped:,}")


def _text(run: QualityRun) -> str:
    corpus = run.corpus
    return plain(
        f"Text: {corpus.source}, {corpus.files:,} documents, {format_bytes(corpus.total_bytes)}, of which "
        f"{format_bytes(corpus.validation_bytes, decimals=2)} to validate on; SHA-256 {corpus.sha256[:16]}; byte-level "
        f"BPE of {run.tokenizer.words:,} words."
    )


def _software(run: QualityRun) -> str:
    environment = run.environment
    card = environment.gpu or "no GPU"
    commit = f", commit {environment.commit}" if environment.commit else ""
    return plain(f"{card}; muse-bench {environment.muse_bench}{commit}, torch {environment.torch}.")


def _flat(row: QualityRow) -> dict[str, Any]:
    values = {f.name: getattr(row, f.name) for f in dataclasses.fields(row) if f.name != "curve"}
    values["config"] = " ".join(f"{name}={value}" for name, value in row.config.items() if value is not None)
    values["notes"] = "; ".join(row.notes)
    return values


def spread_text(value: Spread | None, decimals: int, *, sign: bool = False, bare: bool = False) -> str:
    """The mean and, unless `bare`, the deviation after it; a dash for None."""
    if value is None:
        return "-"
    mean = f"{value.mean:+.{decimals}f}" if sign else f"{value.mean:.{decimals}f}"
    return mean if bare or value.deviation is None else f"{mean} ± {value.deviation:.{decimals}f}"


def _figure(value: float) -> str:
    return f"{value:,.2f}" if value < 1_000 else f"{value:,.0f}" if value < 1e9 else f"{value:.1e}"


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"
