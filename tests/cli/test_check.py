"""The regression gate as a process: its exit codes, what it writes, and what it refuses."""

import json
from xml.etree import ElementTree

import pytest

MODEL = """from torch import nn

def build():
    return nn.Sequential(nn.Embedding(300, {width}), nn.Linear({width}, 300))
"""


@pytest.fixture(autouse=True)
def no_summary(monkeypatch):
    """On a runner of GitHub the tests would else write into its summary."""
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)


@pytest.fixture
def saved(call, runner, tmp_path):
    """Writes records in which each model has a peak in MiB; `changes` are made to the file's parsed JSON."""

    def save(name, changes=lambda values: None, **peaks):
        runner.peaks = peaks
        assert call("compare", "--models", ",".join(peaks), "--output", name) in (0, 4)
        values = json.loads((tmp_path / name).read_text())
        changes(values)
        (tmp_path / name).write_text(json.dumps(values))

    return save


@pytest.fixture
def said(capsys):
    """What was printed since the last call, on one line."""
    return lambda stream: " ".join(getattr(capsys.readouterr(), stream).split())


def test_a_user_saves_a_baseline_passes_and_then_grows(muse_bench, tmp_path, monkeypatch):
    """The whole way with real predictions: the first step in CI, a change that fits, one that does not."""
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    predict = ("predict", "model.py:build", "--vocab", "300", "--seq", "64", "--gpu", "rtx-4060")
    (tmp_path / "model.py").write_text(MODEL.format(width=64))
    assert muse_bench(*predict, "-o", "now.json").returncode == 0
    first = muse_bench("check", "now.json", "--against", "base.json", "--save-baseline")
    assert (first.returncode, first.stdout) == (0, "base.json is the baseline now: 1 case of now.json\n")
    same = muse_bench("check", "now.json", "--against", "base.json", "--fail-on", "peak:0", "--fail-on", "parameters:0")
    assert same.returncode == 0
    assert "PASS, 1 case" in same.stdout

    (tmp_path / "model.py").write_text(MODEL.format(width=1024))
    assert muse_bench(*predict, "-o", "now.json").returncode == 0
    outputs = [word for suffix in ("xml", "md", "json", "csv") for word in ("-o", f"out.{suffix}")]
    worse = muse_bench("check", "now.json", "--against", "base.json", *outputs, "--benchmark", "bench.json")
    assert worse.returncode == 1
    assert "FAIL, 1 of 1 case" in worse.stdout
    assert "model.py:build: where" in worse.stdout
    assert ElementTree.parse(tmp_path / "out.xml").find(".//failure") is not None
    assert json.loads((tmp_path / "out.json").read_text())["passed"] is False
    assert (tmp_path / "out.csv").read_text().startswith("case,standing,")
    assert json.loads((tmp_path / "bench.json").read_text())[0]["unit"] == "bytes"
    summary = (tmp_path / "summary.md").read_text()
    assert summary.count("## Memory against the baseline") == 2  # one a check, the first kept
    assert summary.endswith((tmp_path / "out.md").read_text())


def test_the_summary_is_written_only_where_github_asks(saved, call, tmp_path):
    saved("base.json", ultra=100)
    before = set(tmp_path.iterdir())
    assert call("check", "base.json", "--against", "base.json") == 0
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("peak", "limits", "code"),
    [(102, [], 0), (103, [], 1), (103, ["peak:3MiB"], 0), (100, ["peak:0"], 0), (103, ["peak:5%", "reserved:2%"], 1)],
)
def test_two_percent_of_the_peak_unless_told(saved, call, peak, limits, code):
    saved("base.json", ultra=100)
    saved("now.json", ultra=peak)
    options = [word for limit in limits for word in ("--fail-on", limit)]
    assert call("check", "now.json", "--against", "base.json", *options) == code


def test_a_case_that_is_missing_or_no_longer_finishes_fails(saved, call, said):
    saved("base.json", ultra=100, tuned=100)
    saved("fewer.json", ultra=100)
    said("out")
    assert call("check", "fewer.json", "--against", "base.json") == 1
    assert "tuned: missing" in said("out")
    saved("oom.json", ultra=100, tuned="oom")
    assert call("check", "oom.json", "--against", "base.json") == 1
    assert "tuned: ok in the baseline, oom now" in said("out")


def _environment(**changes):
    return lambda values: values["environment"].update(changes)


def _records(**changes):
    return lambda values: [record.update(changes) for record in values["records"]]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gpu", _records(gpu="NVIDIA H200")),
        ("torch", _environment(torch="2.12.0")),
        ("allocator", _environment(allocator_config="expandable_segments:True")),
        ("workspace", _environment(cublas_workspace_config=":0:0")),
        ("provenance", _records(provenance="measured")),
    ],
)
def test_what_is_made_otherwise_is_refused_unless_told(saved, call, said, name, change):
    saved("base.json", ultra=100)
    saved("now.json", change, ultra=100)
    said("err")
    assert call("check", "now.json", "--against", "base.json") == 2
    assert f"compare with --allow-other {name}" in said("err")
    assert call("check", "now.json", "--against", "base.json", "--allow-other", name) == 0
    assert f"{name} differs:" in said("out")


def test_a_gate_that_could_compare_nothing_does_not_pass(saved, call, said):
    saved("base.json", ultra="oom")
    assert call("check", "base.json", "--against", "base.json") == 2
    assert "nothing to compare" in said("err")


def test_a_file_with_a_case_twice_is_named(saved, call, said):
    saved("base.json", lambda values: values["records"].extend(values["records"]), ultra=100)
    saved("now.json", ultra=100)
    for arguments in (("check", "now.json", "--against", "base.json"), ("diff", "now.json", "base.json")):
        assert call(*arguments) == 2
        assert "base.json: 'ultra' (train, batch 1, seq 2048) is there twice" in said("err")


def test_a_case_that_failed_is_no_baseline(saved, call, said, tmp_path):
    saved("now.json", ultra="crashed")
    assert call("check", "now.json", "--against", "base.json", "--save-baseline") == 2
    assert "'ultra' crashed" in said("err")
    assert not (tmp_path / "base.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "none.json"], ["none.json", "--save-baseline"]),
        (["--against", "base.json", "--fail-on", "vram:2%"], ["'vram'", "peak", "activations_saved"]),
        (["--against", "base.json", "--fail-on", "peak:soon"], ["'soon'"]),
        (["--against", "base.json", "--allow-other", "weather"], ["'weather'", "gpu, torch"]),
        (["--against", "base.json", "--output", "a.pdf"], ["a.pdf", ".xml"]),
        (["--against", "base.json", "--output", "none/a.xml"], ["none/a.xml"]),
        (["--against", "base.json", "--benchmark", "none/a.json"], ["none/a.json"]),
        ([], ["--against"]),
    ],
)
def test_mistakes_are_one_line(saved, call, capsys, arguments, words):
    saved("base.json", ultra=100)
    capsys.readouterr()
    assert call("check", "base.json", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_a_summary_that_cannot_be_written_is_said(saved, call, said, monkeypatch):
    saved("base.json", ultra=100)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "none/summary.md")
    said("err")
    assert call("check", "base.json", "--against", "base.json") == 2
    assert "none/summary.md: cannot be written" in said("err")
