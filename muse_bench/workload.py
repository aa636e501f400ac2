"""A case becomes a workload: a model, its optimizer, a batch, and one `step()`.

Measuring and predicting run this same code, on a CUDA device or on `meta`, so neither can drift from the other.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from muse_bench.autocast import forward_autocast
from muse_bench.capture import GraphedStep
from muse_bench.config import HUGGING_FACE, SETUP, TRAINING_MODES, Case
from muse_bench.errors import DtypesDiffer
from muse_bench.layers.head import plain_loss
from muse_bench.layers.mixer import State, state_bytes
from muse_bench.layers.quantised import quantise_linears
from muse_bench.models.external import build_external, build_setup, models_of
from muse_bench.models.hugging_face import build_hugging_face, own_vocabulary
from muse_bench.models.language_model import LanguageModel
from muse_bench.optim import build_optimizer
from muse_bench.step import Step
from muse_bench.streaming.memory import HostRoom
from muse_bench.streaming.traffic import Traffic, counted

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
Run = Callable[["Workload"], None]
Build = Callable[[Case, torch.device], "Workload"]


@dataclass(slots=True)
class Workload:
    """What one case runs. `step()` leaves nothing alive but the model, its gradients when the protocol keeps
    them, and the optimizer's state.

    `ids` and `targets`: (batch, seq) int64 on the device; a step of someone's own has `others` instead, and no ids.
    `tokens_per_step` counts tokens read, or generated, where that is known.
    `state_per_sequence_bytes` is what decoding keeps of each sequence, known from the first step on. `traffic` is what
    crossed the link between host and device in the last step, `new_token_bytes` what went to the device for each token
    after the first; of a user's own model neither is known.
    """

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    ids: Tensor
    targets: Tensor | None
    tokens_per_step: int | None
    _run: Run = field(repr=False)
    state_per_sequence_bytes: int | None = None
    traffic: Traffic | None = None
    new_token_bytes: int | None = None
    others: tuple[Tensor, ...] = ()
    _updates: bool = field(default=False, repr=False)
    _graphed: GraphedStep | None = field(default=None, repr=False)

    def step(self) -> None:
        """One step of the case's mode; on CUDA a captured one, where the case asks for it."""
        self.arm()
        with counted() as crossed:
            self._launch()
        if isinstance(self.model, LanguageModel) and (crossed or self.traffic is None):
            self.traffic = crossed  # a replayed graph counts nothing

    def _launch(self) -> None:
        if self.case.execution == "eager" or not self.ids.is_cuda:
            self._run(self)
            return
        if self._graphed is None:
            self._graphed = GraphedStep(lambda: self._run(self))
        self._graphed()

    @torch.no_grad()
    def read_prompt(self) -> None:
        """What a step of decoding does until it has its first new token."""
        _read_prompt(self)

    def arm(self) -> None:
        """Has backward update each parameter as its gradient appears, where the case asks for it.

        In the first step, so that those who watch gradients are called before these are gone.
        """
        if self.case.update == "in-backward" and self.optimizer is not None and not self._updates:
            self._updates = True
            _update_in_backward(self.model, self.optimizer)

    @property
    def parameters(self) -> int:
        """The number of parameters, each shared one once, int8 weights and buffers not counted."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def inputs(self) -> list[Tensor]:
        """The tensors of the batch."""
        return [tensor for tensor in (self.ids, self.targets, *self.others) if tensor is not None]

    def host_bytes(self) -> dict[str, int] | None:
        """What the steps so far have kept in pinned host memory, in bytes by part; None for a user's own model."""
        return self.model.host_bytes() if isinstance(self.model, LanguageModel) else None


