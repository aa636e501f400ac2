"""The claims through real processes: predicted figures of the reports, saved evidence, exit codes; and which GPU."""

import csv
import dataclasses
import importlib
import json

import pytest

from muse_bench.footprint import Footprint
from muse_bench.record import Environment, Record, RunFile, read_run_file

STREAMED = Record(
    model="streamed",
    config={},
    mode="train",
    dtype="bf16",
    batch=1,
    seq=512,
    status="ok",
    provenance="measured",
    gpu="NVIDIA H200",
    parameters=100_291_949_264,
    verdict="PASS",
)
KERNELS = {"schema_version": 1, "command": None, "environment": {"muse_bench": "0.1.0"}, "rates": {}, "benchmarks": []}


@pytest.fixture
def empty(tmp_path):
    """A folder without records."""
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


@pytest.fixture
def records(tmp_path):
    """A folder with a model of 100 billion parameters that was trained, and files that are no evidence."""
    folder = tmp_path / "records"
    (folder / "deeper").mkdir(parents=True)
    larger = dataclasses.replace(STREAMED, provenance="predicted", parameters=10**12)
    for name, record in (("deeper/streamed", STREAMED), ("predicted", larger)):
        run = RunFile(environment=Environment(muse_bench="0.1.0"), records=(record,))
        (folder / f"{name}.json").write_text(run.to_json())
    (folder / "broken.json").write_text('{"schema_version": 1, "records": [')
    (folder / "kernels.json").write_text(json.dumps(KERNELS))
    (folder / "list.json").write_text("[1, 2]")
    return folder


def rows(path):
    with open(path, encoding="utf-8") as stream:
        return {row["id"]: row for row in csv.DictReader(stream)}


def test_the_reports_figures_come_out_for_the_reports_gpu(muse_bench, empty, tmp_path):
    """A protocol, an allocator or a default GPU by which their figures do not come out; a file shown as another run."""
    asked = ("--only", "F19,F33,F39,F49", "--records", empty)
    outputs = ("-o", "a.csv", "-o", "a.json", "-o", "a.md")
    process = muse_bench("claims", *asked, "--backend", "predict", *outputs)
    assert (process.returncode, process.stderr) == (0, "")
    found = rows(tmp_path / "a.csv")
    for name, claimed in {"F19": 456.3, "F33": 17.4, "F39": 143.3, "F49": 17.2}.items():
        assert float(found[name]["theirs"]) == pytest.approx(claimed, rel=0.01)
        assert found[name]["theirs_origin"] == "predicted, NVIDIA GeForce RTX 3080"
        assert found[name]["verdict"] == "reproduced with a caveat"
    run = read_run_file(tmp_path / "a.json")
    assert {record.model for record in run.records} == {"encoder", "baseline", "ultra", "ultimate", "muse"}
    assert all(record.verdict == "PASS" and not record.timeline for record in run.records)
    again = muse_bench("claims", *asked, "--from", "a.json", "-o", "b.md", "-o", "b.csv")
    assert (again.returncode, again.stderr, again.stdout) == (0, "", process.stdout)
    assert (tmp_path / "b.md").read_text() == (tmp_path / "a.md").read_text()
    assert (tmp_path / "b.csv").read_text() == (tmp_path / "a.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "X1"], "--only 'X1' is no claim: give ids from F01 to F75 and E01 to E37, or F*"),
        (["--records", "missing"], "--records missing is not there"),
        (["--records", "records/broken.json"], "records/broken.json: not a record file"),
        (["--records", "records/kernels.json"], "records/kernels.json: not a record file"),
        (["--records", "records/predicted.json"], "records/predicted.json holds predictions"),
        (["--only", "E01", "--from", "missing.json"], "missing.json: cannot be read"),
        (["--only", "E01", "--output", "a.txt"], "a.txt"),
    ],
)
def test_what_is_not_right_is_one_line(muse_bench, records, arguments, said):
    """A traceback, or a misspelt file of records taken for no evidence."""
    process = muse_bench("claims", *arguments)
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.count("\n") == 1
    assert said in process.stderr


@pytest.mark.parametrize(("only", "code"), [("F23", 1), ("E01", 0)])
def test_strict_fails_where_a_claim_is_not_reproduced(muse_bench, empty, only, code):
    """A check that passes whatever is found, or fails where all is."""
    process = muse_bench("claims", "--only", only, "--records", empty, "--backend", "predict", "--strict")
    assert (process.returncode, process.stderr) == (code, "")
    assert ("not reproduced" in process.stdout) == (code == 1)


