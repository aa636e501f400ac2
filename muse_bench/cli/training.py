"""The options of training on text, and the plan that they ask for."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from muse_bench.choices import choices
from muse_bench.cli.cases import SEEDS, build_cases, split_models
from muse_bench.cli.options import (
    PROTOCOL,
    RUNNING,
    Batch,
    BudgetOptions,
    DModel,
    Heads,
    Layers,
    ProtocolOptions,
    Seq,
    SizeOptions,
    Vocab,
    Wait,
)
from muse_bench.config import Dtype
from muse_bench.errors import UsageError
from muse_bench.quality.runner import Plan
from muse_bench.units import parse_count

TEXT = "Text"
SWEEP_SHARE = 10


@dataclass(frozen=True, kw_only=True)
class ReferenceSizes(SizeOptions):
    """The reference size, in batches that a GPU can be busy with."""

    vocab: Vocab = 10_000
    d_model: DModel = 512
    layers: Layers = 6
    heads: Heads = 8
    seq: Seq = 512
    batch: Batch = 16


@dataclass(frozen=True, kw_only=True)
class TextOptions:
    """What is trained and validated on."""

    text: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Text to use. Repeatable.", show_default="the installed Python", rich_help_panel=TEXT
        ),
    ] = None
    hf_dataset: Annotated[
        str | None,
        typer.Option(metavar="NAME[:CONFIG]", help="A data set of the Hugging Face hub.", rich_help_panel=TEXT),
    ] = None
    max_text: Annotated[
        str, typer.Option(metavar="SIZE", help="Read no more text than this.", rich_help_panel=TEXT)
    ] = "1GiB"
    validation_tokens: Annotated[
        str, typer.Option(metavar="N", help="Tokens to validate on, or all there are.", rich_help_panel=TEXT)
    ] = "1M"


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How long, at which rates and with which seeds."""

    tokens: Annotated[
        str, typer.Option(metavar="N", help="Tokens to train on, such as 100M.", rich_help_panel=PROTOCOL)
    ] = "20M"
    lrs: Annotated[
        str, typer.Option(metavar="A,B", help="Learning rates to try; the best is used.", rich_help_panel=PROTOCOL)
    ] = "3e-4,1e-3,3e-3"
    sweep_tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Tokens to try each rate on.",
            show_default="a tenth of the tokens",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    seeds: Annotated[
        str, typer.Option(metavar="A,B", help="Seeds of weights and batches.", rich_help_panel=PROTOCOL)
    ] = "0,1,2"
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            metavar="DTYPE",
            help=f"One of {', '.join(choices(Dtype))}, for all.",
            show_default="the preset's",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    micro_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Sequences run at a time.",
            show_default="the preset's, or the batch",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32",
            help="Round the products of fp32 models to TF32: the same memory, several times as fast.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    autocast: Annotated[
        Dtype | None,
        typer.Option(
            metavar="DTYPE",
            help="Train fp32 models under autocast to fp16 or bf16; their weights stay fp32.",
            show_default="off",
            rich_help_panel=RUNNING,
        ),
    ] = None
    compiled: Annotated[
        bool, typer.Option("--compile", help="Train through torch.compile.", rich_help_panel=RUNNING)
    ] = False
    graphs: Annotated[
        bool,
        typer.Option(
            "--cuda-graphs", help="Launch each step as CUDA graphs, where it can be.", rich_help_panel=RUNNING
        ),
    ] = False
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop a training run that takes longer.", rich_help_panel=RUNNING),
    ] = None
    wait: Wait = False


def build_plan(sizes: ReferenceSizes, text: TextOptions, training: TrainingOptions, models: str) -> Plan:
    """What the options ask to train. Raises: UsageError for a value that is not right."""
    if training.timeout is not None and not 0 < training.timeout < math.inf:
        raise UsageError(f"--timeout {training.timeout:g} is not a time: give seconds, more than 0")
    if text.text and text.hf_dataset:
        raise UsageError("--text and --hf-dataset are two sources of text: choose one")
    protocol = ProtocolOptions(dtype=training.dtype, micro_batch=training.micro_batch)
    cases = [
        dataclasses.replace(case, autocast=training.autocast if case.dtype == "fp32" else None)
        for case in build_cases(split_models(models), sizes, protocol, BudgetOptions())
    ]
    for case in cases:
        if case.config is not None and not case.config.causal:
            raise UsageError(f"'{case.model}' is not causal: it sees the tokens that it should predict; leave it out")
        if case.update == "in-backward" and case.dtype == "fp16":
            raise UsageError(
                f"'{case.model}' updates in backward, where a float16 loss scale cannot be undone: use --dtype bf16"
            )
    tokens = parse_count(training.tokens)
    step = sizes.batch * sizes.seq
    lrs = _rates(training.lrs)
    sweep = max(step, tokens // SWEEP_SHARE) if training.sweep_tokens is None else parse_count(training.sweep_tokens)
    for name, count in (("--tokens", tokens), *((("--sweep-tokens", sweep),) if len(lrs) > 1 else ())):
        if count < step:
            raise UsageError(
                f"{name} {count:,} is less than one step: batch {sizes.batch} x seq {sizes.seq} is {step:,}"
            )
    return Plan(
        cases=tuple(cases),
        lrs=lrs,
        seeds=_seeds(training.seeds),
        tokens=tokens,
        sweep_tokens=sweep,
        validation_tokens=max(sizes.seq, parse_count(text.validation_tokens)),
        tf32=training.tf32,
        compiled=training.compiled,
        graphs=training.graphs,
    )


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates):
        raise UsageError(f"--lrs '{text}' are not learning rates: give numbers above 0 with commas, such as 3e-4,1e-3")
    return rates


def _seeds(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) < SEEDS for part in parts):
        raise UsageError(f"--seeds '{text}' are not seeds: give whole numbers with commas between, such as 0,1,2")
    return tuple(dict.fromkeys(map(int, parts)))
