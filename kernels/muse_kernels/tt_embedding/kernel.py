"""Triton kernels of the tensor-train embedding: its rows, and shares of the cores' gradients."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from muse_kernels.products import dot, rounded
from muse_kernels.tensor_train_shares import count_pieces, launch_sum_shares
from muse_kernels.tt_embedding.order import launch_sort
from muse_kernels.tt_embedding.plan import Plan, next_power_of_2

TILE = 1024  # numbers of the output that a warp writes: 32 a thread


def launch_rows(ids: Tensor, core1: Tensor, core2: Tensor, theta: Tensor, vocab_size: int, rows: Tensor) -> None:
    """Fills rows (tokens, d_model), contiguous; an id out of range is a device-side assert."""
    (_, rank, d1), (v2, _, d2) = core1.shape, core2.shape
    a, b = (min(next_power_of_2(max(width, 16)), 64) for width in (d1, d2))
    tokens = max(1, min(TILE // (a * b), next_power_of_2(rows.shape[0])))
    a_blocks, b_blocks = triton.cdiv(d1, a), triton.cdiv(d2, b)
    with torch.cuda.device_of(rows):
        _rows[(triton.cdiv(rows.shape[0], tokens), a_blocks * b_blocks)](
            *(ids, core1, core2, theta, rows, rows.shape[0]),
            VOCAB=vocab_size,
            V2=v2,
            RANK=rank,
            D1=d1,
            D2=d2,
            D_MODEL=rows.shape[1],
            TOKENS=tokens,
            A=a,
            B=b,
            B_BLOCKS=b_blocks,
            # Products in float32 run on no tensor core, so padding the rank to a product's 16 would cost time.
            OUTER=core1.dtype == torch.float32 and rank < 8,
            num_warps=max(1, tokens * a * b // TILE),
            num_stages=2,
            debug=True,  # keeps the assert on ids
            sanitize_overflow=False,
        )


def launch_gradients(
    ids: Tensor,
    grad: Tensor,
    cores: tuple[Tensor, Tensor, Tensor],
    plan: Plan,
    sort: tuple[Tensor, Tensor, Tensor],
    shares: tuple[Tensor, Tensor, Tensor],
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fills the gradients of the cores and theta from grad (tokens, d_model), of any strides."""
    order, counts, starts = sort
    core1, core2, theta = cores
    (v1, rank, d1), (v2, _, d2) = core1.shape, core2.shape
    launch_sort(ids, v2, plan, counts, starts, order)
    rank_blocks = triton.cdiv(rank, plan.ranks)
    with torch.cuda.device_of(grad):
        _contract[(sum(plan.pieces), rank_blocks * max(plan.kept_blocks))](
            *(ids, grad, core1, core2, theta, order, starts, *shares, *grad.stride(), plan.tokens),
            *(plan.piece, plan.pieces[0]),
            V1=v1,
            V2=v2,
            RANK=rank,
            D1=d1,
            D2=d2,
            D_MODEL=grad.shape[1],
            BINS=plan.bins,
            SUMMED1=plan.summed[0],
            SUMMED2=plan.summed[1],
            KEPT1=plan.kept[0],
            KEPT2=plan.kept[1],
            RANKS=plan.ranks,
            DEPTH=128 if grad.dtype == torch.float32 else 256,
            num_warps=4,
            num_stages=2,
        )
    launch_sum_shares(shares, theta, gradients, (0, 0, plan.kept_blocks[1]), (starts.view(2, -1), plan.piece))


