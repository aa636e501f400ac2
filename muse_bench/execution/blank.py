"""The record that a case begins with: what was asked for, and nothing yet of what it gave."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from muse_bench.config import Case
from muse_bench.models.parameters import count_parameters
from muse_bench.record import Provenance, Record
from muse_bench.units import format_shape


def blank_record(case: Case, provenance: Provenance, gpu: str | None) -> Record:
    """The record of a case before it has run."""
    trains = case.mode == "train" and not case.has_own_step
    return Record(
        model=case.model,
        config=_config(case),
        mode=case.mode,
        dtype=case.dtype,
        batch=case.batch,
        seq=case.seq,
        status="ok",
        provenance=provenance,
        gpu=gpu,
        optimizer=case.optimizer if trains else None,
        update=case.update if trains and case.optimizer != "none" else None,
        execution=case.execution,
        autocast=case.autocast,
        workspace_setting=case.workspace,
        logits=case.logits,
        new_tokens=case.new_tokens if case.mode == "decode" else None,
        micro_batch=case.micro_batch,
        seed=case.seed,
        input_shape=None if case.input_shape is None else format_shape(case.input_shape),
        sharding=case.sharding,
        ranks=None if case.sharding is None else case.ranks,
        budget_bytes=case.budget_bytes,
        limit_bytes=case.limit_bytes,
        notes=tuple(_notes(case)),
        case_id=case.identity,
    )


def _config(case: Case) -> dict[str, Any]:
    if case.config is not None:
        return dataclasses.asdict(case.config)
    return {} if case.has_own_vocabulary or case.input_shape is not None else {"vocab_size": case.vocab_size}


def _notes(case: Case) -> Iterator[str]:
    if case.parameters_asked is not None:
        yield _chosen(case)
    if case.host_folder is not None and case.config is not None and case.config.weights != "device":
        yield "what is kept in host memory lies in a file: copies are slower than the link, and no step is a CUDA graph"


def _chosen(case: Case) -> str:
    """The sizes that a number of parameters was asked for came to."""
    config = case.config
    assert config is not None  # a user's own model has its own sizes
    shape = f"d_model {config.d_model:,}, {config.n_layers} layers, {config.n_heads} heads"
    return f"chosen for {case.parameters_asked:,} parameters: {shape}, which has {count_parameters(config):,}"
