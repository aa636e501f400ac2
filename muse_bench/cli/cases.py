"""Options to cases: the one place that knows what a command line asks to run."""

import dataclasses
import math
from collections.abc import Sequence

from muse_bench.cli.options import DEFAULT_MODE, BudgetOptions, ProtocolOptions, RunOptions, ScaleOptions, SizeOptions
from muse_bench.config import (
    CAPTURED_OPTIMIZERS,
    HUGGING_FACE,
    SETUP,
    Case,
    Execution,
    Mode,
    ModelConfig,
    Optimizer,
    Sizes,
)
from muse_bench.errors import UsageError
from muse_bench.models.presets import Preset
from muse_bench.models.shapes import choose_shape
from muse_bench.models.variants import find_model
from muse_bench.units import parse_bytes, parse_count, parse_percent, parse_shape

SEEDS = 1 << 63
# What a setup decides by itself; the other options of a protocol are about how its step is run.
SET_UP_BY_ITSELF = ("mode", "autocast", "optimizer", "logits", "new_tokens", "micro_batch")
# What says nothing to a model that reads samples of a shape.
TOKEN_SIZES, TOKEN_PROTOCOL = ("vocab", "seq", "d_model", "layers", "heads"), ("logits", "new_tokens")
CHOSEN_SIZES = ("d_model", "layers", "heads")  # by --params


