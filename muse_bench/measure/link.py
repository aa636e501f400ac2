"""How fast the host link is for the very memory that a model's weights lie in."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from muse_bench.link import LinkRates
from muse_bench.streaming.lane import Lane

BUFFER_BYTES = 256 << 20
LEAST_BYTES = 16 << 20  # of the largest piece: copies of smaller ones take as long as their launches
COPIED_BYTES = 8 << 30  # in each direction: the first copies after a pause are slower


def link_rates(pages: Sequence[Tensor], device: torch.device) -> LinkRates | None:
    """Rates of copies between these pieces of host memory, (bytes,) uint8, and the device; their values stay.

    None where there are no pieces, or so small ones that they would not show the link's rate.

    Memory: two buffers on the device, each of the largest piece or 256 MiB, whichever is less.
    """
    largest = max(map(len, pages), default=0)
    if largest < LEAST_BYTES:
        return None
    size = min(BUFFER_BYTES, largest)
    parts = list(itertools.islice(_forever(pages, size), max(2, COPIED_BYTES // size)))
    first, second = torch.empty(2, size, dtype=torch.uint8, device=device)
    inward, outward = Lane(device), Lane(device)
    held = parts[0]  # what `second` holds, and gives back
    second[: len(held)].copy_(held)

    def to_device() -> None:
        for part in parts:
            inward.copy(first[: len(part)], part)

    def to_host() -> None:
        for _ in parts:
            outward.copy(held, second[: len(held)])

    def both() -> None:
        for part in parts:
            inward.copy(first[: len(part)], part)
            outward.copy(held, second[: len(held)])

    whole, back = sum(map(len, parts)), len(held) * len(parts)
    lanes = (inward, outward)
    return LinkRates(
        to_device=whole / _seconds(to_device, lanes, device),
        to_host=back / _seconds(to_host, lanes, device),
        both=min(whole, back) / _seconds(both, lanes, device),
    )


def _forever(pages: Sequence[Tensor], size: int) -> itertools.chain[Tensor]:
    return itertools.chain.from_iterable(page.split(size) for page in itertools.cycle(pages))


def _seconds(run: Callable[[], None], lanes: Sequence[Lane], device: torch.device) -> float:
    """By events, from an idle device until all lanes are done."""
    torch.cuda.synchronize(device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for lane in lanes:
        lane.begin()
    run()
    for lane in lanes:
        lane.finish()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1_000
