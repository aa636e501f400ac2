"""A case becomes a workload: a model, its optimizer, a batch, and one `step()`.

Measuring and predicting run this same code, on a CUDA device or on `meta`, so neither can drift from the other.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from muse_bench.autocast import forward_autocast
from muse_bench.capture import GraphedStep
from muse_bench.config import HUGGING_FACE, SETUP, TRAINING_MODES, Case
from muse_bench.errors import DtypesDiffer
from muse_bench.layers.mixer import State, state_bytes
from muse_bench.layers.quantised import quantise_linears
from muse_bench.models.external import build_external, build_setup, models_of
from muse_bench.models.hugging_face import build_hugging_face, own_vocabulary
from muse_bench.models.language_model import LanguageModel
from muse_bench.optim import build_optimizer
from muse_bench.outputs import class_loss, output_of, token_loss
from muse_bench.step import Step
from muse_bench.streaming.memory import HostRoom
from muse_bench.streaming.traffic import Traffic, counted

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
LARGEST_CLASS = 1 << 31
Run = Callable[["Workload"], None]
Build = Callable[[Case, torch.device], "Workload"]
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(slots=True)
class Workload:
    """What one case runs. `step()` leaves nothing alive but the model, its gradients when the protocol keeps
    them, and the optimizer's state.

    `x` and `targets`: ids and targets, (batch, seq) int64 on the device; with an input shape samples (batch, *shape) in
    the model's dtype and targets (batch,) int64. A step of someone's own has `others` instead, and an empty x.
    `tokens_per_step` counts tokens read, or generated, where that is known.
    `state_per_sequence_bytes` is what decoding keeps of each sequence, known from the first step on. `traffic` is what
    crossed the link between host and device in the last step, `new_token_bytes` what went to the device for each token
    after the first; of a user's own model neither is known.
    """

    case: Case
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    x: Tensor
    targets: Tensor | None
    tokens_per_step: int | None
    _run: Run = field(repr=False)
    state_per_sequence_bytes: int | None = None
    traffic: Traffic | None = None
    new_token_bytes: int | None = None
    others: tuple[Tensor, ...] = ()
    loss: Loss = field(default_factory=lambda: token_loss, repr=False)
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
        if self.case.execution == "eager" or not self.x.is_cuda:
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
        return [tensor for tensor in (self.x, self.targets, *self.others) if tensor is not None]

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
    loss: Loss = token_loss if case.input_shape is None else class_loss
    if case.sharding is not None:
        model, loss = _build_sharded(case, device, loss, say)
    elif model is None:
        model = _build_model(case, device, say)
    vocab_size = own_vocabulary(model) if case.config is None else None
    vocab_size = vocab_size or case.vocab_size
    training = case.mode in TRAINING_MODES
    model.train(training)
    name = case.optimizer if case.mode == "train" else "none"
    optimizer = build_optimizer(name, model.parameters(), vocab_size)
    if case.sharding == "tensor" and optimizer is not None:
        optimizer.param_groups[0].update(foreach=False, fused=False)  # no such kernel takes whole tensors and parts
    if case.input_shape is not None:
        x, targets = _random_samples(case, model, device)
        return Workload(case, model, optimizer, x, targets, None, STEPS[case.mode], loss=loss)
    ids = torch.randint(vocab_size, (case.batch, case.seq), device=device)
    targets = torch.randint(vocab_size, (case.batch, case.seq), device=device) if case.mode == "train" else None
    tokens = case.batch * (case.new_tokens if case.mode == "decode" else case.seq)
    return Workload(case, model, optimizer, ids, targets, tokens, STEPS[case.mode], loss=loss)


def _random_samples(case: Case, model: nn.Module, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Normal samples in the dtype of the model's first weights, and in training a random number for each."""
    assert case.input_shape is not None  # whoever asks has looked
    kinds = (parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
    samples = torch.randn(case.batch, *case.input_shape, dtype=next(kinds, DTYPES[case.dtype]), device=device)
    return samples, torch.randint(LARGEST_CLASS, (case.batch,), device=device) if case.mode == "train" else None


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
    nothing = torch.empty(0, dtype=torch.int64, device=device)
    return Workload(
        case, model, own.optimizer, nothing, None, None, _run=lambda _: _drop(own.step()), others=tuple(own.inputs)
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


def _build_sharded(case: Case, device: torch.device, loss: Loss, say: Callable[[str], None]) -> tuple[nn.Module, Loss]:
    """This rank's part of the model, and the loss to train it by. It is built where nobody counts its memory."""
    from muse_bench.sharding.shard import shard

    host = torch.device("meta" if device.type == "meta" else "cpu")
    with _disable_current_modes():
        model = _build_model(case, host, say)
    loss = shard(model, case, device, loss)
    if case.sharding != "tensor":  # each rank has a batch of its own
        torch.manual_seed(case.seed + torch.distributed.get_rank())
    return model, loss


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
    pairs = list(zip(_micro(work, work.x), _micro(work, work.targets), strict=True))
    for x, targets in pairs:
        loss = work_loss(work, x, targets)
        (loss if len(pairs) == 1 else loss * (len(x) / work.case.batch)).backward()
        del loss
    if work.optimizer is not None and work.case.update == "after":
        work.optimizer.step()
    work.model.zero_grad(set_to_none=True)


def _forward_backward(work: Workload) -> None:
    """The reports' protocol, in which the output stays alive during backward, as it did in their loop."""
    for x in _micro(work, work.x):
        with _autocast(work):
            output = output_of(work.model(x))
        output.sum().backward()
        del output


@torch.no_grad()
def _inference(work: Workload) -> None:
    # The outputs of every micro-batch are the step's result: all of them stay alive until it ends.
    with _autocast(work):
        _ = [_result(work, x) for x in _micro(work, work.x)]


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
    return work.model.read_prompt(work.x, states).argmax(-1), states


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
    with forward_autocast(work.x.device, None if name is None else DTYPES[name]):
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


def work_loss(work: Workload, x: Tensor, targets: Tensor) -> Tensor:
    """The mean cross-entropy of the workload's model, under its autocast."""
    with _autocast(work):
        return work.loss(work.model, x, targets)


def _result(work: Workload, x: Tensor) -> Any:
    """The logits of a prompt; of samples whatever the model returns."""
    last_only = work.case.logits == "last"
    if isinstance(work.model, LanguageModel):
        return work.model(x, last_only=last_only)
    returned = work.model(x)
    if work.case.input_shape is not None:
        return returned
    logits = output_of(returned)
    return logits[:, -1:].clone() if last_only else logits
