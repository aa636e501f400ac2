"""`muse-bench floor`: the least memory that each mode could do with, beside what presets take."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from muse_bench.analysis.floor import REPORTED_SIZES, Bounded, floor_of
from muse_bench.cli import console
from muse_bench.cli.cases import build_cases, split_models
from muse_bench.cli.options import (
    DEFAULT_MODELS,
    MODEL,
    PROTOCOL,
    Backend,
    BudgetOptions,
    Models,
    ProtocolOptions,
    RunOptions,
    SizeOptions,
)
from muse_bench.cli.outputs import Outputs
from muse_bench.cli.run import case_status, run_cases
from muse_bench.cli.sheets import joined
from muse_bench.config import Case, ModelConfig, Workspace
from muse_bench.errors import UsageError
from muse_bench.execution.weighing import weigh_cases
from muse_bench.models.presets import PRESETS
from muse_bench.record import Record, RunFile, read_run_file
from muse_bench.report import Format
from muse_bench.report.floor import render_csv, render_json, sheets
from muse_bench.report.sheet import Sheet, render_markdown, render_terminal
from muse_bench.schema import known_fields

MODES: dict[str, dict[str, Any]] = {
    "train": {"mode": "train"},
    "forward-backward": {"mode": "forward-backward"},
    "inference": {"mode": "inference"},
    "inference-last": {"mode": "inference", "logits": "last"},
    "decode": {"mode": "decode"},
}
BUDGET = BudgetOptions()


def floor(
    sizes: SizeOptions,
    options: RunOptions,
    models: Models = DEFAULT_MODELS,
    modes: Annotated[
        str, typer.Option(metavar="A,B", help=f"Of {', '.join(MODES)}.", rich_help_panel=PROTOCOL)
    ] = ",".join(MODES),
    workspace: Annotated[
        Workspace,
        typer.Option(
            metavar="default|off", help="The workspaces of cuBLAS, the same for all.", rich_help_panel=PROTOCOL
        ),
    ] = "default",
    saved: Annotated[
        list[Path] | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Take the peaks of saved records; run nothing. Repeatable.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    backend: Backend = "auto",
) -> int:
    """Show the least memory that each mode needs, part by part, beside what each preset takes.

    The parts of a floor are counted on the preset itself; each has its formula
    below the table. Peaks are measured where there is a GPU, else predicted.
    Exits with 4 when a case ran out of memory or crashed.

    \b
    Examples:
      muse-bench floor --vocab 50000 --d-model 1024
      muse-bench floor --models baseline,muse --modes train,decode -o floor.md
      muse-bench floor --from peaks.json --output floor.csv
    """
    if saved:
        run = joined([_presets_only(read_run_file(path), path) for path in saved], saved)
        cases = [case_of(record) for record in run.records]
    else:
        cases = [
            case
            for mode in parse_modes(modes)
            for case in build_cases(split_models(models), sizes, ProtocolOptions(workspace=workspace, **mode), BUDGET)
        ]
    if (own := next((case.model for case in cases if case.config is None), None)) is not None:
        raise UsageError(f"'{own}' has no floor: its parts are counted on presets, such as {', '.join(PRESETS)}")
    wanted = [*cases, *reported_cases()]
    counted = weigh_cases(wanted)
    *floors, every, last = map(floor_of, wanted, counted)

    def bounded(run: RunFile) -> list[Bounded]:
        """The rows of a run that may not have come to its end; a saved model may have changed since."""
        found = zip(run.records, floors, counted, strict=False)
        return [Bounded(record, own) for record, own, count in found if record.parameters in (None, count.parameters)]

    def shown(run: RunFile) -> list[Sheet]:
        return sheets(run, bounded(run), (every, last))

    written: list[Format[RunFile]] = [
        Format("markdown", ".md", True, lambda run: render_markdown(*shown(run), command=run.command)),
        Format("csv", ".csv", False, lambda run: render_csv(bounded(run))),
        Format("json", ".json", False, lambda run: render_json(run, bounded(run))),
    ]
    if saved:
        Outputs(options.output or (), written).write(run)
        console.stdout().print(render_terminal(*shown(run)))
        return case_status(run)
    return case_status(
        run_cases(cases, backend, options, finish=tuple, show=lambda run: render_terminal(*shown(run)), written=written)
    )


def parse_modes(text: str) -> list[dict[str, Any]]:
    """The protocols in 'a,b'.

    Raises: UsageError for a word that is none.
    """
    words = dict.fromkeys(word.strip() for word in text.split(","))
    for word in words:
        if word not in MODES:
            raise UsageError(f"--modes '{word}' is unknown: choose from {', '.join(MODES)}")
    return [MODES[word] for word in words]


def reported_cases() -> list[Case]:
    """What the reports' own floor is about, with all logits and with the last."""
    sizes = REPORTED_SIZES
    scaled = SizeOptions(
        vocab=sizes.vocab_size,
        d_model=sizes.d_model,
        layers=sizes.n_layers,
        heads=sizes.n_heads,
        seq=sizes.seq_len,
    )
    protocols = (ProtocolOptions(**MODES[mode]) for mode in ("inference", "inference-last"))
    return [case for protocol in protocols for case in build_cases(["ultimate"], scaled, protocol, BUDGET)]


def _presets_only(run: RunFile, path: Path) -> RunFile:
    """Raises: UsageError when there is no record of a preset: nothing is known of other models' parts."""
    kept = tuple(record for record in run.records if record.model in PRESETS)
    if not kept:
        raise UsageError(f"{path}: holds no record of a preset: floors are counted on {', '.join(PRESETS)}")
    return dataclasses.replace(run, records=kept)


def case_of(record: Record) -> Case:
    """The case that a preset's record is of. Raises: UsageError for a config or protocol that there is not."""
    try:
        config = ModelConfig(**known_fields(ModelConfig, record.config))
    except TypeError as error:
        raise UsageError(f"the record of '{record.model}' does not hold the config of a preset") from error
    protocol: dict[str, Any] = {
        "mode": record.mode,
        "dtype": record.dtype,
        "autocast": record.autocast,
        "optimizer": record.optimizer or "none",
        "logits": record.logits,
        "workspace": record.workspace_setting,
    }
    if record.new_tokens is not None:
        protocol["new_tokens"] = record.new_tokens
    return Case(
        model=record.model,
        config=config,
        batch=record.batch,
        seq=record.seq,
        vocab_size=config.vocab_size,
        update=PRESETS[record.model].update if record.mode == "train" else "after",
        micro_batch=record.micro_batch,
        **protocol,
    )
