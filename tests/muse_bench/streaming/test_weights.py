"""Weights in host memory: a model that streams them is the model that does not, value for value."""

import dataclasses
import mmap
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from muse_bench.config import Case, Sizes
from muse_bench.errors import HostMemoryShort
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.predict.gpus import find_gpu
from muse_bench.predict.trace import trace_case
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.memory import HostMemory, Progress
from muse_bench.streaming.page import Page
from muse_bench.streaming.ring import Ring
from muse_bench.streaming.weights import state_page
from muse_bench.workload import Workload, build_workload

SIZES = Sizes(vocab_size=301, d_model=32, n_layers=3, n_heads=2, seq_len=24)
CPU = torch.device("cpu")
PRESET = PRESETS["muse"]


def build(
    weights: str,
    *,
    optimizer: str = PRESET.optimizer,
    mode: str = "train",
    dtype: str = "bf16",
    host_folder: str | None = None,
    **changes: object,
) -> Workload:
    config = dataclasses.replace(PRESET.configure(SIZES), n_heads=2, weights=weights, **changes)
    return build_workload(
        Case(
            model="muse",
            config=config,
            mode=mode,
            dtype=dtype,
            batch=3,
            seq=24,
            vocab_size=301,
            optimizer=optimizer,
            update="in-backward" if mode == "train" else "after",
            new_tokens=4,
            host_folder=host_folder,
        ),
        CPU,
    )


def same(ours: Workload, theirs: Workload) -> None:
    torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("optimizer", ["muon-8bit", "adamw-8bit", "sgd", "adamw"])
def test_training_is_the_same_to_the_bit(optimizer: str) -> None:
    """A page that is not written back, state of another part, a slot that is overwritten too early."""
    host, device = (build(weights, optimizer=optimizer) for weights in ("host", "device"))
    same(host, device)
    start = [value.clone() for value in matrices(host)]
    for work in (host, device):
        torch.manual_seed(1)
        for _ in range(4):
            work.step()
    same(host, device)
    assert not all(torch.equal(now, before) for now, before in zip(matrices(host), start, strict=True))


def test_exact_adamw_for_fifty_steps_is_that_of_the_resident_model() -> None:
    """Float32 weights and moments, all in host memory: an update that is lost or doubled once would show for good."""
    host, device = (build(weights, dtype="fp32", optimizer="adamw", training_slots=3) for weights in ("host", "device"))
    for work in (host, device):
        torch.manual_seed(1)
        for _ in range(50):
            work.step()
    same(host, device)
    parameters = sum(page.size_bytes for page in host.model._weights.pages) // 4
    assert host.host_bytes()["optimizer state"] >= 8 * parameters


def test_training_from_a_file_is_that_from_memory(tmp_path: Path) -> None:
    """Pages, optimizer state and checkpoints in a file without a name, which goes with them."""
    memory, file = (build("host", host_folder=folder) for folder in (None, str(tmp_path)))
    for work in (memory, file):
        torch.manual_seed(1)
        for _ in range(3):
            work.step()
    same(file, memory)
    assert file.host_bytes() == memory.host_bytes()
    assert list(tmp_path.iterdir()) == []


def matrices(work: Workload) -> list[torch.Tensor]:
    return [value for value in work.model.state_dict().values() if value.dim() > 1]


@pytest.mark.parametrize("weights", ["host", "device"])
def test_evaluation_between_steps_changes_nothing(weights: str) -> None:
    """It takes the slots for its own; what a step finds in them must be its own again."""
    watched, plain = (build(weights) for _ in range(2))
    for work in (watched, plain):
        torch.manual_seed(1)
        for _ in range(3):
            work.step()
            if work is watched:
                evaluate(work)
    same(watched, plain)


def evaluate(work: Workload) -> None:
    work.model.eval()
    with torch.no_grad():
        work.model(work.x, last_only=True)
        work.model.loss(work.x, work.targets)
    work.model.train()


def test_what_it_says_is_the_same_in_every_way_of_asking() -> None:
    host, device = (build(weights).model.eval() for weights in ("host", "device"))
    ids = torch.randint(301, (3, 24))
    found = []
    for model in (host, device):
        states = model.new_states(3, 24)
        with torch.no_grad():
            prompt = model.read_prompt(ids[:, :20], states)
            step = model.decode_step(ids[:, 20:21], states, 20)
            found.append((model(ids), model(ids, last_only=True), model.loss(ids, ids), prompt, step))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=2**-7)  # logits of a slice of the table at a time


