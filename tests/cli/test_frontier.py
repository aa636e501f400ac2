"""The frontier's command line over invented memory: what is searched, shown, written, and the exit code."""

import json

import pytest

from muse_bench.record import read_run_file


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


def line(base, slope, size="batch"):
    """Memory in MiB that grows with one size of the case."""
    return lambda case: base + int(slope * (getattr(case, size) if hasattr(case, size) else getattr(case.config, size)))


def rows(text):
    """The cells of each row of Markdown, by the first cell, of the first table."""
    table = text.split("\n\n")[1].splitlines()[2:]
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in row.strip("|").split("|")] for row in table)}


def test_the_largest_batch_for_each_budget(call, runner, tmp_path):
    """The limit of 8 GiB is 7,372.8 MiB; 256 of them may go to the context: (7,116.8 / 1.08 - 500) / 100 is 60.9."""
    runner.peaks = {"ultra": line(500, 100), "tuned": line(9_000, 1)}
    assert call("frontier", "--models", "ultra,tuned", "-o", "a.md") == 0
    found = rows((tmp_path / "a.md").read_text())
    assert found["ultra"] == ["fp16", "60", "95", "129", "197"]
    assert found["tuned"] == ["bf16", "none", "1,002", "4,416", "11,242"]
    assert {made.asked for made in runner.made} == {"predict"}


def test_the_terminal_shows_the_edges_and_the_assumption(call, runner, capsys):
    runner.peaks = {"ultra": line(500, 100)}
    assert call("frontier", "--models", "ultra", "--budgets", "8GiB") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "Largest batch that fits, predicted for NVIDIA GeForce RTX 4060" in shown
    assert "whatever is larger than what does not fit does not fit either" in shown
    assert "ultra 8 GiB 60 122,880" in shown  # tokens


@pytest.mark.parametrize(
    ("vary", "memory", "value"),
    [
        ("seq", line(500, 0.1, "seq"), "60,800"),
        ("layers", line(500, 100, "n_layers"), "60"),
        ("width", line(500, 1, "d_model"), "6,080"),
    ],
)
def test_other_sizes_grow_in_their_own_steps(call, runner, tmp_path, vary, memory, value):
    runner.peaks = {"ultra": memory}
    assert call("frontier", "--models", "ultra", "--vary", vary, "--budgets", "8GiB", "-o", "a.md") == 0
    assert rows((tmp_path / "a.md").read_text())["ultra"] == ["fp16", value]


def test_a_width_keeps_the_aspect(call, runner, tmp_path):
    """Heads of 64 and 12 layers for 1,024: 6,080 are 95 heads and 71 layers."""
    runner.peaks = {"tuned": line(500, 1, "d_model")}
    assert call("frontier", "--models", "tuned", "--vary", "width", "--budgets", "8GiB", "-o", "a.json") == 0
    (record,) = read_run_file(tmp_path / "a.json").records
    assert [record.config[name] for name in ("d_model", "n_heads", "n_layers")] == [6_080, 95, 71]


def test_records_of_the_edges_are_written_with_their_budget(call, runner, tmp_path):
    runner.peaks = {"ultra": line(500, 100), "tuned": line(9_000, 1)}
    assert call("frontier", "--models", "ultra,tuned", "--budgets", "12GiB, 8GiB,8GiB", "-o", "a.json") == 0
    run = read_run_file(tmp_path / "a.json")
    assert [(record.model, record.batch, record.budget_bytes >> 30) for record in run.records] == [
        ("ultra", 60, 8),
        ("ultra", 95, 12),
        ("tuned", 1, 8),
        ("tuned", 1_002, 12),
    ]
    assert [record.verdict for record in run.records] == ["PASS", "PASS", "FAIL", "PASS"]
    assert run.records[0].notes[-1].startswith("frontier: batch 60 fits")
    assert run.records[2].notes[-1].startswith("frontier: no batch that was tried fits")
    assert run.command.startswith("muse-bench frontier")


def test_several_sizes_have_a_table_each(call, runner, tmp_path):
    runner.peaks = {"ultra": line(500, 100)}
    assert call("frontier", "--models", "ultra", "--vary", "batch,seq", "--budgets", "8GiB", "-o", "a.md") == 0
    text = (tmp_path / "a.md").read_text()
    assert [row for row in text.splitlines() if row.startswith("## ")] == [
        "## Largest batch that fits, predicted for NVIDIA GeForce RTX 4060",
        "## At the largest batch, in MiB",
        "## Largest sequence that fits, predicted for NVIDIA GeForce RTX 4060",
        "## At the largest sequence, in MiB",
    ]
    assert ">= 1,048,576" in text  # which takes no more, here


def test_micro_batches_are_counted_no_further_than_they_are_worth(call, runner, capsys):
    """Each is traced anew: 65,536 of them would take days."""
    assert call("frontier", "--models", "ultimate", "--budgets", "8GiB") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ">= 8" in shown
    assert "searched up to batch 8, since every micro-batch of 1 is traced anew" in shown


def test_a_prediction_that_fails_is_told_and_the_other_models_go_on(call, runner, capsys):
    runner.peaks = {"mine.py:build": "crashed", "ultra": line(500, 100)}
    assert call("frontier", "--models", "mine.py:build,ultra", "--budgets", "8GiB") == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "mine.py:build: the search ended where a prediction failed: it was too much" in shown
    assert "ultra fp16 60" in shown


