"""One optimizer step: forward, backward, clipping, update; nothing in it waits for the device, float16 apart."""

from collections.abc import Callable

import torch
from torch import Tensor

from muse_bench.capture import aside
from muse_bench.errors import MuseBenchError
from muse_bench.quality.batches import windows_at
from muse_bench.quality.trial import CLIP_NORM
from muse_bench.workload import Workload

FIRST_SCALE = 2.0**16
SMALLEST_SCALE = 2.0**-8  # a gradient that overflows even so is no matter of scale
GROWTH_STEPS = 2_000
GRAPH_WARMUP = 3
LossOf = Callable[[Tensor, Tensor], Tensor]


class LossScale:
    """The dynamic scale of a float16 loss, as torch.amp.GradScaler has it, which refuses float16 gradients.

    `factor` is a power of two in a float32 scalar on the device: it halves when a gradient overflows and that step is
    skipped, and doubles after 2,000 steps without. It never rises above its first value.
    Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    def __init__(self, device: torch.device) -> None:
        self.factor = torch.full((), FIRST_SCALE, device=device)
        self.value, self.clean, self.skipped = FIRST_SCALE, 0, 0

    def follow(self, finite: bool) -> None:
        """Takes notice of whether a step's gradients were finite."""
        self.clean = self.clean + 1 if finite else 0
        if not finite:
            self.skipped += 1
            self.set(self.value / 2)
        elif self.clean >= GROWTH_STEPS:
            self.clean = 0
            self.set(min(FIRST_SCALE, self.value * 2))

    def set(self, value: float) -> None:
        """Changes the factor, here and on the device."""
        self.value = value
        self.factor.fill_(value)


class TrainingStep:
    """What a step of training does to a workload; its batch is read through static tensors, so that it can be captured.

    `loss_sum` adds up the losses on the device. A subclass runs the two halves in its own way.
    """

    def __init__(self, work: Workload, ids: Tensor, loss_of: LossOf) -> None:
        device = ids.device
        self._work, self._ids, self._loss_of = work, ids, loss_of
        self._starts = torch.zeros(work.case.batch, dtype=torch.int64, device=device)
        self.loss_sum = torch.zeros((), device=device)
        self._norm = torch.zeros((), device=device)
        self.scale = LossScale(device) if work.case.dtype == "fp16" else None
        self._in_backward = work.case.update == "in-backward"
        work.arm()

    def __call__(self, starts: Tensor, rate: float) -> None:
        """One step on the windows that begin at `starts`, (batch,) on the device."""
        self._starts.copy_(starts)
        self._set_rate(rate)
        self._first_half()
        if self.scale is not None:
            finite = bool(self._norm.isfinite())  # the one place where a step waits for the device
            self.scale.follow(finite)
            if not finite:
                self._work.model.zero_grad(set_to_none=True)
                return
        self._second_half()

    def _set_rate(self, rate: float) -> None:
        assert self._work.optimizer is not None
        for group in self._work.optimizer.param_groups:
            group["lr"] = rate

    def _first_half(self) -> None:
        """Forward and backward, and the norm of all gradients."""
        case = self._work.case
        ids, targets = windows_at(self._ids, self._starts, case.seq)
        micro = case.micro_batch or case.batch
        for part, wanted in zip(ids.split(micro), targets.split(micro), strict=True):
            loss = self._loss_of(part, wanted) * (len(part) / case.batch)
            self.loss_sum += loss.detach()
            (loss if self.scale is None else loss * self.scale.factor).backward()
            del loss
        if self._in_backward:
            return  # the gradients are used and gone
        norms = torch._foreach_norm(self._gradients(), 2.0, torch.float32)
        self._norm.copy_(torch.linalg.vector_norm(torch.stack(norms)))

    def _second_half(self) -> None:
        """Clipping to a norm of 1, and the update; nothing where backward has done the update, which limits itself."""
        if self._in_backward:
            return
        gradients = self._gradients()
        norm = self._norm if self.scale is None else self._norm / self.scale.factor
        torch._foreach_mul_(gradients, (CLIP_NORM / (norm + 1e-6)).clamp(max=1.0))
        if self.scale is not None:
            torch._foreach_mul_(gradients, 1 / self.scale.factor)  # by itself: a power of two is exact in float16
        assert self._work.optimizer is not None
        self._work.optimizer.step()
        self._work.model.zero_grad(set_to_none=True)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self._work.model.parameters() if parameter.grad is not None]


class CapturedStep(TrainingStep):
    """The same step, captured into two CUDA graphs after three steps, which launch without Python from then on.

    `peak_bytes` is the steady peak of the steps before the capture: replays do not pass through the allocator.
    Raises: CannotCapture when the optimizer keeps numbers on the host, or an operation waits for the device.
    """

    def __init__(self, work: Workload, ids: Tensor, loss_of: LossOf) -> None:
        super().__init__(work, ids, loss_of)
        assert work.optimizer is not None
        groups = work.optimizer.param_groups
        if not all("capturable" in group for group in groups):
            raise CannotCapture(f"{type(work.optimizer).__name__} keeps numbers on the host")
        self._rate = torch.zeros((), device=ids.device)
        for group in groups:
            group["capturable"], group["lr"] = True, self._rate
        self._done = 0
        self._graphs: tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph] | None = None
        self.peak_bytes: int | None = None

    def _set_rate(self, rate: float) -> None:
        self._rate.fill_(rate)

    def _first_half(self) -> None:
        if self._graphs is not None:
            self._graphs[0].replay()
            return
        if self._done == GRAPH_WARMUP:
            self.peak_bytes = torch.cuda.max_memory_allocated()
            self._graphs = self._capture()
            self._graphs[0].replay()
            return
        if self._done == GRAPH_WARMUP - 1:
            torch.cuda.reset_peak_memory_stats()
        with aside(torch.cuda.Stream()):
            super()._first_half()

    def _second_half(self) -> None:
        self._done += 1
        if self._graphs is not None:
            if not self._in_backward:
                self._graphs[1].replay()
            return
        with aside(torch.cuda.Stream()):
            super()._second_half()

    def _capture(self) -> tuple[torch.cuda.CUDAGraph, torch.cuda.CUDAGraph]:
        first, second = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(first):
                super()._first_half()
            if not self._in_backward:  # an empty graph
                with torch.cuda.graph(second, pool=first.pool()):
                    super()._second_half()
        except RuntimeError as error:
            raise CannotCapture(" ".join(str(error).split())[:200]) from error
        return first, second


class CannotCapture(MuseBenchError):  # noqa: N818
    """The step is none that a CUDA graph can hold; the message says why."""