def test_gradients_outside_training_are_those_of_training() -> None:
    """A graph that outlives a forward pass must not look at slots which serve another part by then."""
    host, device = (build(weights).model.eval() for weights in ("host", "device"))
    ids = torch.randint(301, (3, 24))
    for model in (host, device):
        model.loss(ids, ids.flip(0)).backward()
    torch.testing.assert_close(host.gradients(), device.gradients(), rtol=2**-6, atol=1e-4)


@pytest.mark.parametrize("passes", [1, 3])
def test_gradients_in_host_memory_add_up(passes: int) -> None:
    """Of several micro-batches, through logits that are made a slice of the table at a time."""
    host, device = (build(weights, mode="forward-backward").model for weights in ("host", "device"))
    ids = torch.randint(301, (3, 24))
    weight = torch.randn(301)
    for model in (host, device):
        model.double()
        for _ in range(passes):
            (model(ids) * weight).sum().backward()
    torch.testing.assert_close(host.gradients(), device.gradients())
    assert host.host_bytes()["gradients"] == host.host_bytes()["weights"]
    assert all(
        parameter.grad is None for parameter in host.parameters() if parameter.dim() > 1 and parameter.stride(0) == 0
    )
    host.zero_grad()
    assert not any(gradient is not None for gradient in host.gradients().values())
    assert "gradients" not in host.host_bytes()


def test_a_model_moves_and_loads_with_its_weights() -> None:
    source = build("host").model
    state = {name: value.clone() for name, value in source.state_dict().items()}
    target = LanguageModel(source.config)
    target.load_state_dict(state)
    target.to(torch.float64)
    assert {value.dtype for value in target.state_dict().values()} == {torch.float64}
    for name, value in target.state_dict().items():
        torch.testing.assert_close(value, state[name].double(), rtol=0, atol=0)


