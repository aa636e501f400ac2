"""A case on several GPUs, and the same on one to compare it with."""

import dataclasses
import os
from collections.abc import Mapping, Sequence

from rich.console import RenderableType

from muse_bench.cli.options import ShardingOptions
from muse_bench.config import Case, Sharding
from muse_bench.errors import UsageError
from muse_bench.record import RunFile
from muse_bench.report.single import single

FLAGS: dict[str, Sharding] = {"fsdp": "fsdp", "tensor_parallel": "tensor", "replicas": "replicas"}
DEFAULT_RANKS = 2


def sharded(
    cases: Sequence[Case], options: ShardingOptions, environment: Mapping[str, str] = os.environ
) -> Sequence[Case]:
    """The one case as the options share it out, with the same on one GPU behind it; as it is without such options.

    Raises: UsageError for two ways at once, for ranks without one, and for torchrun on several machines.
    """
    chosen = [flag for flag in FLAGS if getattr(options, flag)]
    if not chosen:
        if options.ranks is not None:
            raise UsageError(f"--ranks {options.ranks} shares nothing out: add --fsdp, --tensor-parallel or --replicas")
        return cases
    if len(chosen) > 1:
        raise UsageError(f"choose one of {', '.join(_option(flag) for flag in chosen)}")
    here, everywhere = environment.get("LOCAL_WORLD_SIZE"), environment.get("WORLD_SIZE")
    if here != everywhere:
        raise UsageError(f"torchrun runs {everywhere} processes, {here} of them here: cases run on one machine alone")
    ranks = options.ranks if options.ranks is not None else int(everywhere or DEFAULT_RANKS)
    if ranks < 2:
        raise UsageError(f"--ranks {ranks} is one GPU: give 2 or more, or leave out {_option(chosen[0])}")
    (case,) = cases
    alone = dataclasses.replace(case, execution="eager")
    return [dataclasses.replace(alone, sharding=FLAGS[chosen[0]], ranks=ranks), alone]


def follows(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this is a process of torchrun that the first one does not need: it starts a fresh one for each rank."""
    return environment.get("RANK", "0") != "0" and "WORLD_SIZE" in environment


def asked(run: RunFile) -> RunFile:
    """The run with its first record alone: a second one is what it is compared with, and may well not fit."""
    return dataclasses.replace(run, records=run.records[:1])


def show_first(run: RunFile) -> RenderableType:
    """The record that was asked for, in full."""
    return single(asked(run))


def _option(flag: str) -> str:
    return f"--{flag.replace('_', '-')}"
