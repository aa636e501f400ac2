"""`muse-bench quality`: presets trained on equal tokens of real text, and what they learned."""

import contextlib
import shlex
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.analysis.comparison import choose_baseline
from muse_bench.cli import console
from muse_bench.cli.charts import ChartOptions
from muse_bench.cli.options import DEFAULT_MODELS, RUNNING, Baseline, Models, Output
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.progress import ProgressBar
from muse_bench.cli.run import keep_runs
from muse_bench.cli.training import ReferenceSizes, TextOptions, TrainingOptions, build_plan
from muse_bench.config import Case
from muse_bench.errors import ExitCode, UsageError
from muse_bench.execution.gpu_lock import taken_gpu
from muse_bench.quality.corpus import Corpus, Document, Say, build_corpus
from muse_bench.quality.record import CorpusFacts, QualityRun, TokenizerFacts, merged, read_quality_file
from muse_bench.quality.runner import Plan, QualityRunner
from muse_bench.quality.sources import PYTHON, hub_dataset, installed_python, text_files
from muse_bench.quality.tokens import TokenFiles, cache_folder, check_vocabulary, prepare_tokens
from muse_bench.report import Format, html
from muse_bench.report.charts.picture import Picture
from muse_bench.report.quality import quality_sheets, render_csv
from muse_bench.report.sheet import render_markdown, render_terminal
from muse_bench.units import parse_bytes

FAILED = ("oom", "crashed")


def quality(
    sizes: ReferenceSizes,
    text: TextOptions,
    training: TrainingOptions,
    charts: ChartOptions,
    models: Models = DEFAULT_MODELS,
    baseline: Baseline = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with the .json output, which a run that broke off goes on with in any case.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    saved: Annotated[
        list[Path] | None,
        typer.Option("--from", metavar="FILE", help="Show saved runs; train nothing. Repeatable."),
    ] = None,
    output: Output = None,
) -> int:
    """Train models on equal tokens of real text, and compare what they learned.

    Each model tries the same learning rates on a share of the tokens and is
    then trained at its best one, once a seed, on the same batches in the same
    order as the others. A run that diverges is reported as such. A .json output
    is saved after each run; the same command with the same file goes on after
    an interruption and keeps what has finished, other models included.

    \b
    Examples:
      muse-bench quality --tokens 100M --output quality.json --output quality.md
      muse-bench quality --models baseline,tuned --lrs 1e-3 --seeds 0 --tokens 20M
      muse-bench quality --text book.txt --vocab 2000 --tokens 1M
      muse-bench quality --from quality.json
    """
    charts.check()
    outputs = Outputs(output or (), quality_formats(baseline))
    if saved:
        return _show(merged([_read(path) for path in saved]), outputs, baseline, charts)
    if resume and outputs.records is None:
        raise UsageError("--resume goes on with what a .json output holds: add --output NAME.json")
    plan = build_plan(sizes, text, training, models)
    choose_baseline([case.model for case in plan.cases], baseline)
    run = train(plan, text, outputs, output or (), baseline, training)
    charts.draw(_pictures, run)
    return ExitCode.CASE_FAILED if any(row.status in FAILED for row in run.rows) else ExitCode.OK


def train(
    plan: Plan,
    text: TextOptions,
    outputs: Outputs[QualityRun],
    paths: Sequence[Path],
    baseline: str | None,
    training: TrainingOptions,
) -> QualityRun:
    """Trains what the plan asks and the first .json output does not hold yet; saves each run, and shows all."""
    check_vocabulary(plan.cases[0].vocab_size)
    return keep_runs(
        _runs(plan, text, parse_bytes(text.max_text), training, _earlier(paths)),
        outputs,
        lambda run: render_terminal(*quality_sheets(run, _known(run, baseline))),
        total=plan.total,
        finished=lambda run: len(run.rows),
        save=outputs.save,
        again="",
    )


def quality_formats(baseline: str | None) -> tuple[Format[QualityRun], ...]:
    """How trainings are written, beside this baseline."""

    def page(run: QualityRun) -> str:
        found, facts = quality_sheets(run, _known(run, baseline)), html.origin(run.environment)
        return html.render_sheets("Quality after equal tokens", facts, found, _pictures(run), run.command)

    return (
        Format("json", ".json", False, lambda run: run.to_json()),
        Format("csv", ".csv", False, render_csv),
        Format(
            "markdown",
            ".md",
            True,
            lambda run: render_markdown(*quality_sheets(run, _known(run, baseline)), command=run.command),
        ),
        Format("html", html.SUFFIX, False, page, html.check),
    )


