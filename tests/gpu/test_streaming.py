"""On a real GPU: weights that stream are the weights that stay, however the streams are delayed."""

import dataclasses
import random

import pytest
import torch

from muse_bench.config import Case, Sizes
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.streaming.lane import Lane
from muse_bench.streaming.ring import Ring
from muse_bench.workload import Workload, build_workload
from muse_kernels import host_rows

pytestmark = pytest.mark.gpu
SIZES = Sizes(vocab_size=1_001, d_model=128, n_layers=4, n_heads=2, seq_len=96)
PRESET = PRESETS["muse"]
STEPS = 12


def trained(
    weights: str, execution: str, device: torch.device, weight_format: str = "native", parts: int = 2
) -> Workload:
    config = dataclasses.replace(
        PRESET.configure(SIZES), weights=weights, weight_format=weight_format, checkpoint_parts=parts
    )
    case = Case(
        model="muse",
        config=config,
        dtype=PRESET.dtype,
        batch=2,
        seq=96,
        vocab_size=1_001,
        optimizer=PRESET.optimizer if weight_format == "native" else "adafactor-8bit",
        update=PRESET.update,
        execution=execution,  # type: ignore[arg-type]
    )
    work = build_workload(case, device)
    for _ in range(STEPS):
        work.step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return work


def same(ours: Workload, theirs: Workload) -> None:
    expected = {name: value.cpu() for name, value in theirs.model.state_dict().items()}
    found = {name: value.cpu() for name, value in ours.model.state_dict().items()}
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_streamed_training_is_the_resident_one_to_the_bit(execution: str) -> None:
    device = torch.device("cuda")
    same(trained("host", execution, device), trained("device", "eager", device))


def test_exact_adamw_for_fifty_steps_is_that_of_the_resident_model() -> None:
    """Float32 weights and moments in host memory, one half written back while the next one comes.

    Without attention: PyTorch adds up the gradient of its queries in any order.
    """

    def trained_exactly(weights: str) -> Workload:
        config = dataclasses.replace(
            PRESET.configure(SIZES), weights=weights, training_slots=3, attention_every=None, attention_window=None
        )
        case = Case(
            model="muse",
            config=config,
            batch=2,
            seq=96,
            vocab_size=1_001,
            optimizer="adamw",
            update=PRESET.update,
        )
        work = build_workload(case, torch.device("cuda"))
        for _ in range(50):
            work.step()
        torch.cuda.synchronize()
        return work

    resident = trained_exactly("device")
    same(trained_exactly("device"), resident)  # or nothing could be said of the other
    same(trained_exactly("host"), resident)


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_int8_weights_train_the_same_streamed_and_resident(execution: str, parts: int) -> None:
    """A matrix that is updated in the middle of its part must be whole when it is copied back."""
    device = torch.device("cuda")
    same(trained("host", execution, device, "int8", parts), trained("device", "eager", device, "int8", parts))


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_int4_weights_say_the_same_streamed_and_resident(execution: str) -> None:
    """A matrix must be whole before it is unpacked, and unpacked before its bytes are overwritten."""
    found = []
    for weights in ("host", "device"):
        config = dataclasses.replace(PRESET.configure(SIZES), weights=weights, weight_format="int4")  # type: ignore[arg-type]
        case = Case(
            model="muse",
            config=config,
            mode="inference",
            dtype=PRESET.dtype,
            batch=2,
            seq=96,
            vocab_size=1_001,
            execution=execution,  # type: ignore[arg-type]
        )
        work = build_workload(case, torch.device("cuda"))
        for _ in range(STEPS):
            work.step()
        with torch.no_grad():
            found.append(work.model.hidden(work.ids)[0])  # type: ignore[operator]
    assert torch.equal(*found)


@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_what_crosses_the_link_is_what_meta_counts(execution: str) -> None:
    """Also once the step is a graph, which counts nothing when it is replayed."""
    found, expected = (trained("host", execution, torch.device(kind)).traffic for kind in ("cuda", "meta"))
    assert found is not None
    assert expected is not None
    assert found.to_host_bytes > 0
    assert (found.to_device_bytes, found.to_host_bytes) == (expected.to_device_bytes, expected.to_host_bytes)


def test_a_model_is_never_whole_on_the_device_while_it_is_built() -> None:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model = LanguageModel(PRESET.configure(dataclasses.replace(SIZES, d_model=512, n_layers=24)))
    assert torch.cuda.max_memory_allocated() - before < model.host_bytes()["weights"] / 4


@pytest.mark.parametrize("seed", range(3))
def test_no_delay_of_either_stream_lets_memory_be_used_too_early(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that starts late, or a computation that ends late, meets memory that someone else has taken by then."""
    device = torch.device("cuda")
    resident = trained("device", "eager", device)
    chance = random.Random(seed)
    copy, lend = Lane.copy, Ring.lend

    def late_copy(lane, *args, **kwargs):  # type: ignore[no-untyped-def]
        if chance.random() < 0.3:
            with torch.cuda.stream(lane._stream):
                torch.cuda._sleep(chance.randrange(2_000_000))
        return copy(lane, *args, **kwargs)

    def late_work(ring, *args, **kwargs):  # type: ignore[no-untyped-def]
        if chance.random() < 0.3:
            torch.cuda._sleep(chance.randrange(2_000_000))
        return lend(ring, *args, **kwargs)

    monkeypatch.setattr(Lane, "copy", late_copy)
    monkeypatch.setattr(Ring, "lend", late_work)
    same(trained("host", "eager", device), resident)


@pytest.mark.parametrize("width", [1, 33, 192])
def test_rows_of_a_table_in_pinned_memory(width: int) -> None:
    table = torch.randn(77, width, dtype=torch.bfloat16).pin_memory()
    ids = torch.randint(77, (3, 19))
    found = host_rows(table, ids.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), table[ids], rtol=0, atol=0)
    with pytest.raises(ValueError, match="pinned"):
        host_rows(table.clone(), ids.cuda())
