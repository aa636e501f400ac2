"""Batches out of one tensor of token ids on the device, the same for every model that trains with the same seed."""

from pathlib import Path

import torch
from torch import Tensor

from muse_bench.quality.tokens import LARGEST_UINT16


def read_ids(path: Path | str, count: int, vocab_size: int, device: torch.device) -> Tensor:
    """The first `count` ids of a token file: 2 bytes each, as int16 that wraps, or 4 above 65,536 words."""
    dtype = torch.int32 if vocab_size > LARGEST_UINT16 else torch.int16
    return torch.from_file(str(path), shared=False, size=count, dtype=dtype).to(device)


def window_starts(pool_tokens: int, seq: int, count: int, seed: int) -> Tensor:
    """Where `count` windows of seq + 1 tokens begin, int64 on the CPU.

    Each pass over the pool cuts it at another offset into windows that share no input, in another random order.
    """
    generator = torch.Generator().manual_seed(seed)
    passes: list[Tensor] = []
    found = 0
    while found < count:
        offset = int(torch.randint(min(seq, pool_tokens - seq), (1,), generator=generator))
        windows = (pool_tokens - 1 - offset) // seq
        passes.append(torch.randperm(windows, generator=generator) * seq + offset)
        found += windows
    return torch.cat(passes)[:count]


def windows_at(ids: Tensor, starts: Tensor, seq: int) -> tuple[Tensor, Tensor]:
    """Inputs and next tokens, both (len(starts), seq) int64, of the windows that begin at `starts`."""
    places = starts[:, None] + torch.arange(seq + 1, device=ids.device)
    rows = ids[places].long()
    if ids.dtype == torch.int16:
        rows = rows & (LARGEST_UINT16 - 1)
    return rows[:, :-1].contiguous(), rows[:, 1:].contiguous()
