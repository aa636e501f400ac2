"""Parts of every scan kernel: where a program works, tiles of steps x channels, the scan of a tile, earlier chunks.

A program owns one batch row, one block of R channels and one chunk of steps, and walks the chunk tile by tile. A tile
is C rows of S consecutive steps; it is held as a tuple of S blocks (C, R), so that a thread runs through the S steps
of its rows alone, and threads exchange only one state a row. Backwards in time, a program walks from its chunk's last
step with negative strides: `tl.associative_scan(reverse=True)` is wrong in some releases (triton#4362).
"""

import triton
import triton.language as tl


@triton.jit
def locate(seq, rank, chunk_steps, chunks, R: tl.constexpr):
    """This program's batch row, chunk, channels (R,), first step and number of steps."""
    blocks = tl.cdiv(rank, R)
    pid = tl.program_id(0)
    channel = pid % blocks * R + tl.arange(0, R)
    chunk = pid // blocks % chunks
    row = (pid // blocks // chunks).to(tl.int64)
    first = chunk * chunk_steps
    return row, chunk, channel, first, tl.minimum(chunk_steps, seq - first)


@triton.jit
def wide(number):
    """As int64: steps times strides may pass 2^31."""
    return tl.zeros((), tl.int64) + number


@triton.jit
def tile_at(base, stride_t, channel, stride_r, C: tl.constexpr, S: tl.constexpr):
    """Pointers (C, R) to the first step of each row of the tile that begins at base."""
    step = tl.arange(0, C).to(tl.int64) * S
    return base + step[:, None] * stride_t + channel[None, :] * stride_r


@triton.jit
def load_tile(pointers, stride_t, left, inside, OTHER: tl.constexpr, S: tl.constexpr):
    """The tile as S blocks (C, R) of float32; OTHER where fewer than all steps are left."""
    step = tl.arange(0, pointers.shape[0]) * S
    tile = ()
    for s in tl.static_range(S):
        mask = (step + s < left)[:, None] & inside[None, :]
        tile += (tl.load(pointers + s * stride_t, mask, other=OTHER).to(tl.float32),)
    return tile


@triton.jit
def load_decay_row(decay, channel, stride_r, inside, DECAY: tl.constexpr):
    """Decays (1, R) that are the same at every step: 1 without decay, and unused where each step has its own."""
    row = tl.full((1, channel.shape[0]), 1.0, tl.float32)
    if DECAY == 1:
        row = tl.load(decay + channel * stride_r, inside, other=1.0).to(tl.float32)[None, :]
    return row


@triton.jit
def load_decays(pointers, stride_t, row, left, inside, DECAY: tl.constexpr, S: tl.constexpr):
    """Decays of the tile, S blocks of float32; steps past those left keep the state as it is."""
    step = tl.arange(0, pointers.shape[0]) * S
    decays = ()
    if DECAY == 2:
        decays = load_tile(pointers, stride_t, left, inside, 1.0, S)
    else:
        for s in tl.static_range(S):
            decays += (tl.where((step + s < left)[:, None], row, 1.0) if DECAY == 1 else row,)
    return decays


@triton.jit
def _compose_with_exclusive(p1, h1, q1, e1, p2, h2, q2, e2):
    """Segments one after the other: h -> p h + h', and the same without the last row's step: h -> q h + e."""
    return p1 * p2, p2 * h1 + h2, p1 * q2, q2 * h1 + e2


@triton.jit
def _compose(p1, h1, p2, h2):
    return p1 * p2, p2 * h1 + h2


@triton.jit
def last_row(block):
    """Row C - 1 of a block (C, R)."""
    row = tl.arange(0, block.shape[0])[:, None]
    return tl.sum(tl.where(row == block.shape[0] - 1, block, 0.0), 0)


@triton.jit
def scan_tile(xs, decays, carry, LATE: tl.constexpr, S: tl.constexpr):
    """The recurrence through a tile, from the state `carry` (R,).

    Early, h_t = a_t h_(t-1) + x_t. Late, as gradients run: h_t = x_t + state, and the state that goes on is a_t h_t.
    Returns: values and weights, S blocks each, and before (C, R), for h = values + weights * before; skipped (C, R),
        the decays of all rows before each; the state after the tile and the decay through it, both (R,).
    """
    state = tl.zeros_like(xs[0])
    decay = tl.full((1, state.shape[1]), 1.0, tl.float32)
    values = ()
    weights = ()
    for s in tl.static_range(S):
        if LATE:
            value = xs[s] if s == 0 else state + xs[s]
            values += (value,)
            weights += (decay,)
            state = decays[s] * value
            decay = decays[s] * decay
        else:
            state = xs[s] if s == 0 else decays[s] * state + xs[s]
            decay = decays[s] * decay
            values += (state,)
            weights += (decay,)
    one = tl.full(state.shape, 1.0, tl.float32)
    rows = (tl.broadcast_to(decay, state.shape), state, one, tl.zeros_like(state))
    through, ending, skipped, behind = tl.associative_scan(rows, 0, _compose_with_exclusive)
    before = skipped * carry[None, :] + behind
    through = last_row(through)
    return values, weights, before, skipped, through * carry + last_row(ending), through


@triton.jit
def load_state(state, row, rank, channel, inside, GIVEN: tl.constexpr):
    """State (R,) of this batch row, zeros when none is given."""
    carry = tl.zeros(channel.shape, tl.float32)
    if GIVEN:
        carry = tl.load(state + row * rank + channel, inside, other=0.0).to(tl.float32)
    return carry


@triton.jit
def chunk_state_at(states, row, index, chunks, rank, channel, DECAY: tl.constexpr):
    """Pointers to a chunk's final state from zero; with decay, the decay through the chunk is `rank` further on."""
    width: tl.constexpr = 2 if DECAY > 0 else 1
    return states + (row * chunks + index) * width * rank + channel


@triton.jit
def store_chunk_state(states, row, index, chunks, rank, channel, inside, state, through, DECAY: tl.constexpr):
    pointers = chunk_state_at(states, row, index, chunks, rank, channel, DECAY)
    tl.store(pointers, state, inside)
    if DECAY > 0:
        tl.store(pointers + rank, through, inside)


@triton.jit
def fold_chunks(carry, states, row, count, chunks, rank, channel, inside, DECAY: tl.constexpr, FOLD: tl.constexpr):
    """The state after the first `count` chunks, from the states that each would end with if it began with zero."""
    for start in range(0, count, FOLD):
        index = start + tl.arange(0, FOLD)[:, None]
        pointers = chunk_state_at(states, row, index, chunks, rank, channel[None, :], DECAY)
        mask = (index < count) & inside[None, :]
        ending = tl.load(pointers, mask, other=0.0)
        through = tl.full(ending.shape, 1.0, tl.float32)
        if DECAY > 0:
            through = tl.load(pointers + rank, mask, other=1.0)
        through, ending = tl.associative_scan((through, ending), 0, _compose)
        carry = last_row(through) * carry + last_row(ending)
    return carry
