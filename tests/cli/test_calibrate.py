"""The calibration matrix through the command, over a GPU, a runner and other predictors that are invented."""

import dataclasses
import importlib

import pytest

from muse_bench.calibration.cases import DEVELOPMENT, HELD_OUT, ZooRow
from muse_bench.errors import UsageError
from muse_bench.execution.blank import blank_record
from muse_bench.execution.runner import Progress
from muse_bench.measure.nvml_device import UnavailableError
from muse_bench.record import Environment, read_run_file

COMMAND = importlib.import_module("muse_bench.cli.calibrate")  # the package's attribute is the function
MIB = 1 << 20
TITLE = "NVIDIA H200"
MATRIX = {
    "development": (DEVELOPMENT[0], ZooRow("gpt2", "train", "fp32", 2, 512, autocast="bf16")),
    "held-out": (HELD_OUT[0],),
}


class Machine:
    """What there is to run on: `found` holds what a model's case ends with where it does not end well."""

    def __init__(self):
        self.backend, self.found, self.made, self.log = "cuda", {}, [], []

    def runner(self, asked, **options):
        self.made.append(InventedRunner(self, asked, options))
        return self.made[-1]


class InventedRunner:
    """Measures 100 MiB of each case, and predicts 101."""

    def __init__(self, machine, asked, options):
        self.machine, self.asked, self.options = machine, asked, options
        self.backend = "predict" if asked == "predict" else machine.backend
        self.environment = Environment(muse_bench="0.1.0", torch="2.11.0", gpu=TITLE, driver=self.backend)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.machine.log.append(f"{self.asked} ended")

    def run(self, cases):
        (case,) = cases
        provenance = "measured" if self.backend == "cuda" else "predicted"
        self.machine.log.append(f"{provenance} {case.model}")
        self.options["on_progress"](Progress(0, 1, case, "building"))
        found = self.machine.found.get((provenance, case.model))
        if isinstance(found, BaseException):
            raise found
        peak = {"measured": 100 * MIB, "predicted": 101 * MIB}[provenance]
        figures = ("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes")
        record = dataclasses.replace(blank_record(case, provenance, TITLE), **dict.fromkeys(figures, peak))
        yield dataclasses.replace(record, status="crashed", reason="too hot") if found == "crashed" else record


class InventedPeers:
    """One of the other predictors says 90 MiB, the other nothing."""

    def __init__(self, timeout_seconds):
        self.timeout_seconds = timeout_seconds

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, record, case, say):
        say("asking")
        return dataclasses.replace(record, peers={"mem-tracker": 90 * MIB, "accelerate": None})


@pytest.fixture
def machine(monkeypatch):
    invented = Machine()
    monkeypatch.setattr(COMMAND, "PARTS", MATRIX)
    monkeypatch.setattr(COMMAND, "Runner", invented.runner)
    monkeypatch.setattr(COMMAND, "PeerWorker", InventedPeers)
    monkeypatch.setattr("muse_bench.execution.at_hand.device_title", lambda: TITLE)
    return invented


@pytest.fixture
def without_gpu(machine, monkeypatch):
    def title():
        raise UnavailableError("NVML Shared Library Not Found")

    monkeypatch.setattr("muse_bench.execution.at_hand.device_title", title)
    return machine


def test_every_case_is_measured_and_predicted_into_one_file(call, machine, capsys, tmp_path):
    assert call("calibrate", "-o", "a.json", "-o", "a.md") == 0
    run = read_run_file(tmp_path / "a.json")
    assert [record.provenance for record in run.records] == ["measured", "predicted"] * 3
    assert run.environment.driver == "cuda"  # where the measurements come from
    shown = capsys.readouterr().out
    assert "Prediction error, NVIDIA H200" in shown
    for heading in ("development", "held-out", "No PASS that fails", "Each case"):
        assert heading in shown
        assert heading in (tmp_path / "a.md").read_text()


