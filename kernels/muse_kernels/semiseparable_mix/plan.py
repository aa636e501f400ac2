"""How a sequence is cut: into chunks that one tile holds, and into segments of chunks that one program walks."""

from dataclasses import dataclass

import torch

PROGRAMS = 264  # two for each multiprocessor of a large GPU: fewer leave it idle, more only look back further
WALKED = 8  # so few chunks are walked sooner than a second kernel starts
LEAST_SPAN = 4  # chunks of a segment, so that looking back costs less than walking


@dataclass(frozen=True)
class Plan:
    """chunk: steps; span: chunks a segment; chunks and segments: how many there are of them."""

    chunk: int
    chunks: int
    span: int
    segments: int


def plan(rows: int, seq: int, dtype: torch.dtype) -> Plan:
    """The cut of `rows` = batch * heads sequences of seq steps; the same in forward and backward."""
    chunk = chunk_length(dtype)
    chunks = _ceil_divide(seq, chunk)
    wanted = 1 if chunks <= WALKED else _ceil_divide(PROGRAMS, max(rows, 1))
    span = max(1, min(chunks, max(LEAST_SPAN, _ceil_divide(chunks, wanted))))
    return Plan(chunk, chunks, span, _ceil_divide(chunks, span))


def chunk_length(dtype: torch.dtype) -> int:
    """Steps of a chunk: 64, the rows of a Hopper matrix instruction; float32 has no such and would spill."""
    return 32 if dtype == torch.float32 else 64


def operand_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype in which computed matrices are multiplied: scores and states leave the range of float16."""
    return torch.bfloat16 if dtype == torch.bfloat16 else torch.float32


def _ceil_divide(dividend: int, divisor: int) -> int:
    return -(-dividend // divisor)