def test_the_100b_model_comes_from_a_saved_record_among_other_files(muse_bench, empty, records, tmp_path):
    """A folder refused for a file that is no record; a prediction taken for a model that was trained."""
    process = muse_bench("claims", "--only", "E37", "--records", records, "-o", "a.csv", "-o", "a.json")
    assert (process.returncode, process.stderr) == (0, "")
    found = rows(tmp_path / "a.csv")["E37"]
    assert (found["verdict"], found["ours_origin"]) == ("exceeded", "measured, NVIDIA H200")
    assert float(found["ours"]) == pytest.approx(100.29, abs=0.01)
    assert "100.3 billion parameters ran here" in found["reason"]
    without = muse_bench("claims", "--from", "a.json", "--only", "E37", "--records", empty, "-o", "b.csv", "--strict")
    assert without.returncode == 0
    found = rows(tmp_path / "b.csv")["E37"]
    assert (found["verdict"], found["ours"]) == ("not measurable here", "")


@pytest.fixture
def counted(monkeypatch):
    """Floors of models that weigh nothing much."""
    sizes = dict.fromkeys((field.name for field in dataclasses.fields(Footprint)), 1 << 20)
    module = importlib.import_module("muse_bench.cli.claims")
    monkeypatch.setattr(module, "weigh_cases", lambda cases: [Footprint(**sizes) for _ in cases])


@pytest.mark.parametrize(
    ("arguments", "gpu"),
    [
        ([], "rtx-3080"),
        (["--backend", "predict"], "rtx-3080"),
        (["--gpu", "h200"], "h200"),
        (["--backend", "cuda"], None),
    ],
)
@pytest.mark.usefixtures("counted", "no_gpu")
def test_without_a_gpu_it_is_the_reports(call, runner, empty, arguments, gpu):
    """Workspaces of another GPU in the reports' figures, or a GPU that was asked for put aside."""
    assert call("claims", "--only", "F19", "--records", str(empty), *arguments) == 0
    (made,) = runner.made
    assert made.options["gpu"] == gpu
    assert [(case.model, case.mode, case.batch) for case in made.cases] == [
        ("encoder", "forward-backward", 2),
        ("baseline", "train", 2),
    ]


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine without one, whatever it has."""

    def gpu_at_hand():
        raise importlib.import_module("muse_bench.measure.nvml_device").UnavailableError("no driver")

    monkeypatch.setattr(importlib.import_module("muse_bench.cli.claims"), "gpu_at_hand", gpu_at_hand)


@pytest.mark.usefixtures("counted", "no_gpu")
def test_a_case_that_ran_out_of_memory_settles_nothing_and_is_said(call, runner, empty, tmp_path):
    """A run whose every case failed that ends well, or a claim missed since its case did not run."""
    runner.peaks = {"encoder": "oom"}
    runner.fields = lambda case: {"optimizer": case.optimizer}
    assert call("claims", "--only", "F19", "--records", str(empty), "-o", "a.csv") == 4
    assert rows(tmp_path / "a.csv")["F19"]["verdict"] == "not measurable here"
    assert rows(tmp_path / "a.csv")["F19"]["sound"] == "100.0"


@pytest.mark.usefixtures("counted", "no_gpu")
def test_the_headline_stands_between_the_markers_of_a_file(call, empty, tmp_path):
    """A README overwritten around its markers, or the claims chosen shown in place of the headline."""
    markers = [f"<!-- muse-bench: {word} claims -->" for word in ("begin", "end")]
    (tmp_path / "a.md").write_text(f"before\n{markers[0]}\nold\n{markers[1]}\nafter\n")
    assert call("claims", "--only", "E01", "--records", str(empty), "--into", "a.md") == 0
    text = (tmp_path / "a.md").read_text()
    assert text.startswith(f"before\n{markers[0]}\n")
    assert text.endswith(f"{markers[1]}\nafter\n")
    assert "old" not in text
    assert [line.split("|")[1].strip() for line in text.splitlines() if line.startswith(("| F", "| E"))] == (
        ["F01", "F02", "F16", "F19", "F33", "F39", "F48", "F57", "F68", "F70", "E03", "E20", "E35", "E36", "E37"]
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "a.txt"], "a.txt"),
        (["--output", "none/a.md"], "cannot be written"),
        (["--into", "a.md"], "has no lines '<!-- muse-bench: begin claims -->'"),
        (["--into", "none.md"], "none.md: cannot be read"),
    ],
)
@pytest.mark.usefixtures("counted", "no_gpu")
def test_what_cannot_be_written_is_refused_before_anything_runs(
    call, runner, empty, tmp_path, monkeypatch, capsys, arguments, said
):
    """Hours of training, or all cases, before a slip in the name of a file is found."""
    monkeypatch.setattr(
        importlib.import_module("muse_bench.cli.claims"), "train_missing", lambda *_: pytest.fail("trained")
    )
    (tmp_path / "a.md").write_text("no markers\n")
    assert call("claims", "--only", "F16,F19", "--records", str(empty), "--run-training", *arguments) == 2
    assert said in capsys.readouterr().err
    assert runner.made == []
