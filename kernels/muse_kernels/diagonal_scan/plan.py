"""How the scan kernels divide their work: the shape of a tile, and into how many chunks a sequence is cut."""

from dataclasses import dataclass

from torch import Tensor

# Channels of a program: 64 bytes of a float32 row.
CHANNELS = 16
# Programs of one warp that keep a large GPU's memory busy: two on each of 132 multiprocessors.
FILL_PROGRAMS = 264
# Threads of a program where programs are few, each with one channel of STEPS consecutive steps of a tile.
THREADS = 256
STEPS = 8
# Up to this many tiles, walking takes no longer than the launch that cutting the sequence would add.
WALK_TILES = 8
# Each program reads the states of all chunks before its own.
MAX_CHUNKS = 512
# Tiles on their way from memory while a program works on one.
STAGES = 2


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` x `steps` steps by `channels` channels, held by `warps`."""

    rows: int
    steps: int
    channels: int
    warps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """A sequence has `chunks` chunks of `chunk_steps` steps; a program walks one of them tile by tile."""

    tile: Tile
    chunk_steps: int
    chunks: int
    programs: int

    @property
    def split(self) -> bool:
        """Whether a sequence has several programs, each of which needs the state before its chunk."""
        return self.chunks > 1

    @property
    def fold(self) -> int:
        """How many chunks' states a program reads at once."""
        return max(2, min(64, _power_of_two(self.chunks)))

    def state_shape(self, batch: int, rank: int, decay: Tensor | None) -> tuple[int, ...]:
        """Of the chunks' final states; with decay, the decays through the chunks come with them."""
        return (batch, self.chunks, 1 if decay is None else 2, rank)


def plan(batch: int, seq: int, rank: int, *, vectors: bool = True) -> Plan:
    """Many channels: each program walks a whole sequence. Few: the sequence is cut into chunks.

    With vectors, a program of many is one warp with four channels of 16 steps a thread, which for the few tensors of
    the plain scan still fits its registers: the least instructions, and no exchange through shared memory.
    """
    channels = min(_power_of_two(rank), CHANNELS)
    programs = batch * -(-rank // channels)
    many = programs >= FILL_PROGRAMS
    if many and vectors:
        return _cut(seq, Tile(8, 16, channels, warps=1), programs, chunks=1)
    steps = min(STEPS, _power_of_two(seq))
    rows = max(2, min(THREADS // channels, _power_of_two(-(-seq // steps))))
    tile = Tile(rows, steps, channels, warps=max(1, rows * channels // 32))
    tiles = -(-seq // (rows * steps))
    wanted = min(tiles, MAX_CHUNKS, -(-2 * FILL_PROGRAMS // max(programs, 1)))
    return _cut(seq, tile, programs, 1 if many or tiles <= WALK_TILES else wanted)


def decay_kind(decay: Tensor | None) -> int:
    """What the kernels read: 0 no decay, 1 one a channel, 2 one at every step."""
    if decay is None:
        return 0
    return 1 if decay.dim() == 1 or decay.stride()[:2] == (0, 0) else 2


def _cut(seq: int, tile: Tile, programs: int, chunks: int) -> Plan:
    length = tile.rows * tile.steps
    chunk_steps = -(-seq // (chunks * length)) * length
    chunks = -(-seq // chunk_steps) if seq else 0
    return Plan(tile, chunk_steps, chunks, programs * chunks)


def _power_of_two(number: int) -> int:
    """The least that is not smaller."""
    return 1 << max(number - 1, 0).bit_length()