def build_workload(
    case: Case,
    device: torch.device,
    model: nn.Module | Step | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Workload:
    """Builds the model on the device in the case's dtype, unless it is there, its optimizer and a random batch.

    A step of someone's own brings its optimizer and its batch. `say` hears how far a model has come that takes long.
    Raises: UsageError for a user's factory that fails; HostMemoryShort for weights that host memory has no place for.
    """
    if isinstance(model, Step):
        return _own_workload(case, device, model)
    torch.manual_seed(case.seed)
    if case.has_own_step:
        return _own_workload(case, device, _build_setup(case, device))
    if model is None:
        model = _build_model(case, device, say)
    vocab_size = own_vocabulary(model) if case.config is None else None
    vocab_size = vocab_size or case.vocab_size
    training = case.mode in TRAINING_MODES
    model.train(training)
    name = case.optimizer if case.mode == "train" else "none"
    optimizer = build_optimizer(name, model.parameters(), vocab_size)
    ids = torch.randint(vocab_size, (case.batch, case.seq), device=device)
    targets = torch.randint(vocab_size, (case.batch, case.seq), device=device) if case.mode == "train" else None
    tokens = case.batch * (case.new_tokens if case.mode == "decode" else case.seq)
    return Workload(case, model, optimizer, ids, targets, tokens, STEPS[case.mode])


def _update_in_backward(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """A parameter is updated, and its gradient freed, once that is whole: by itself, or with its part of the model."""

    (group,) = optimizer.param_groups
    everything = group["params"]

    def update(parameters: Iterable[nn.Parameter]) -> None:
        given = [parameter for parameter in parameters if parameter.grad is not None]
        if not given:
            return
        group["params"] = given  # all others would be looked at for nothing, at each of many updates
        try:
            optimizer.step()
        finally:
            group["params"] = everything
        for parameter in given:
            parameter.grad = None

    together = model.update_in_backward(update, optimizer.state) if isinstance(model, LanguageModel) else set()
    for parameter in model.parameters():
        if parameter not in together:
            parameter.register_post_accumulate_grad_hook(lambda parameter: update([parameter]))


def _build_setup(case: Case, device: torch.device) -> Step:
    with device, default_dtype(DTYPES[case.dtype]):
        return build_setup(case.model.removeprefix(SETUP), device)


def _own_workload(case: Case, device: torch.device, own: Step) -> Workload:
    model = own.model if isinstance(own.model, nn.Module) else nn.ModuleList(models_of(own))
    no_ids = torch.empty(0, dtype=torch.int64, device=device)
    return Workload(
        case, model, own.optimizer, no_ids, None, None, _run=lambda _: _drop(own.step()), others=tuple(own.inputs)
    )


def _drop(result: object) -> None:
    """What a step returns does not outlive it."""


def _build_model(case: Case, device: torch.device, say: Callable[[str], None]) -> nn.Module:
    with device, default_dtype(DTYPES[case.dtype]):
        if case.config is None:
            return _build_foreign(case).to(device=device, dtype=DTYPES[case.dtype])
        model: nn.Module = LanguageModel(case.config, _room(case), say)
    if case.config.int8_inference and case.mode not in TRAINING_MODES:
        model = quantise_linears(model)
    return model


def _build_foreign(case: Case) -> nn.Module:
    if case.model.startswith(HUGGING_FACE):
        return build_hugging_face(case.model, case.seq)
    return build_external(case.model)


def _room(case: Case) -> HostRoom:
    return HostRoom(case.host_memory_bytes, None if case.host_folder is None else Path(case.host_folder))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Inside, new tensors are of this dtype unless told."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _train(work: Workload) -> None:
    assert work.targets is not None
    pairs = list(zip(_micro(work, work.ids), _micro(work, work.targets), strict=True))
    for ids, targets in pairs:
        loss = work_loss(work, ids, targets)
        (loss if len(pairs) == 1 else loss * (len(ids) / work.case.batch)).backward()
        del loss
    if work.optimizer is not None and work.case.update == "after":
        work.optimizer.step()
    work.model.zero_grad(set_to_none=True)


def _forward_backward(work: Workload) -> None:
    """The reports' protocol, in which the output stays alive during backward, as it did in their loop."""
    for ids in _micro(work, work.ids):
        with _autocast(work):
            output = logits_of(work.model(ids))
        output.sum().backward()
        del output


@torch.no_grad()
def _inference(work: Workload) -> None:
    # The logits of every micro-batch are the step's result: all of them stay alive until it ends.
    with _autocast(work):
        _ = [_prompt_logits(work, ids) for ids in _micro(work, work.ids)]


@torch.no_grad()
def _decode(work: Workload) -> None:
    """Greedy generation: the prompt gives the first new token, then each gives the next."""
    assert isinstance(work.model, LanguageModel)
    ids, states = _read_prompt(work)
    others = range(work.case.seq, work.case.seq + work.case.new_tokens - 1)
    with counted() as crossed:
        for start in others:
            ids = work.model.decode_step(ids, states, start).argmax(-1)
    work.new_token_bytes = crossed.to_device_bytes // len(others) if others else None


def _read_prompt(work: Workload) -> tuple[Tensor, list[State]]:
    """The first new token of each sequence, (batch, 1), and the states behind the prompt."""
    assert isinstance(work.model, LanguageModel)
    states = work.model.new_states(work.case.batch, work.case.seq + work.case.new_tokens)
    work.state_per_sequence_bytes = sum(map(state_bytes, states)) // work.case.batch
    return work.model.read_prompt(work.ids, states).argmax(-1), states


STEPS: dict[str, Run] = {
    "train": _train,
    "forward-backward": _forward_backward,
    "inference": _inference,
    "decode": _decode,
}


@contextlib.contextmanager
def _autocast(work: Workload) -> Iterator[None]:
    """Inside, the case's autocast is on. Raises: DtypesDiffer where a kernel does not take what it makes of things."""
    name, dtype = work.case.autocast, work.case.dtype
    with forward_autocast(work.ids.device, None if name is None else DTYPES[name]):
        try:
            yield
        except ValueError as error:
            if name is None or "expected dtype" not in str(error):
                raise
            raise DtypesDiffer(
                f"a kernel of this model takes no --autocast {name} beside weights in {dtype} ({error}): "
                "leave out --autocast and choose --dtype"
            ) from error


def _micro(work: Workload, rows: Tensor) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = rows.split(work.case.micro_batch or work.case.batch)
    return parts


def work_loss(work: Workload, ids: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the workload's model, under its autocast."""
    with _autocast(work):
        return token_loss(work.model, ids, targets)


def token_loss(model: nn.Module, ids: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the targets (batch, seq), by whichever way the model offers."""
    if isinstance(model, LanguageModel):
        return model.loss(ids, targets)
    if "labels" in inspect.signature(model.forward).parameters:  # as the models of transformers do
        loss: Tensor = model(input_ids=ids, labels=targets).loss
        return loss
    return plain_loss(logits_of(model(ids)), targets)


def _prompt_logits(work: Workload, ids: Tensor) -> Tensor:
    last_only = work.case.logits == "last"
    if isinstance(work.model, LanguageModel):
        logits: Tensor = work.model(ids, last_only=last_only)
        return logits
    logits = logits_of(work.model(ids))
    return logits[:, -1:].clone() if last_only else logits


def logits_of(output: Any) -> Tensor:
    """The logits in what a model returns: a tensor, or an object with `.logits`."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits
