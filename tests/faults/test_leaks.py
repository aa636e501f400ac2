"""Training that goes on for 200 steps."""

import gc

import pytest
import torch

from muse_bench.config import Case, Sizes
from muse_bench.models.presets import PRESETS
from muse_bench.workload import build_workload

SIZES = Sizes(vocab_size=61, d_model=32, n_layers=1, n_heads=4, seq_len=8)
STEPS, SETTLED = 200, 20
TRAINED = [name for name, preset in PRESETS.items() if preset.trains]


def living():
    """How many storages tensors have that Python can reach, what they hold together in bytes, and all objects there."""
    gc.collect()
    everything = gc.get_objects()
    tensors = [one for one in everything if issubclass(type(one), torch.Tensor) and one.layout == torch.strided]
    storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage().nbytes() for tensor in tensors}
    return len(storages), sum(storages.values()), len(everything)


@pytest.fixture
def one_thread():
    """What is computed is small: threads would wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(name, device):
    """A workload of the preset as a run has it, at small sizes."""
    preset = PRESETS[name]
    case = Case(
        model=name,
        config=preset.configure(SIZES),
        dtype="fp32" if device.type == "cpu" else preset.dtype,
        optimizer=preset.optimizer,
        update=preset.update,
        execution=preset.execution if device.type == "cuda" else "eager",
        batch=2,
        seq=8,
        vocab_size=SIZES.vocab_size,
    )
    return build_workload(case, device)


@pytest.mark.fault(
    f"{STEPS} training steps of each preset that trains, on the CPU", f"after step {SETTLED} nothing more is kept"
)
def test_training_keeps_nothing_from_step_to_step(one_thread, counted):
    """A cache with an entry a step, a list of losses, a hook registered anew each time."""
    for name in TRAINED:
        work = trained(name, torch.device("cpu"))
        for _ in range(SETTLED):
            work.step()
        storages, size, objects = living()
        grown = []
        for _ in range(2):
            for _ in range((STEPS - SETTLED) // 2):
                work.step()
            now = living()
            assert now[:2] == (storages, size), name
            grown.append(now[2] - objects)
            objects = now[2]
        assert min(grown) < (STEPS - SETTLED) // 2, name  # not one a step: what is imported once is in one half alone
        del work
    counted(presets=len(TRAINED), steps=STEPS * len(TRAINED), bytes_kept=0, tensors_kept=0)


@pytest.mark.gpu
@pytest.mark.fault(
    f"{STEPS} training steps of each preset that trains, on a GPU",
    f"after step {SETTLED} the allocator has not a byte more",
)
def test_training_on_a_gpu_keeps_nothing_from_step_to_step(counted):
    """The same of what a GPU alone has: captured graphs, streams, pinned memory, saved tensors of kernels."""
    for name in TRAINED:
        work = trained(name, torch.device("cuda", torch.cuda.current_device()))
        sizes = []
        for count in (SETTLED, STEPS - SETTLED):
            for _ in range(count):
                work.step()
            torch.cuda.synchronize()
            gc.collect()
            sizes.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))
        assert sizes[0] == sizes[1], name
        del work
        torch.cuda.empty_cache()
    counted(presets=len(TRAINED), steps=STEPS * len(TRAINED), bytes_kept=0)