def test_measuring_takes_no_instrumented_run_and_predicts_for_the_gpu_at_hand(call, machine):
    assert call("calibrate", "--timeout", "60") == 0
    measurer, predictor = machine.made
    assert (measurer.asked, measurer.options["explain"], measurer.options["timeout_seconds"]) == ("auto", False, 60)
    assert (predictor.asked, predictor.options["gpu"], predictor.options["explain"]) == ("predict", "h200", False)


def test_without_a_gpu_it_says_what_can_be_done(call, without_gpu, capsys, tmp_path):
    assert call("calibrate", "-o", "a.json") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "needs a CUDA GPU" in line
    assert "`muse-bench accuracy FILE`" in line
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_the_table_lacks_is_named_and_not_called_none(call, machine, monkeypatch, capsys):
    monkeypatch.setattr("muse_bench.execution.at_hand.device_title", lambda: "NVIDIA H999")
    assert call("calibrate") == 2
    assert "'NVIDIA H999' is not a known GPU" in capsys.readouterr().err


def test_a_gpu_that_torch_cannot_use_is_none(call, machine, capsys):
    machine.backend = "predict"
    assert call("calibrate") == 2
    assert "needs a CUDA GPU" in capsys.readouterr().err
    assert machine.log == ["auto ended"]


@pytest.mark.parametrize(
    ("arguments", "models"),
    [
        (["--part", "development"], ["encoder", "muse_bench.calibration.zoo:gpt2"]),
        (["--part", "held-out"], ["encoder"]),
        (["--only", "gpt2 fp32 autocast bf16 train"], ["muse_bench.calibration.zoo:gpt2"]),
        (["--only", "encoder"], ["encoder", "encoder"]),
    ],
)
def test_part_and_only_choose(call, machine, tmp_path, arguments, models):
    assert call("calibrate", "--predict-only", "--gpu", "h200", *arguments, "-o", "a.json") == 0
    assert [record.model for record in read_run_file(tmp_path / "a.json").records] == models