def test_ctrl_c_keeps_the_edges_that_were_found(call, runner, capsys, tmp_path):
    runner.peaks = {"ultra": line(500, 100), "tuned": KeyboardInterrupt()}
    assert call("frontier", "--models", "ultra,tuned", "--budgets", "8GiB", "-o", "a.json", "-o", "a.md") == 130
    shown = capsys.readouterr()
    assert "interrupted: 1 of 2" in shown.err
    assert "60" in shown.out
    assert len(read_run_file(tmp_path / "a.json").records) == 1
    assert rows((tmp_path / "a.md").read_text()).keys() == {"ultra"}
    runner.peaks = {"ultra": 1, "tuned": line(500, 200)}  # what ran again would show it
    assert call("frontier", "--models", "ultra,tuned", "--budgets", "8GiB", "-o", "a.json", "--resume") == 0
    assert [record.batch for record in read_run_file(tmp_path / "a.json").records] == [60, 30]
    assert not (tmp_path / "a.jsonl").exists()


@pytest.mark.parametrize(
    ("measured", "code", "outcome"),
    [
        (line(500, 114), 0, "held"),
        (line(500, 100), 0, "held; next fits"),
        (line(500, 120), 1, "did not hold"),
        (lambda case: "oom" if case.batch > 60 else 7_000, 0, "held"),
        (lambda case: "oom", 1, "did not hold"),
        (lambda case: "crashed", 4, "undecided"),
    ],
)
def test_a_check_measures_at_the_edge_and_one_step_beyond(call, runner, capsys, tmp_path, measured, code, outcome):
    runner.backend, runner.peaks, runner.measured = "cuda", {"ultra": line(500, 100)}, {"ultra": measured}
    assert call("frontier", "--models", "ultra", "--budgets", "8GiB", "--check", "-o", "a.json") == code
    shown = capsys.readouterr().out
    assert "Measured at the largest batch" in shown
    row = next(row for row in shown.splitlines() if row.rstrip().endswith(outcome))
    assert row.split()[:4] == ["ultra", "8", "GiB", "60"]
    records = json.loads((tmp_path / "a.json").read_text())["records"]
    assert [(record["provenance"], record["batch"]) for record in records] == [
        ("predicted", 60),
        ("measured", 60),
        ("measured", 61),
    ]


def test_a_check_predicts_for_the_gpu_that_it_measures_on(call, runner):
    runner.backend = "cuda"
    assert call("frontier", "--models", "ultra", "--budgets", "8GiB", "--check") == 0
    measuring, predicting = runner.made
    assert (predicting.asked, predicting.options["gpu"]) == ("predict", "auto")
    assert (measuring.asked, measuring.options.get("gpu")) == ("auto", None)


def test_an_edge_at_the_end_of_the_search_has_nothing_beyond(call, runner, tmp_path):
    runner.backend = "cuda"
    assert call("frontier", "--models", "ultra", "--budgets", "8GiB", "--check", "-o", "a.json") == 0
    assert [record.batch for record in read_run_file(tmp_path / "a.json").records] == [65_536, 65_536]


def asked(case):
    return case.parameters_asked // 10**6


def test_parameters_grow_by_two_digits_and_choose_the_shape(call, runner, tmp_path):
    """The limit of 8 GiB is 7,372.8 MiB; 256 of them may go to the context: (7,116.8 / 1.08 - 500) / 2 is 3,045."""
    runner.peaks = {"tuned": lambda case: 500 + 2 * asked(case)}
    assert (
        call("frontier", "--models", "tuned", "--vary", "params", "--budgets", "8GiB", "-o", "a.md", "-o", "a.json")
        == 0
    )
    assert rows((tmp_path / "a.md").read_text())["tuned"] == ["bf16", "3.0 B"]
    (record,) = read_run_file(tmp_path / "a.json").records
    assert record.config["d_model"] // record.config["n_heads"] == 128
    assert "frontier: parameters 3,000,000,000 fits" in record.notes[-1]


def test_parameters_that_host_memory_holds(call, runner, tmp_path):
    """2 bytes a parameter in 64 GiB: 34.3 billion, where the device would take any."""
    runner.peaks = {"muse": 1_000}
    runner.fields = lambda case: {"host_bytes": {"weights": 2 * case.parameters_asked}}
    options = ("frontier", "--models", "muse", "--vary", "params", "--budgets", "8GiB", "-o", "a.md")
    assert call(*options, "--host-memory", "64GiB") == 0
    text = (tmp_path / "a.md").read_text()
    assert rows(text)["muse"] == ["bf16", "34.0 B"]
    assert "What a model keeps in host memory has to fit 64.00 GiB too." in text


def test_host_memory_that_is_not_given_limits_nothing_and_that_is_said(call, runner, tmp_path):
    runner.peaks = {"muse": 1_000}
    runner.fields = lambda case: {"host_bytes": {"weights": 2 * case.parameters_asked}}
    assert call("frontier", "--models", "muse", "--vary", "params", "--budgets", "8GiB", "-o", "a.md") == 0
    text = (tmp_path / "a.md").read_text()
    assert rows(text)["muse"] == ["bf16", r"\>= 1,000.0 B"]
    assert "in host memory is not limited here: --host-memory says how much there is" in text


def test_parameters_of_a_model_of_the_users_own_are_its_own(call, capsys):
    assert call("frontier", "--models", "mine.py:build", "--vary", "params") == 2
    assert "--vary params is for presets" in capsys.readouterr().err