def _pictures(run: QualityRun) -> Sequence[Picture]:
    from muse_bench.report.charts import quality as charts  # altair is slow to import

    return charts.pictures(run)


def _known(run: QualityRun, baseline: str | None) -> str | None:
    """The wanted baseline, unless the run broke off before it had a row."""
    return baseline if any(row.model == baseline for row in run.rows) else None


def _read(path: Path) -> QualityRun:
    run = read_quality_file(path)
    if not run.rows:
        raise UsageError(f"{path}: holds no runs")
    return run


def _show(runs: Sequence[QualityRun], outputs: Outputs[QualityRun], baseline: str | None, charts: ChartOptions) -> int:
    for run in runs:
        choose_baseline([row.model for row in run.rows], baseline)
    outputs.write(*runs)
    charts.draw(_pictures, *runs)
    for run in runs:
        console.stdout().print(render_terminal(*quality_sheets(run, baseline)))
    return ExitCode.OK


def _earlier(paths: Sequence[Path]) -> QualityRun | None:
    """The record that is to be gone on with: what the first .json output holds already."""
    for path in paths:
        if path.suffix.lower() == ".json" and path.exists():
            try:
                return read_quality_file(path)
            except UsageError as error:
                raise UsageError(f"{error}; quality goes on with an output that is there: name another") from error
    return None


def _runs(
    plan: Plan, text: TextOptions, max_bytes: int, training: TrainingOptions, earlier: QualityRun | None
) -> Generator[QualityRun]:
    """The run so far, after each training run."""
    command = shlex.join(["muse-bench", *sys.argv[1:]])
    case = plan.cases[0]
    with contextlib.ExitStack() as stack:
        bar = stack.enter_context(ProgressBar(plan.total))
        corpus = _corpus(text, max_bytes, bar.say)
        files = prepare_tokens(corpus, case.vocab_size, plan.tokens + 2 * case.seq, cache_folder(), bar.say)
        _check_enough(files, case)
        stack.enter_context(taken_gpu(None, waits=training.wait, say=console.complain))
        runner = stack.enter_context(
            QualityRunner(
                work=cache_folder() / "unfinished",
                earlier=() if earlier is None else earlier.rows,
                timeout_seconds=training.timeout,
                say=bar.say,
                run_finished=bar.finished,
            )
        )
        if earlier is not None:
            _check_same(earlier, corpus.facts, files.facts, runner.environment.torch)
        for rows in runner.run(plan, files):
            yield QualityRun(
                environment=runner.environment, corpus=corpus.facts, tokenizer=files.facts, rows=rows, command=command
            )


def _corpus(text: TextOptions, max_bytes: int, say: Say) -> Corpus:
    documents: list[Document]
    if text.text:
        source, documents = ", ".join(path.name for path in text.text), text_files(text.text)
    elif text.hf_dataset:
        say(f"loading {text.hf_dataset}")
        source, documents = text.hf_dataset, hub_dataset(text.hf_dataset, max_bytes)
    else:
        source, documents = PYTHON, installed_python()
    return build_corpus(source, documents, max_bytes, say)


def _check_enough(files: TokenFiles, case: Case) -> None:
    for what, count in (("train", files.train_tokens), ("validate", files.validation_tokens)):
        if count <= case.seq:
            raise UsageError(
                f"the text has {count:,} tokens to {what} on, less than a sequence of {case.seq:,}: give more of it"
            )


def _check_same(earlier: QualityRun, corpus: CorpusFacts, tokenizer: TokenizerFacts, torch: str | None) -> None:
    """Raises: UsageError when the output holds runs that these may not stand beside."""
    differences = {
        "text": (earlier.corpus.sha256, corpus.sha256),
        "tokenizer": (earlier.tokenizer.sha256, tokenizer.sha256),
        "torch": (earlier.environment.torch, torch),
    }
    for what, (before, now) in differences.items():
        if before != now:
            raise UsageError(
                f"the .json output holds runs of another {what} ({str(before)[:16]}, now {str(now)[:16]}): name another"
            )