def test_a_model_that_moves_has_its_weights_in_host_memory_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for what comes, beside memory of what goes, is twice what the machine was asked for."""
    arenas: list[HostMemory] = []
    reserve = HostMemory.reserve

    def watched(memory: HostMemory, sizes: Sequence[int], progress: Progress | None = None) -> None:
        assert not any(arena.size_bytes for arena in arenas)
        arenas.append(memory)
        reserve(memory, sizes, progress)

    monkeypatch.setattr(HostMemory, "reserve", watched)
    model = build("host").model
    model.to(torch.float64)
    assert [arena.size_bytes > 0 for arena in arenas] == [False, True]
    unused = arenas[-1].size_bytes - model.host_bytes()["weights"]
    assert 0 <= unused < mmap.PAGESIZE


def test_host_memory_is_counted_to_the_byte() -> None:
    """Matrices of the blocks, the table, and a byte a value of momentum with its scales and statistics."""
    work = build("host")
    blocks = [parameter for parameter in work.model.blocks.parameters() if parameter.dim() > 1]
    table = work.model.head.up.weight
    rounded = sum(-(-2 * parameter.numel() // 512) * 512 for parameter in (*blocks, table))
    assert work.host_bytes() == {"weights": rounded}
    work.step()
    kept = work.host_bytes()
    assert kept["weights"] == rounded
    moments = sum(parameter.numel() for parameter in (*blocks, table))
    assert moments < kept["optimizer state"] < 4 * moments


def pages(count: int) -> tuple[list[torch.Tensor], Ring]:
    tensors = [torch.full((5,), float(index)) for index in range(count)]
    ring = Ring([Page([tensor]) for tensor in tensors], Lane(CPU), Lane(CPU))
    ring.begin(2)
    return tensors, ring


def test_a_page_that_is_lent_shows_its_values_and_keeps_changes_only_if_asked() -> None:
    tensors, ring = pages(3)
    for index, keep in ((0, True), (1, False), (2, True)):
        with ring.lend(index, (index + 1) % 3, keep=keep):
            assert tensors[index].tolist() == [float(index)] * 5
            tensors[index] += 10
    ring.begin(2)
    for index, expected in enumerate((10.0, 1.0, 12.0)):
        with ring.lend(index, None, keep=False):
            assert tensors[index].tolist() == [expected] * 5


def test_more_slots_are_added_to_those_there_are() -> None:
    """A model that reads and then trains would otherwise hold its slots for reading for good, used by nobody."""
    pages = [Page([torch.full((size,), 1.0)]) for size in (5, 300, 7)]
    ring = Ring(pages, Lane(CPU), Lane(CPU))
    for slots in (1, 3, 2):
        ring.begin(slots)
    assert sum(map(len, ring._memory)) == 3 * max(page.size_bytes for page in pages)
    with ring.borrow(2 * pages[1].size_bytes) as memory, ring.borrow(1) as none:
        assert memory is not None
        assert none is None


def test_memory_that_was_borrowed_holds_no_page() -> None:
    tensors, ring = pages(2)
    with ring.lend(0, 1, keep=False):
        pass
    with ring.borrow(40) as memory:
        assert memory is not None
        memory.fill_(255)
    with ring.lend(1, None, keep=False):
        assert tensors[1].tolist() == [1.0] * 5
    with ring.borrow(1 << 20) as memory:
        assert memory is None


def test_memory_that_was_borrowed_holds_no_page_after_an_error_either() -> None:
    tensors, ring = pages(2)
    with ring.lend(0, 1, keep=False):
        pass
    with pytest.raises(ValueError, match="stop"), ring.borrow(40) as memory:
        fail(memory)
    with ring.lend(1, None, keep=False):
        assert tensors[1].tolist() == [1.0] * 5


def fail(tensor: torch.Tensor | None) -> None:
    assert tensor is not None
    tensor += 1
    raise ValueError("stop")


def test_an_error_while_lent_leaves_the_page_as_it_was() -> None:
    tensors, ring = pages(1)
    with pytest.raises(ValueError, match="stop"), ring.lend(0, None, keep=True):
        fail(tensors[0])
    ring.begin(1)
    with ring.lend(0, None, keep=False):
        assert tensors[0].tolist() == [0.0] * 5


def test_blocks_move_to_host_memory_as_they_are_built() -> None:
    """A model that is larger than the card would never be whole on it."""
    deep = Sizes(vocab_size=301, d_model=256, n_layers=24, n_heads=2, seq_len=24)
    case = Case(model="muse", config=PRESET.configure(deep), dtype="bf16", seq=24, vocab_size=301, mode="inference")
    trace, work = trace_case(case, find_gpu("rtx-4060"))
    built = [event for event in trace.events if event.op < trace.steps[0]]
    held, most = {}, 0
    for event in built:
        held[event.key] = event.size_bytes if event.is_alloc else 0
        most = max(most, sum(held.values()))
    assert most < work.host_bytes()["weights"] / 6


def test_a_model_is_refused_where_less_was_given_than_its_weights_take() -> None:
    """As the option says, before any block is built."""
    work = build("host")
    least = -(-work.model.host_bytes()["weights"] // mmap.PAGESIZE) * mmap.PAGESIZE
    build_workload(dataclasses.replace(work.case, host_memory_bytes=least), CPU)
    with pytest.raises(HostMemoryShort) as caught:
        build_workload(dataclasses.replace(work.case, host_memory_bytes=least - 1), CPU)
    assert caught.value.needed_bytes == least


def test_checkpoints_count_towards_what_was_given() -> None:
    """Pinned by PyTorch, they would take up to twice as much, and of memory that nobody asked about."""
    work = build("host")
    least = -(-work.model.host_bytes()["weights"] // mmap.PAGESIZE) * mmap.PAGESIZE
    full = build_workload(dataclasses.replace(work.case, host_memory_bytes=least), CPU)
    with pytest.raises(HostMemoryShort):
        full.model.loss(full.x, full.targets)


@pytest.mark.parametrize(("values", "moves"), [(100, False), (101, True)])
def test_state_of_a_hundredth_of_the_weights_stays_on_the_device(values: int, moves: bool) -> None:
    """Its copies would wait behind those of weights, and updates for them; more than that would not be little."""
    weight = torch.nn.Parameter(torch.zeros(100, 100))
    page = state_page([weight], {weight: {"squares": torch.zeros(values), "count": torch.zeros(())}})
    assert (page is not None) == moves
