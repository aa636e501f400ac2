"""The API gives the records of the command line, and leaves what it is given as it was."""

import dataclasses
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import muse_bench
from muse_bench.errors import UntraceableModel, UsageError
from muse_bench.places import places_of
from muse_bench.record import read_run_file

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"
SIZES = {"vocab": 300, "seq": 32}
NO_GPU = not torch.cuda.is_available()


class Model(nn.Module):
    """A tied table and head, a buffer, and a tensor that is neither."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(300, 64)
        self.head = nn.Linear(64, 300)
        self.head.weight = self.table.weight
        self.register_buffer("scale", torch.ones(300))
        self.shift = torch.zeros(300)

    def forward(self, ids):
        return self.head(self.table(ids)) * self.scale + self.shift


class Locked(Model):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


def set_up(device):
    model = nn.Linear(1024, 1024)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    x = torch.randn(8, 1024)

    def step():
        model(x).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return muse_bench.Step(step, model, optimizer, [x])


def test_importing_it_imports_no_torch():
    code = "import sys, muse_bench; muse_bench.predict, muse_bench.Step; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_the_packages_of_the_same_name_are_the_functions_too():
    """Importing any part of muse_bench.predict puts the package in the function's place."""
    import muse_bench.measure.nvml
    import muse_bench.predict.gpus

    assert muse_bench.predict.gpus.find_gpu("rtx-3080")
    with pytest.raises(TypeError, match="there is no option 'sec': choose from mode"):
        muse_bench.predict(Model(), sec=3)
    with pytest.raises(TypeError, match="there is no option 'sec'"):
        muse_bench.measure("ultra", sec=3)


def test_a_model_and_functions_that_build_it_are_predicted_alike():
    model = Model()
    found = [muse_bench.predict(given, **SIZES) for given in (model, Model, lambda: Model(), lambda: model)]
    assert len({record.peak_allocated_bytes for record in found}) == 1
    assert found[0].parameters == 300 * 64 + 300  # tied: the copy's tensors are shared as the model's are
    assert found[0].ledger.buffers == 1536
    assert found[0].model.endswith("test_api:Model")


def test_what_was_given_stays_as_it_was():
    """Neither its device nor its gradients nor its mode, nor the random numbers that follow, change."""
    model = Model().eval()
    model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
    before, state = model.table.weight.grad.clone(), torch.get_rng_state()
    for given in (model, lambda: model):
        muse_bench.predict(given, **SIZES)
        assert torch.equal(model.table.weight.grad, before)
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {"cpu"}
        assert not model.training
        assert torch.equal(torch.get_rng_state(), state)


def test_gradients_that_a_model_has_do_not_count_before_its_first_step():
    model = Model()
    fresh = muse_bench.predict(model, **SIZES)
    model(torch.zeros(1, 2, dtype=torch.int64)).sum().backward()
    assert muse_bench.predict(model, **SIZES).peak_allocated_bytes == fresh.peak_allocated_bytes


def test_a_model_keeps_its_dtype_unless_one_is_asked_for():
    assert muse_bench.predict(Model().bfloat16(), **SIZES).dtype == "bf16"
    halved = muse_bench.predict(Model().bfloat16(), dtype="fp32", **SIZES)
    plain = muse_bench.predict(Model(), **SIZES)
    assert dataclasses.replace(halved, duration_seconds=None) == dataclasses.replace(plain, duration_seconds=None)