@triton.jit
def _rows(
    ids,
    core1,
    core2,
    theta,
    rows,
    tokens,
    VOCAB: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    D_MODEL: tl.constexpr,
    TOKENS: tl.constexpr,
    A: tl.constexpr,
    B: tl.constexpr,
    B_BLOCKS: tl.constexpr,
    OUTER: tl.constexpr,
):
    token = tl.program_id(0).to(tl.int64) * TOKENS + tl.arange(0, TOKENS)
    index = tl.load(ids + token, mask=token < tokens, other=0)
    inside = (index >= 0) & (index < VOCAB)
    tl.device_assert(inside, "ids: id out of range")
    index = tl.where(inside, index, 0)
    first = (index // V2).to(tl.int64)[:, None, None] * (RANK * D1)
    second = (index % V2).to(tl.int64)[:, None, None] * (RANK * D2)
    a = ((tl.program_id(1) // B_BLOCKS) * A + tl.arange(0, A))[None, :, None]
    b = ((tl.program_id(1) % B_BLOCKS) * B + tl.arange(0, B))[None, None, :]
    total = tl.zeros((TOKENS, A, B), tl.float32)
    if OUTER:
        for r in tl.static_range(RANK):
            cosine = tl.cos(tl.load(theta + r).to(tl.float32))
            left = tl.load(core1 + first + r * D1 + a, mask=a < D1, other=0.0)
            right = tl.load(core2 + second + r * D2 + b, mask=b < D2, other=0.0)
            total += left * (cosine * right)
    else:
        for start in range(0, RANK, 16):
            r = start + tl.arange(0, 16)
            cosine = tl.cos(tl.load(theta + r, mask=r < RANK, other=0.0).to(tl.float32))
            r1, r2 = r[None, None, :], r[None, :, None]
            left = tl.load(core1 + first + (r1 * D1 + a), mask=(r1 < RANK) & (a < D1), other=0.0)
            right = tl.load(core2 + second + (r2 * D2 + b), mask=(r2 < RANK) & (b < D2), other=0.0)
            right = rounded(right.to(tl.float32) * cosine[None, :, None], left.dtype)
            total = dot(left, right, total)
    column = a * D2 + b
    wanted = (token < tokens)[:, None, None] & (a < D1) & (b < D2) & (column < D_MODEL)
    tl.store(rows + token[:, None, None] * D_MODEL + column, rounded(total, rows.dtype.element_ty), mask=wanted)


@triton.jit
def _contract(
    ids,
    grad,
    core1,
    core2,
    theta,
    order,
    starts,
    shares1,
    shares2,
    theta_shares,
    grad_row,
    grad_column,
    tokens,
    piece,
    pieces1,
    V1: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    D_MODEL: tl.constexpr,
    BINS: tl.constexpr,
    SUMMED1: tl.constexpr,
    SUMMED2: tl.constexpr,
    KEPT1: tl.constexpr,
    KEPT2: tl.constexpr,
    RANKS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program owns a piece of one row's tokens: of core1's rows first, of core2's then.

    A token's gradient is read twice, once for each core: to read it once, the other core's share of every token
    would have to be kept, rank * d2 float32 a token, more bytes to write and read than the second reading from
    rank 8 on (d2 = 32, 16 bits), and scratch that grows with the tokens. Repeated ids are neighbours in the order
    and add up in the registers; to add their gradients first would read nothing less.
    """
    program, block = tl.program_id(0), tl.program_id(1)
    if program < pieces1:
        blocks1: tl.constexpr = (D1 + KEPT1 - 1) // KEPT1
        row, begin, stop = _locate(starts, piece, program, V1, BINS)
        r = (block // blocks1) * RANKS + tl.arange(0, RANKS)
        kept = (block % blocks1) * KEPT1 + tl.arange(0, KEPT1)
        if (row < V1) & ((block // blocks1) * RANKS < RANK):
            cosine = tl.cos(tl.load(theta + r, mask=r < RANK, other=0.0).to(tl.float32))
            share = _contract_tokens(
                *(ids, grad, core2, order, begin, stop, r, cosine, kept, grad_row, grad_column),
                *(True, V2, RANK, D2, 1, D1, D2, D_MODEL, SUMMED1, KEPT1, RANKS, DEPTH),
            )
            offsets = program.to(tl.int64) * (RANK * D1) + r[:, None] * D1 + kept[None, :]
            tl.store(shares1 + offsets, share, mask=(r < RANK)[:, None] & (kept < D1)[None, :])
    else:
        blocks2: tl.constexpr = (D2 + KEPT2 - 1) // KEPT2
        program -= pieces1
        row, begin, stop = _locate(starts + BINS, piece, program, V2, BINS)
        r = (block // blocks2) * RANKS + tl.arange(0, RANKS)
        kept = (block % blocks2) * KEPT2 + tl.arange(0, KEPT2)
        if (row < V2) & ((block // blocks2) * RANKS < RANK):
            share = _contract_tokens(
                *(ids, grad, core1, order + tokens, begin, stop, r, r, kept, grad_row, grad_column),
                *(False, V2, RANK, D1, D2, D2, 1, D_MODEL, SUMMED2, KEPT2, RANKS, DEPTH),
            )
            wanted = (r < RANK)[:, None] & (kept < D2)[None, :]
            inner = r[:, None] * D2 + kept[None, :]
            tl.store(shares2 + program.to(tl.int64) * (RANK * D2) + inner, share, mask=wanted)
            core = tl.load(core2 + row.to(tl.int64) * (RANK * D2) + inner, mask=wanted, other=0.0).to(tl.float32)
            theta_row = program.to(tl.int64) * blocks2 + block % blocks2
            tl.store(theta_shares + theta_row * RANK + r, tl.sum(share * core, axis=1), mask=r < RANK)


@triton.jit
def _locate(starts, piece, program, V: tl.constexpr, BINS: tl.constexpr):
    """The row that owns this piece, or BINS past the last piece, and the piece's sorted tokens [begin, stop)."""
    pieces = count_pieces(starts, piece, V, BINS)
    row = tl.sum((tl.cumsum(pieces, axis=0) <= program).to(tl.int32), axis=0)
    first = tl.sum(tl.where(tl.arange(0, BINS) < row, pieces, 0), axis=0)
    begin = tl.load(starts + row, mask=row < V, other=0)
    stop = tl.load(starts + row + 1, mask=row < V, other=0)
    # Pieces of equal length: a row of 65 tokens gives one of 33 and one of 32.
    length = tl.cdiv(stop - begin, tl.maximum(tl.cdiv(stop - begin, piece), 1))
    begin += (program - first) * length
    return row, begin, tl.minimum(begin + length, stop)


@triton.jit
def _contract_tokens(
    ids,
    grad,
    other,
    order,
    begin,
    stop,
    r,
    cosine,
    kept,
    grad_row,
    grad_column,
    FIRST: tl.constexpr,
    V2: tl.constexpr,
    RANK: tl.constexpr,
    SUMMED: tl.constexpr,
    SUMMED_STRIDE: tl.constexpr,
    KEPT: tl.constexpr,
    KEPT_STRIDE: tl.constexpr,
    D_MODEL: tl.constexpr,
    SUMMED_BLOCK: tl.constexpr,
    KEPT_BLOCK: tl.constexpr,
    RANKS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """sum over tokens and s of other[row of the token, r, s] * grad[token, s, kept], as (RANKS, KEPT_BLOCK)."""
    length: tl.constexpr = DEPTH // SUMMED_BLOCK  # tokens x summed width is the product's inner dimension
    total = tl.zeros((RANKS, KEPT_BLOCK), tl.float32)
    for start in range(begin, stop, length):
        place = start + tl.arange(0, length)
        valid = place < stop
        token = tl.load(order + place, mask=valid, other=0).to(tl.int64)
        index = tl.load(ids + token, mask=valid, other=0)
        row = (index % V2 if FIRST else index // V2).to(tl.int64)
        for s_start in range(0, SUMMED, SUMMED_BLOCK):
            s = s_start + tl.arange(0, SUMMED_BLOCK)
            inside = (valid[:, None] & (s < SUMMED)[None, :])[None, :, :]
            weights = tl.load(
                other + (row[:, None] * (RANK * SUMMED) + s[None, :])[None, :, :] + (r * SUMMED)[:, None, None],
                mask=inside & (r < RANK)[:, None, None],
                other=0.0,
            )
            if FIRST:
                weights = rounded(weights.to(tl.float32) * cosine[:, None, None], weights.dtype)
            column = s[:, None] * SUMMED_STRIDE + kept[None, :] * KEPT_STRIDE
            wanted = (s < SUMMED)[:, None] & (kept < KEPT)[None, :] & (column < D_MODEL)
            values = tl.load(
                grad + token[:, None, None] * grad_row + (column * grad_column)[None, :, :],
                mask=valid[:, None, None] & wanted[None, :, :],
                other=0.0,
            )
            weights = tl.reshape(weights, (RANKS, DEPTH))
            values = tl.reshape(values, (DEPTH, KEPT_BLOCK))
            total = dot(weights, values, total)
    return total