def split_models(text: str) -> list[str]:
    """The names in 'a,b'.

    Raises: UsageError when one of them is empty.
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise UsageError(
            f"--models '{text}' names an empty model: write names with commas between, such as tuned,ultra"
        )
    return names


def named_model(model: str | None, setup: str | None) -> str:
    """The name of the case's model, which is a model or a setup.

    Raises: UsageError for neither, and for both.
    """
    if setup is None:
        if model is None:
            raise UsageError("Missing argument 'MODEL': name one, or give --setup file.py:function (see --help)")
        return model
    if model is not None:
        raise UsageError(f"--setup {setup} brings its own model: leave out '{model}', or --setup")
    return SETUP + setup


def build_cases(
    models: Sequence[str],
    scale: SizeOptions | ScaleOptions,
    protocol: ProtocolOptions,
    budget: BudgetOptions,
    input_shape: str | None = None,
) -> list[Case]:
    """One case a model, all under the same protocol and budget; with an input shape the models read no tokens.

    Raises: UsageError for an unknown model, and for sizes, choices or a budget that are not right.
    """
    mode = protocol.mode or DEFAULT_MODE
    sizes, parameters = (scale, None) if isinstance(scale, SizeOptions) else _split_scale(scale)
    if not 0 <= protocol.seed < SEEDS:
        raise UsageError(f"--seed {protocol.seed} is not a seed: give a whole number from 0 to below 2^63")
    budget_bytes, headroom = parse_bytes(budget.budget), parse_percent(budget.headroom)
    host_memory = None if budget.host_memory is None else parse_bytes(budget.host_memory)
    if budget.host_folder is not None and not budget.host_folder.is_dir():
        raise UsageError(f"--host-folder {budget.host_folder} is no folder: name one that there is")
    shape = None if input_shape is None else parse_shape(input_shape)
    cases = []
    for model in models:
        if shape is not None:
            _check_reads_no_tokens(model, scale, protocol)
        if model.startswith(SETUP):
            _refuse(model, scale, tuple(field.name for field in dataclasses.fields(scale)), "a step of its own")
            _refuse(model, protocol, SET_UP_BY_ITSELF, "a step of its own")
        if model.startswith(HUGGING_FACE):
            _refuse(model, scale, ("vocab", *CHOSEN_SIZES), "a config of its own")
        preset = None if ":" in model else find_model(model)
        if preset is None and mode == "decode":
            raise UsageError(f"'{model}' cannot decode: only presets keep the state that decoding needs")
        if preset is None and parameters is not None:
            raise UsageError(f"'{model}' has sizes of its own: --params is for presets; leave it out")
        optimizer = protocol.optimizer or (preset.optimizer if preset else "adamw")
        cases.append(
            Case(
                model=model,
                config=None if preset is None else _configure(preset, sizes, _reach(sizes, mode, protocol), parameters),
                mode=mode,
                dtype=protocol.dtype or (preset.dtype if preset else "fp32"),
                batch=sizes.batch,
                seq=1 if model.startswith(SETUP) or shape is not None else sizes.seq,
                vocab_size=sizes.vocab,
                input_shape=shape,
                parameters_asked=parameters,
                autocast=protocol.autocast,
                optimizer=optimizer,
                update=preset.update if preset and mode == "train" else "after",
                execution="eager" if budget.host_folder is not None else _execution(preset, mode, optimizer),
                logits=protocol.logits,
                new_tokens=protocol.new_tokens,
                micro_batch=protocol.micro_batch
                if protocol.micro_batch is not None
                else (preset.micro_batch if preset else None),
                warmup_steps=protocol.warmup,
                measured_steps=protocol.steps,
                workspace=protocol.workspace,
                seed=protocol.seed,
                budget_bytes=budget_bytes,
                headroom=headroom,
                host_memory_bytes=host_memory,
                host_folder=None if budget.host_folder is None else str(budget.host_folder),
            )
        )
    return cases


def _execution(preset: Preset | None, mode: Mode, optimizer: Optimizer) -> Execution:
    """Decoding is not captured: each token's position goes into it as a number, and a graph of all would be huge.

    Nor is what accelerate copies, for it waits for each copy, nor an optimizer that counts outside the device.
    """
    if preset is None or mode == "decode" or preset.parts.get("weights") == "accelerate":
        return "eager"
    return "eager" if mode == "train" and optimizer not in CAPTURED_OPTIMIZERS else preset.execution


def check_run(options: RunOptions) -> None:
    """Raises: UsageError for a time limit that is not above zero, and for retries below zero."""
    if options.retries < 0:
        raise UsageError(f"--retries {options.retries} is no number of times: give 0 or more")
    if options.timeout is not None and not 0 < options.timeout < math.inf:
        raise UsageError(f"--timeout {options.timeout:g} is not a time: give seconds, more than 0")


def _check_reads_no_tokens(model: str, scale: SizeOptions | ScaleOptions, protocol: ProtocolOptions) -> None:
    """Raises: UsageError for a model that cannot do with samples of a shape, and for options that are about tokens."""
    if model.startswith(SETUP):
        raise UsageError(f"'{model}' has a batch of its own: leave out --input-shape")
    if ":" not in model or model.startswith(HUGGING_FACE):
        raise UsageError(f"'{model}' reads tokens: --input-shape is for file.py:factory or package.module:factory")
    _refuse(model, scale, TOKEN_SIZES, "an --input-shape")
    _refuse(model, protocol, TOKEN_PROTOCOL, "an --input-shape")


def _refuse(model: str, options: SizeOptions | ScaleOptions | ProtocolOptions, names: Sequence[str], own: str) -> None:
    """Raises: UsageError for an option that is given and that the model would not look at, with `own` in its place."""
    given = [name for name in names if getattr(options, name) != getattr(type(options), name)]
    if given:
        wrong = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"'{model}' has {own}, which {wrong} would not change: leave it out")


def _split_scale(scale: ScaleOptions) -> tuple[SizeOptions, int | None]:
    """The sizes, those not given as everywhere else, and how many parameters they give way to, if so many are asked."""
    given = {name: getattr(scale, name) for name in CHOSEN_SIZES if getattr(scale, name) is not None}
    sizes = SizeOptions(vocab=scale.vocab, seq=scale.seq, batch=scale.batch, **given)
    if scale.params is None:
        return sizes, None
    if given:
        names = " and ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UsageError(f"--params {scale.params} chooses d-model, layers and heads: leave it out, or {names}")
    return sizes, parse_count(scale.params)


def _reach(sizes: SizeOptions, mode: Mode, protocol: ProtocolOptions) -> int:
    """How far positions and caches must reach: decoding goes on behind the prompt."""
    return sizes.seq + protocol.new_tokens if mode == "decode" else sizes.seq


def _configure(preset: Preset, sizes: SizeOptions, reach: int, parameters: int | None = None) -> ModelConfig:
    plain = Sizes(
        vocab_size=sizes.vocab,
        d_model=sizes.d_model,
        n_layers=sizes.layers,
        n_heads=sizes.heads,
        seq_len=reach,
    )
    return preset.configure(plain if parameters is None else choose_shape(preset, parameters, plain))
