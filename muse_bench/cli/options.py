"""Every command-line option that more than one command takes, declared once, in groups.

A command names the groups it takes; `groups.flattened` turns their fields into options. A default of None
stands for the preset's own value.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from muse_bench.choices import choices
from muse_bench.cli import completion
from muse_bench.config import Backend as BackendName
from muse_bench.config import Dtype, Logits, Mode, Optimizer, Workspace

DEFAULT_MODELS = "baseline,tuned,standard,ultra,extreme,ultimate,muse"
DEFAULT_MODE: Mode = "train"
MODEL, PROTOCOL, RUNNING, OUTPUT = "Model", "Protocol", "Where and how it runs", "Output"
SHARDING = "Several GPUs"

ModelOrSetup = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A preset, a variant such as ultra+mixer_rank=16, package.module:factory, file.py:factory, or hf:NAME: "
        "a type of model or a folder with a config.json, by transformers.",
        show_default=False,
        autocompletion=completion.models,
    ),
]
Setup = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.PY:FUNCTION",
        help="In place of a model, a function that takes a device and returns a muse_bench.Step: its own model, "
        "optimizer, batch and step.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        metavar="AxBxC",
        help="The shape of one sample, such as 3x224x224, for a factory's model that reads no tokens: random samples, "
        "and in training random classes for its scores (batch, classes).",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Models = Annotated[
    str,
    typer.Option(
        metavar="A,B",
        help="The models: presets, variants, factories or hf:NAME.",
        autocompletion=completion.models,
        rich_help_panel=MODEL,
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The model that the others are compared with.",
        show_default="baseline, else encoder, else the first",
        rich_help_panel=MODEL,
    ),
]
Backend = Annotated[
    BackendName,
    typer.Option(
        metavar="BACKEND",
        help="Measure with cuda, predict without, or auto: measure where there is a GPU.",
        rich_help_panel=RUNNING,
    ),
]
Output = Annotated[
    list[Path] | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write the records here, as .csv, .json or .md. Repeatable.",
        rich_help_panel=OUTPUT,
    ),
]


Wait = Annotated[
    bool,
    typer.Option("--wait", help="Wait while another run measures on the GPU, not end.", rich_help_panel=RUNNING),
]

Vocab = Annotated[int, typer.Option(metavar="N", help="Words in the vocabulary.", rich_help_panel=MODEL)]
DModel = Annotated[int, typer.Option(metavar="N", help="Width of the model.", rich_help_panel=MODEL)]
Layers = Annotated[int, typer.Option(metavar="N", help="Number of blocks.", rich_help_panel=MODEL)]
Heads = Annotated[int, typer.Option(metavar="N", help="Attention heads; they divide d-model.", rich_help_panel=MODEL)]
Seq = Annotated[int, typer.Option(metavar="N", help="Tokens in a sequence.", rich_help_panel=PROTOCOL)]
Batch = Annotated[int, typer.Option(metavar="N", help="Sequences in a batch.", rich_help_panel=PROTOCOL)]


@dataclass(frozen=True, kw_only=True)
class SizeOptions:
    """The sizes that a preset is scaled to."""

    vocab: Vocab = 50_000
    d_model: DModel = 1_024
    layers: Layers = 12
    heads: Heads = 16
    seq: Seq = 2_048
    batch: Batch = 1


@dataclass(frozen=True, kw_only=True)
class ScaleOptions:
    """The sizes that a preset is scaled to: width, depth and heads, or how many parameters they shall come to."""

    vocab: Vocab = SizeOptions.vocab
    params: Annotated[
        str | None,
        typer.Option(
            metavar="N",
            help="Parameters, such as 7b: d-model, layers and heads are chosen for each model.",
            rich_help_panel=MODEL,
        ),
    ] = None
    d_model: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Width of the model.", show_default=str(SizeOptions.d_model), rich_help_panel=MODEL
        ),
    ] = None
    layers: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of blocks.", show_default=str(SizeOptions.layers), rich_help_panel=MODEL
        ),
    ] = None
    heads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Attention heads; they divide d-model.",
            show_default=str(SizeOptions.heads),
            rich_help_panel=MODEL,
        ),
    ] = None
    seq: Seq = SizeOptions.seq
    batch: Batch = SizeOptions.batch


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """What one step is, and how many there are."""

    mode: Annotated[
        Mode | None,
        typer.Option(
            metavar="MODE",
            help=f"One of {', '.join(choices(Mode))}.",
            show_default=DEFAULT_MODE,
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            metavar="DTYPE",
            help=f"One of {', '.join(choices(Dtype))}.",
            show_default="the preset's",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    autocast: Annotated[
        Literal["fp16", "bf16"] | None,
        typer.Option(metavar="fp16|bf16", help="Run the forward pass under autocast.", rich_help_panel=PROTOCOL),
    ] = None
    optimizer: Annotated[
        Optimizer | None,
        typer.Option(
            metavar="NAME",
            help=f"One of {', '.join(choices(Optimizer))}.",
            show_default="the preset's",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    logits: Annotated[
        Logits,
        typer.Option(metavar="all|last", help="Inference: the logits that are kept.", rich_help_panel=PROTOCOL),
    ] = "all"
    new_tokens: Annotated[
        int, typer.Option(metavar="N", help="Decode: tokens to generate.", rich_help_panel=PROTOCOL)
    ] = 32
    micro_batch: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Sequences run at a time, of those in the batch.",
            show_default="the preset's, or the batch",
            rich_help_panel=PROTOCOL,
        ),
    ] = None
    warmup: Annotated[
        int, typer.Option(metavar="N", help="Steps before those that count.", rich_help_panel=PROTOCOL)
    ] = 2
    steps: Annotated[int, typer.Option(metavar="N", help="Steps that count.", rich_help_panel=PROTOCOL)] = 3
    workspace: Annotated[
        Workspace,
        typer.Option(
            metavar="default|off", help="The workspaces of cuBLAS, the same for all.", rich_help_panel=PROTOCOL
        ),
    ] = "default"
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed.", rich_help_panel=PROTOCOL)] = 0


@dataclass(frozen=True, kw_only=True)
class BudgetOptions:
    """What the whole device may use for a PASS, and the host beside it."""

    budget: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory of the card that must do.", rich_help_panel=RUNNING)
    ] = "8GiB"
    headroom: Annotated[
        str, typer.Option(metavar="SHARE", help="Share of the budget to leave free.", rich_help_panel=RUNNING)
    ] = "10%"
    host_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Host memory that there is: a prediction that needs more is a FAIL, a run is refused.",
            show_default="what this machine has available",
            rich_help_panel=RUNNING,
        ),
    ] = None
    host_folder: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep what would be in host memory in a file in this folder, where memory is short: slower.",
            show_default="in memory",
            rich_help_panel=RUNNING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ProofOptions:
    """What is run, or simulated, beyond the case itself."""

    prove: Annotated[
        bool,
        typer.Option(
            "--prove",
            help="Run again with the allocator capped at the limit less the context: that decides. Needs a CUDA GPU.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    bisect: Annotated[
        bool,
        typer.Option(
            "--bisect",
            help="Find the least memory in which the step still runs: by running it, or with no GPU by simulation.",
            rich_help_panel=RUNNING,
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ShardingOptions:
    """Whether a case runs on several GPUs at once, and how it is shared out among them."""

    fsdp: Annotated[
        bool,
        typer.Option(
            "--fsdp",
            help="Share weights, gradients and optimizer state out among GPUs by FSDP2, and compare with one GPU.",
            rich_help_panel=SHARDING,
        ),
    ] = False
    tensor_parallel: Annotated[
        bool,
        typer.Option(
            "--tensor-parallel",
            help="Cut matrices by DTensor as the model's plan says, and compare with one GPU.",
            rich_help_panel=SHARDING,
        ),
    ] = False
    replicas: Annotated[
        bool,
        typer.Option(
            "--replicas",
            help="A whole model on each GPU, gradients averaged (DistributedDataParallel), and compare with one GPU.",
            rich_help_panel=SHARDING,
        ),
    ] = False
    ranks: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many GPUs, a process each.",
            show_default="those of torchrun, else 2",
            rich_help_panel=SHARDING,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class RepeatOptions:
    """How often each case runs."""

    repeat: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Run each case so often, each time in a process of its own, and say what varies.",
            rich_help_panel=RUNNING,
        ),
    ] = 1


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where cases run, for how long, and where their records go."""

    gpu: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Predict for this GPU, such as rtx-3080, or auto for the one here, rather than measure.",
            show_default="rtx-4060 when predicting",
            autocompletion=completion.gpus,
            rich_help_panel=RUNNING,
        ),
    ] = None
    timeout: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop a case that takes longer.", rich_help_panel=RUNNING),
    ] = None
    retries: Annotated[
        int,
        typer.Option(
            metavar="N", help="Run a case that crashed or took too long again, up to N times.", rich_help_panel=RUNNING
        ),
    ] = 0
    devices: Annotated[
        str | None,
        typer.Option(
            metavar="all|0,1",
            help="Measure on these CUDA GPUs side by side, all of one model. Times share the host.",
            show_default="the first",
            rich_help_panel=RUNNING,
        ),
    ] = None
    wait: Wait = False
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Go on with a run that broke off: its finished cases lie beside the .json output.",
            rich_help_panel=RUNNING,
        ),
    ] = False
    output: Output = None
