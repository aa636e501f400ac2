"""The scratch that PyTorch's CUDA reductions take when several thread blocks share one output. Imports no torch.

Source: setReduceConfig and ReduceConfig in aten/src/ATen/native/cuda/Reduce.cuh; checked against the allocations
of sums over 1,024 and 2,048 rows of 128 to 10,000 columns on an H200.
"""

WARP = 32
LARGEST_BLOCK = 512
FEWEST_VALUES_A_THREAD = 16
MOST_VALUES_A_THREAD = 256
VECTOR = 4


def reduction_scratch(
    outputs: int, inputs: int, *, reduces_fastest: bool, accumulator_bytes: int, sm_count: int, threads_per_sm: int
) -> tuple[int, ...]:
    """Sizes in bytes of the buffers taken: partial results and semaphores; empty when one block serves an output.

    Args:
        outputs: how many values come out.
        inputs: how many values go into each of them.
        reduces_fastest: whether the dimension with the smallest stride is reduced away.
        accumulator_bytes: size of the type that sums are kept in.
    """
    if outputs <= 0 or inputs <= 1:
        return ()
    vector = 1 if reduces_fastest else _vector(outputs)
    across, along = (inputs, outputs) if reduces_fastest else (outputs // vector, inputs)
    if reduces_fastest and outputs == 1:
        across //= VECTOR
    width, height = _block(across, along, LARGEST_BLOCK // vector)
    values = -(-inputs // width) if reduces_fastest else inputs
    outputs_a_block = 1 if reduces_fastest else width
    splits_rows = values >= height * FEWEST_VALUES_A_THREAD or values >= MOST_VALUES_A_THREAD
    if splits_rows:
        values = -(-values // height)
    else:
        outputs_a_block *= height
    grid = -(-(outputs // vector) // outputs_a_block)
    target = sm_count * (threads_per_sm // (width * height))
    if not splits_rows or values < MOST_VALUES_A_THREAD or grid > target:
        return ()
    blocks = max(
        min(-(-target // grid), -(-values // FEWEST_VALUES_A_THREAD)),
        -(-values // MOST_VALUES_A_THREAD),
    )
    if blocks <= 1:
        return ()
    partial = accumulator_bytes * outputs * blocks
    return (partial if reduces_fastest else partial * width * vector, 4 * grid)


def _vector(outputs: int) -> int:
    """The widest vector of outputs that divides them."""
    return next(width for width in (VECTOR, 2, 1) if outputs % width == 0)


def _block(across: int, along: int, most: int) -> tuple[int, int]:
    """Width and height of a thread block, in powers of two."""
    largest_across, largest_along = min(_power(across), most), min(_power(along), most)
    width = min(largest_across, WARP)
    height = min(largest_along, most // width)
    return min(largest_across, most // height), height


def _power(count: int) -> int:
    """The largest power of two that is at most count, and at least 1."""
    return 1 << (max(count, 1).bit_length() - 1)