def test_only_takes_either_spelling_of_a_name(call, machine, monkeypatch):
    monkeypatch.setattr(COMMAND, "PARTS", {"held-out": (ZooRow("gpt-neo", "train", "fp32", 1, 8),)})
    assert call("calibrate", "--only", "gpt_neo") == 0
    assert call("calibrate", "--only", "gpt-neo") == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "resnet"], "'resnet'"),
        (["--gpu", "h200"], "--predict-only"),
        (["--predict-only", "--gpu", "rtx-9999"], "rtx-9999"),
        (["--part", "test"], "held-out"),
        (["--timeout", "0"], "--timeout 0"),
        (["-o", "a.csv"], ".json, .md"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_runs(call, machine, capsys, tmp_path, arguments, said):
    assert call("calibrate", *arguments) == 2
    assert said in capsys.readouterr().err
    assert machine.made == []
    assert list(tmp_path.iterdir()) == []


def test_predict_only_needs_a_name_where_there_is_no_gpu(call, without_gpu, capsys):
    assert call("calibrate", "--predict-only") == 2
    assert "name one" in capsys.readouterr().err


def test_predict_only_measures_nothing_and_its_predictions_take_the_old_ones_places(call, machine, capsys, tmp_path):
    assert call("calibrate", "-o", "old.json") == 0
    made = len(machine.made)
    assert call("calibrate", "--predict-only", "--gpu", "h200", "-o", "new.json") == 0
    assert [runner.asked for runner in machine.made[made:]] == ["predict"]
    text = (tmp_path / "new.json").read_text().replace(str(101 * MIB), str(120 * MIB))
    (tmp_path / "new.json").write_text(text)
    capsys.readouterr()
    assert call("accuracy", "old.json", "new.json") == 0
    shown = capsys.readouterr().out
    assert "+20.00%" in shown
    assert "+1.00%" not in shown


def test_records_are_on_disk_after_every_case(call, machine, monkeypatch, tmp_path):
    seen = []
    plain = InventedRunner.run

    def run(self, cases):
        seen.append((tmp_path / "a.jsonl").read_text().count("case_id"))
        return plain(self, cases)

    monkeypatch.setattr(InventedRunner, "run", run)
    assert call("calibrate", "-o", "a.json") == 0
    assert seen == [0, 1, 2, 3, 4, 5]


def test_ctrl_c_keeps_what_has_finished(call, machine, capsys, tmp_path):
    machine.found["measured", "muse_bench.calibration.zoo:gpt2"] = KeyboardInterrupt()
    assert call("calibrate", "-o", "a.json") == 130
    shown = capsys.readouterr()
    assert shown.err.startswith("muse-bench: interrupted: 1 of 3 cases finished; go on with: muse-bench calibrate ")
    assert "Each case" in shown.out
    assert len(read_run_file(tmp_path / "a.json").records) == 2
    machine.found.clear()
    machine.log.clear()
    assert call("calibrate", "-o", "a.json", "--resume") == 0
    zoo = "muse_bench.calibration.zoo:gpt2"
    assert [line for line in machine.log if zoo in line] == [f"measured {zoo}", f"predicted {zoo}"]
    assert len([line for line in machine.log if "ended" not in line]) == 4
    assert len(read_run_file(tmp_path / "a.json").records) == 6


@pytest.mark.parametrize("found", [UsageError("'gpt2' needs transformers"), "crashed"])
@pytest.mark.parametrize("provenance", ["measured", "predicted"])
def test_a_case_that_cannot_be_had_is_named_and_the_others_run(call, machine, capsys, tmp_path, provenance, found):
    machine.found[provenance, "muse_bench.calibration.zoo:gpt2"] = found
    assert call("calibrate", "-o", "a.json", "-o", "a.md") == 4
    assert len(read_run_file(tmp_path / "a.json").records) == 6
    text = (tmp_path / "a.md").read_text()
    what = {"measured": "measurement", "predicted": "prediction"}[provenance]
    assert f"gpt2 fp32 autocast bf16, train adamw, 2 x 512: the {what}" in text
    assert ("too hot" if found == "crashed" else "needs transformers") in text


def test_no_pair_at_all_still_shows_what_was_predicted(call, machine, capsys):
    machine.found["measured", "encoder"] = "crashed"
    assert call("calibrate", "--part", "held-out") == 4
    shown = capsys.readouterr().out
    assert "Predicted for NVIDIA H200" in shown
    assert "the measurement crashed" in shown


def test_others_are_asked_when_every_case_is_done(call, machine, monkeypatch, capsys, tmp_path):
    """One that takes a context on the GPU must not do so beside a measurement."""

    def ask(self, record, case, say, plain=InventedPeers.ask):
        machine.log.append(f"asked {case.model}")
        return plain(self, record, case, say)

    monkeypatch.setattr(InventedPeers, "ask", ask)
    assert call("calibrate", "--peers", "-o", "a.json") == 0
    order = [line.split()[0] for line in machine.log]
    assert order == ["measured", "predicted"] * 3 + ["asked"] * 3 + ["predict", "auto"]
    run = read_run_file(tmp_path / "a.json")
    assert [bool(record.peers) for record in run.records] == [False, True] * 3
    shown = capsys.readouterr().out
    assert "Other predictors, steady peak" in shown
    assert "MemTracker" in shown


def test_others_are_not_asked_unless_told(call, machine, monkeypatch, capsys):
    monkeypatch.setattr(COMMAND, "PeerWorker", None)
    assert call("calibrate") == 0
    assert "Other predictors" not in capsys.readouterr().out


def test_several_texts_choose_the_cases_of_each() -> None:
    chosen = COMMAND._chosen("all", "falcon,gemma3")
    assert {case.model.rpartition(":")[2] for case in chosen} == {"falcon", "gemma3"}
