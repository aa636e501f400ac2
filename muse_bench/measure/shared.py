"""Measures cases in this process; those that share a model run one after another on one that is built once."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from muse_bench.config import Case
from muse_bench.link import LinkRates
from muse_bench.measure.capped import set_cap
from muse_bench.measure.cuda import Peaks, measure_peaks
from muse_bench.measure.link import link_rates
from muse_bench.models.language_model import LanguageModel
from muse_bench.workload import build_workload


@dataclass(frozen=True, slots=True)
class Capped:
    """The cap that the allocator ran under, what it leaves for the context, and how often the cache was given back."""

    cap_bytes: int
    context_bytes: int
    alloc_retries: int


@dataclass(frozen=True, slots=True)
class Measured:
    """One case's peaks; the cap, if there was one; how fast the link was, for weights in host memory."""

    peaks: Peaks
    capped: Capped | None
    link: LinkRates | None


class _Process:
    """What this process has from case to case."""

    cap: tuple[int, int] | None = None
    model: nn.Module | None = None
    built_from: Case | None = None


def measure_shared(
    case: Case, say: Callable[[str], None], protocol_over: Callable[[], None], *, capped: bool, keeps: bool
) -> Measured:
    """Measures the case, on the model of the one before if that is the same; `keeps` leaves it to the next.

    With `capped` this process's allocator may from the first case on take no more than the limit less the context.
    Raises: torch.cuda.OutOfMemoryError when it does not fit; HostMemoryShort.
    """
    if capped and _Process.cap is None:
        _Process.cap = set_cap(case, None)
    before, built_from, _Process.model = _Process.model, _Process.built_from, None
    model = before if built_from is not None and case.shares_model(built_from) else None
    del before
    retries = _retries()
    say("building")
    device = torch.device("cuda", torch.cuda.current_device())
    work = build_workload(case, device, model, say)
    found = Measured(
        peaks=measure_peaks(work, say, protocol_over),
        capped=None if _Process.cap is None else Capped(*_Process.cap, alloc_retries=_retries() - retries),
        link=_link(work.model, device),
    )
    if keeps:
        _Process.model, _Process.built_from = work.model, case
        del work, model
        torch.cuda.empty_cache()  # before the device is sampled for the next one
    return found


def _link(model: nn.Module, device: torch.device) -> LinkRates | None:
    pages = [page.host for page, _ in model.named_pages()] if isinstance(model, LanguageModel) else []
    return link_rates([page for page in pages if page is not None], device)


def _retries() -> int:
    return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))
