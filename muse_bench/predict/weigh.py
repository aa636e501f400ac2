"""Counts what a case cannot do without, on a model that is built on `meta`: nothing of it runs."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from muse_bench.config import Case
from muse_bench.footprint import Footprint
from muse_bench.layers.mixer import state_bytes
from muse_bench.models.language_model import LanguageModel
from muse_bench.predict.rules import cuda_optimizers
from muse_bench.stored import stored
from muse_bench.workload import DTYPES, Workload, build_workload


def weigh(case: Case) -> Footprint:
    """The footprint of a preset's case. Raises: UsageError as building it does."""
    work = build_workload(case, torch.device("meta"))
    model = work.model
    assert isinstance(model, LanguageModel)
    gradients = [parameter.nbytes for parameter in model.parameters() if parameter.requires_grad]
    inputs = [tensor.nbytes for tensor in work.inputs]
    element = DTYPES[case.autocast or case.dtype].itemsize
    return Footprint(
        parameters=work.parameters,
        weights_bytes=sum(weight.nbytes for weight in _weights(model)),
        gradients_bytes=sum(gradients),
        largest_gradient_bytes=max(gradients),
        largest_operand_bytes=_largest_operand_bytes(model),
        optimizer_bytes=_optimizer_bytes(work),
        inputs_bytes=sum(inputs),
        token_vector_bytes=model.config.d_model * element,
        token_logits_bytes=model.config.vocab_size * element,
        state_per_sequence_bytes=_state_bytes(model, case),
    )


def _weights(model: nn.Module) -> Iterator[Tensor]:
    yield from {tensor: None for parameter in model.parameters() for tensor in stored(parameter)} | dict.fromkeys(
        model.buffers()
    )


def _largest_operand_bytes(model: LanguageModel) -> int:
    """Of all matrices that something is multiplied with; of a table that is only looked up, rows do."""
    tables = {
        id(module.weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding) and module is not model.table
    }
    return max(weight.nbytes for weight in _weights(model) if weight.dim() > 1 and id(weight) not in tables)


def _optimizer_bytes(work: Workload) -> int:
    """What the optimizer keeps on the device after its first step."""
    if work.optimizer is None:
        return 0
    for parameter in work.model.parameters():
        parameter.grad = torch.empty_like(parameter)
    assert isinstance(work.model, LanguageModel)
    with work.model.all_on_device(), cuda_optimizers():
        work.optimizer.step()
    values = (value for state in work.optimizer.state.values() for value in state.values())
    return sum(value.nbytes for value in values if isinstance(value, Tensor) and value.device.type == "meta")


def _state_bytes(model: LanguageModel, case: Case) -> int | None:
    if not model.config.causal:
        return None
    length = case.seq + case.new_tokens if case.mode == "decode" else case.seq
    return sum(map(state_bytes, model.new_states(1, length)))
