"""How the scan kernels divide their work: the shape of a tile, and into how many chunks a sequence is cut."""

from dataclasses import dataclass, replace

from torch import Tensor

# Channels of a program: 64 bytes of a float32 row.
CHANNELS = 16
# Warps that keep a large GPU's memory busy: two on each of 132 multiprocessors.
FILL_WARPS = 264
# Threads of a program where programs are few, each with one channel of STEPS consecutive steps of a tile.
THREADS = 256
STEPS = 8
# Up to this many tiles, walking takes no longer than the launch that cutting the sequence would add.
WALK_TILES = 8
# Each program reads the states of all chunks before its own.
MAX_CHUNKS = 512


@dataclass(frozen=True, slots=True)
class Tile:
    """`rows` x `steps` steps by `channels` channels, held by `warps`; `stages` - 1 more on their way from memory."""

    rows: int
    steps: int
    channels: int
    warps: int
    stages: int = 1


# Tiles of the plain scan where channels are many, by bytes of a number: few enough registers for three loads on their
# way, rows of 64 bytes or more. At 8 x 8,192 x 1,536 on an H200 they move 83 to 100 % of what a copy does.
FORWARD_TILES = {4: Tile(4, 8, 32, 1, 3), 2: Tile(8, 8, 32, 1, 3)}
BACKWARD_TILES = {4: Tile(8, 4, 64, 2, 3), 2: Tile(8, 4, 32, 1, 4)}


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


def plan(batch: int, seq: int, rank: int, *, streamed: Tile | None = None) -> Plan:
    """Many channels: each program walks a whole sequence. Few: the sequence is cut into chunks.

    With a streamed tile, the programs of many channels have that one; without, or where its channels would make too
    few, 16 channels and threads that exchange little.
    """
    if streamed is not None and batch * -(-rank // streamed.channels) * streamed.warps >= FILL_WARPS:
        return _cut(seq, streamed, batch * -(-rank // streamed.channels), chunks=1)
    channels = min(_power_of_two(rank), CHANNELS)
    programs = batch * -(-rank // channels)
    many = programs >= FILL_WARPS
    if many and streamed is not None:
        return _cut(seq, Tile(8, 16, channels, warps=1), programs, chunks=1)
    steps = min(STEPS, _power_of_two(seq))
    rows = max(2, min(THREADS // channels, _power_of_two(-(-seq // steps))))
    tile = Tile(rows, steps, channels, warps=max(1, rows * channels // 32))
    tiles = -(-seq // (rows * steps))
    wanted = min(tiles, MAX_CHUNKS, -(-2 * FILL_WARPS // max(programs, 1)))
    return _cut(seq, tile, programs, 1 if many or tiles <= WALK_TILES else wanted)


def streamed_tile(tiles: dict[int, Tile], x: Tensor, decay: Tensor | None) -> Tile | None:
    """The tile of the plain scan for this dtype; a scan without decays at every step reads less and looks further."""
    tile = tiles.get(x.element_size())
    if tile is None or (decay is not None and decay_kind(decay) == 2):
        return tile
    return replace(tile, stages=tile.stages + 1)


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