def test_a_name_gives_what_the_command_line_gives(tmp_path):
    record = muse_bench.predict("ultra", gpu="rtx-3080", seq=32, layers=1, vocab=300, d_model=64, heads=2)
    out = tmp_path / "out.json"
    sizes = ["--seq", "32", "--layers", "1", "--vocab", "300", "--d-model", "64", "--heads", "2"]
    command = [
        sys.executable,
        "-m",
        "muse_bench",
        "predict",
        "ultra",
        "--gpu",
        "rtx-3080",
        *sizes,
        "--output",
        str(out),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (theirs,) = read_run_file(out).records
    assert dataclasses.replace(record, duration_seconds=None) == dataclasses.replace(theirs, duration_seconds=None)


def test_a_name_is_shared_out_among_ranks():
    sizes = {"seq": 32, "layers": 1, "vocab": 300, "d_model": 64, "heads": 2}
    record = muse_bench.predict("baseline", gpu="h200", sharding="fsdp", ranks=4, **sizes)
    assert (record.sharding, record.ranks, [row.rank for row in record.of_ranks]) == ("fsdp", 4, [0, 3])


@pytest.mark.parametrize(
    ("model", "options", "said"),
    [
        ("baseline", {"ranks": 2}, "ranks=2 shares nothing out"),
        ("baseline", {"sharding": "fsdp", "ranks": 1}, "1 ranks cannot share a case out"),
        ("baseline", {"sharding": "pipeline"}, "sharding 'pipeline' is unknown"),
        (Model, {"sharding": "fsdp"}, "each rank builds its model by its name"),
    ],
)
def test_what_cannot_be_shared_out_is_told(model, options, said):
    with pytest.raises(UsageError, match=said):
        muse_bench.predict(model, **options)


def test_a_setup_is_called_with_the_device():
    record = muse_bench.predict(set_up)
    assert record.model.startswith("setup:")
    assert record.ledger.inputs == 8 * 1024 * 4
    assert record.ledger.optimizer_state >= 4 * (1024 * 1024 + 1024)


def test_a_step_that_was_built_on_meta_is_predicted():
    with torch.device("meta"):
        step = set_up("meta")
    assert muse_bench.predict(step).ledger.inputs == 8 * 1024 * 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (3, "int is no model"),
        (lambda: 3, "returned int, not an nn.Module"),
        (lambda: 1 / 0, "raised ZeroDivisionError"),
        (lambda device: Model(), "returned Model, not a muse_bench.Step"),
    ],
)
def test_what_cannot_be_built_is_told(given, said):
    with pytest.raises(UsageError, match=said):
        muse_bench.predict(given)


def test_a_model_that_cannot_be_copied_comes_as_a_function():
    with pytest.raises(UsageError, match=r"Locked cannot be copied .*give a function"):
        muse_bench.predict(Locked(), **SIZES)
    assert muse_bench.predict(Locked, **SIZES).status == "ok"


def test_a_step_on_the_cpu_is_told_to_be_built_on_meta():
    with pytest.raises(UsageError, match="the step has parameters on cpu, not on meta: build it on meta"):
        muse_bench.predict(set_up("cpu"))


def test_a_model_that_looks_at_what_it_computes_is_not_traced():
    class Looks(Model):
        def forward(self, ids):
            out = super().forward(ids)
            return out[out.sum(-1) > 0]

    with pytest.raises(UntraceableModel, match=r"test_api\.py:\d+ in forward"):
        muse_bench.predict(Looks(), **SIZES)
    assert muse_bench.predict(Model(), **SIZES).status == "ok"  # and the next one is, as if nothing had been


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_measuring_and_watching_without_a_gpu_names_predict():
    for run in (lambda: muse_bench.measure(Model(), **SIZES), lambda: muse_bench.watch().__enter__()):
        with pytest.raises(UsageError, match=r"needs a CUDA GPU, and there is none here: use muse_bench\.predict"):
            run()


def test_the_place_of_a_module_is_its_class_or_the_one_around_it():
    places = places_of(Model())
    line = Path(__file__).read_text().splitlines().index("class Model(nn.Module):") + 1
    assert places == dict.fromkeys(
        ("(model)", "table", "head"), f"{Path(__file__).relative_to(Path.cwd()).as_posix()}:{line}"
    )


def test_every_example_of_the_document_runs():
    """In order, in one namespace, as a reader would; those for a GPU where there is one."""
    blocks = re.findall(r"^```python( gpu)?\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    names = {"__name__": "document"}
    for gpu, block in blocks:
        if not (gpu and NO_GPU):
            exec(compile(block, str(DOCUMENT), "exec"), names)
