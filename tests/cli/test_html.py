"""HTML and charts from the command line: which files there are, what is in them, and what is refused before a run."""

from pathlib import Path

import pytest

from muse_bench.report import html


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def saved(call, runner):
    """The records of two models, in peaks.json."""
    runner.peaks = {"ultra": 40, "baseline": 100}
    assert call("compare", "--models", "baseline,ultra", "-o", "peaks.json") == 0


def charts(path):
    return path.read_text(encoding="utf-8").count("<figure ")


def test_a_comparison_as_html(call, runner, tmp_path):
    runner.peaks = {"ultra": 40, "baseline": 100}
    assert call("compare", "--models", "baseline,ultra", "-o", "a.html") == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert charts(tmp_path / "a.html") == 1
    assert "40.0 MiB, 60.0 % less" in text
    assert "muse-bench compare --models baseline,ultra -o a.html" in text


def test_saved_records_as_html_and_on_the_screen(call, saved, tmp_path, capsys):
    assert call("report", "peaks.json", "-o", "a.html") == 0
    capsys.readouterr()
    assert call("report", "peaks.json", "--format", "html") == 0
    assert capsys.readouterr().out == (tmp_path / "a.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("chart_format", "begin"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_charts_as_files(call, saved, tmp_path, chart_format, begin):
    assert call("report", "peaks.json", "--charts", "pictures", "--chart-format", chart_format) == 0
    files = list((tmp_path / "pictures").iterdir())
    assert [path.name for path in files] == [f"bars.{chart_format}"]
    assert files[0].read_bytes().startswith(begin)


def test_charts_of_several_environments_do_not_overwrite_each_other(call, saved, tmp_path):
    other = (tmp_path / "peaks.json").read_text().replace('"2.13.0"', '"2.14.0"')
    (tmp_path / "other.json").write_text(other)
    assert call("report", "peaks.json", "other.json", "--charts", "pictures") == 0
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.svg")} == {
        "pictures/bars.svg",
        "pictures/2/bars.svg",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--charts", "p", "--chart-format", "gif"), "unknown chart format 'gif': choose from svg, png"),
        (("--charts", "peaks.json"), "peaks.json: cannot be written: File exists"),
        (("--charts", "no/such"), "no/such: cannot be written: No such file or directory"),
    ],
)
def test_charts_that_cannot_be_written(call, saved, capsys, arguments, said):
    assert call("report", "peaks.json", *arguments) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_without_altair_nothing_runs(call, runner, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(html, "EXTRA", ("no_such_module",))
    for command in (("compare",), ("ablate",), ("sweep",)):
        assert call(*command, "-o", "a.html") == 2
        assert "HTML needs altair: pip install 'muse-bench[html]'" in " ".join(capsys.readouterr().err.split())
    assert not any(made.cases for made in runner.made)
    assert not (tmp_path / "a.html").exists()


def test_an_ablation_as_html(call, runner, tmp_path):
    runner.peaks = {"tuned": 80}
    assert call("ablate", "--to", "tuned", "-o", "a.html") == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert charts(tmp_path / "a.html") == 1
    assert "together" in text
    assert "saves 20.0 (20.0 %)" in text


def test_a_sweep_as_html_has_a_chart_for_each_table(call, runner, tmp_path):
    runner.peaks = {"ultra": lambda case: case.seq}
    runner.fields = lambda case: {"step_time_seconds": case.seq / 1e3}
    arguments = ("sweep", "--models", "ultra", "--values", "1000..4000")
    assert call(*arguments, "-o", "a.html", "-o", "a.json") == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8").partition("</main>")[0]
    assert charts(tmp_path / "a.html") == text.count("<table>") == 2
    assert text.count("ultra, exponent 1.000") >= 2
    assert call("sweep", "--from", "a.json", "-o", "b.html") == 0
    assert charts(tmp_path / "b.html") == 2


@pytest.mark.parametrize("how", ["saved", "run"])
def test_the_charts_of_a_sweep_as_files(call, runner, tmp_path, how):
    runner.fields = lambda case: {"step_time_seconds": case.seq / 1e3}
    arguments = ("sweep", "--models", "ultra", "--values", "1000..4000", "-o", "a.json")
    assert call(*arguments, *(("--charts", "p") if how == "run" else ())) == 0
    if how == "saved":
        assert call("sweep", "--from", "a.json", "--charts", "p") == 0
    assert {path.name for path in (tmp_path / "p").iterdir()} == {
        "growth-peak-allocated.svg",
        "growth-time-per-step.svg",
    }


def test_charts_that_cannot_be_written_stop_a_run_before_it_begins(call, runner, tmp_path, capsys):
    assert call("ablate", "--to", "ultra", "--charts", "no/such") == 2
    said = capsys.readouterr()
    assert "no/such: cannot be written" in said.err
    assert not said.out


def test_accuracy_as_html(call, saved, tmp_path, capsys):
    text = (tmp_path / "peaks.json").read_text()
    (tmp_path / "measured.json").write_text(text.replace('"predicted"', '"measured"'))
    assert call("accuracy", "measured.json", "peaks.json", "-o", "a.html", "--charts", "p") == 0
    assert charts(tmp_path / "a.html") == 2
    assert {path.name for path in (tmp_path / "p").iterdir()} == {"predicted-measured.svg", "errors.svg"}
    assert call("accuracy", "measured.json", "peaks.json", "-o", "a.md") == 0
    (command,) = (line for line in (tmp_path / "a.md").read_text().splitlines() if line.startswith("    muse-bench"))
    assert command == "    muse-bench compare --models baseline,ultra -o peaks.json"
    assert call("accuracy", "measured.json", "peaks.json", "-o", "a.csv") == 2
    assert "use .md or .html" in " ".join(capsys.readouterr().err.split())


def test_the_whole_way_in_a_process_of_its_own(muse_bench, tmp_path):
    sizes = ("--vocab", "300", "--d-model", "64", "--layers", "2", "--heads", "2", "--seq", "64")
    done = muse_bench("compare", "--models", "baseline", *sizes, "--backend", "predict", "-o", "a.html")
    assert done.returncode == 0, done.stderr
    assert charts(tmp_path / "a.html") == 3


def test_a_snapshot_needs_a_gpu(call, runner, tmp_path, capsys):
    for options in (("--backend", "predict"), ("--gpu", "h200"), ()):
        assert call("measure", "ultra", "--snapshot", "a.pickle", *options) == 2
        assert "--snapshot records a run on a CUDA GPU" in " ".join(capsys.readouterr().err.split())
    runner.backend = "cuda"
    assert call("measure", "ultra", "--snapshot", "no/such/a.pickle") == 2
    assert "no/such/a.pickle: cannot be written" in " ".join(capsys.readouterr().err.split())
    assert not any(made.cases for made in runner.made)
    assert call("measure", "ultra", "--snapshot", "a.pickle") == 0
    assert str(runner.made[-1].options["snapshot"]) == "a.pickle"


@pytest.mark.parametrize(("command", "name"), [("kernels", "kernels"), ("quality", "quality-levels")])
def test_what_is_no_table_of_records_as_html_and_as_charts(call, tmp_path, command, name):
    """Two charts of one title or one file name, of which the second would take the place of the first."""
    saved = Path(__file__).parents[2] / "reports" / "h200" / f"{name}.json"
    assert call(command, "--from", str(saved), "-o", "a.html", "--charts", "p") == 0
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "NVIDIA H200" in text
    assert "<table>" in text
    assert charts(tmp_path / "a.html") == len(list((tmp_path / "p").iterdir())) > 1
    assert text.index("<h2") < text.index("<figure ") < text.index("<table>")


def test_a_frontier_as_html_has_the_frontier_and_not_its_cases(call, runner, tmp_path):
    runner.peaks = {"ultra": lambda case: case.batch << 10}
    assert call("frontier", "--models", "ultra", "--vary", "batch", "--budgets", "8GiB", "-o", "a.html") == 0
    assert "What fits" in (tmp_path / "a.html").read_text(encoding="utf-8")


def test_a_frontier_has_a_chart_for_each_size_that_grew(call, runner, tmp_path):
    """What fits nothing has no logarithm, and no line."""
    runner.peaks = {"ultra": lambda case: (case.batch << 10) + case.seq // 256, "tuned": lambda case: 1 << 20}
    arguments = ("--models", "ultra,tuned", "--vary", "batch,seq", "--budgets", "8GiB,12GiB")
    assert call("frontier", *arguments, "-o", "a.html", "-o", "a.md", "--charts", "p") == 0
    assert (tmp_path / "a.md").read_text().splitlines()[-1].startswith("    muse-bench frontier --models ultra,tuned")
    assert charts(tmp_path / "a.html") == 2
    assert {path.name for path in (tmp_path / "p").iterdir()} == {"largest-batch.svg", "largest-sequence.svg"}
    drawn = (tmp_path / "p" / "largest-batch.svg").read_text(encoding="utf-8")
    assert "ultra fp16" in drawn
    assert "tuned" not in drawn
    assert "NaN" not in drawn
