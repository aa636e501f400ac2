"""How rows are dealt out to programs."""

MAX_BLOCK = 16_384  # a row of 16,384 takes 32 registers of each thread of 16 warps
WIDE_BLOCK = 4096  # columns at a time of a wider row
MIN_TILE, MAX_TILE = 1024, 4096  # two programs of 4,096 a multiprocessor have enough loads in flight, and registers
# Two for each of 132 multiprocessors; a constant, so that sums do not depend on the GPU, nor scratch on a trace.
MAX_PROGRAMS = 264


def tile(rows: int, width: int) -> tuple[int, int, int]:
    """Rows and columns of a program's tile, and its warps: no more rows than leave a tile to every program."""
    whole = _next_power_of_2(width)
    block = whole if whole <= MAX_BLOCK else WIDE_BLOCK
    wanted = max(MIN_TILE // block, _next_power_of_2(-(-rows // MAX_PROGRAMS)))
    tile_rows = max(1, min(MAX_TILE // block, wanted))
    return tile_rows, block, min(16, max(4, tile_rows * block // 512))


def programs(rows: int, width: int) -> int:
    """Programs that share the rows in backward."""
    return min(MAX_PROGRAMS, -(-rows // tile(rows, width)[0]))


def _next_power_of_2(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()
