"""The ablation's command line over invented memory: its models, table, names, losses and saved runs."""

from types import MappingProxyType

import pytest

from muse_bench.models.ablation import route
from muse_bench.quality.record import CorpusFacts, QualityRow, QualityRun, TokenizerFacts
from muse_bench.record import Environment, read_run_file


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def peaks(runner):
    """Each technique takes 100 MiB off."""
    names = route("baseline", "tuned")
    runner.peaks = {name: 1_000 - 100 * index for index, name in enumerate(names)}
    return names


def quality_file(path, losses, rates=MappingProxyType({}), **changes):
    """A file of quality runs with a loss for each model and dtype, trained at 1e-3 unless `rates` says otherwise."""
    rows = tuple(
        QualityRow(
            model=model,
            config={"vocab_size": 10_000, "d_model": 512, "n_layers": 6},
            stage="final",
            seed=0,
            lr=rates.get(model, 1e-3),
            pool_tokens=60_000_000,
            batch=16,
            seq=512,
            dtype=dtype,
            optimizer="adamw",
            validation_loss=loss,
            **{"tokens": 100_000_000, **changes},
        )
        for (model, dtype), loss in losses.items()
    )
    corpus = CorpusFacts(source="text", sha256="0", files=1, train_files=1, train_bytes=1, validation_bytes=1)
    run = QualityRun(
        environment=Environment(muse_bench="0.1.0"),
        corpus=corpus,
        tokenizer=TokenizerFacts(vocab=10_000, words=10_000, sha256="0"),
        rows=rows,
    )
    path.write_text(run.to_json())


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_a_row_for_each_technique_and_their_sum(call, peaks, tmp_path):
    assert call("ablate", "--to", "tuned", "-o", "a.md", "-o", "a.json", "-o", "a.csv") == 0
    table = cells((tmp_path / "a.md").read_text())
    assert table[0] == ["technique", "peak", "saves", "share", "reduction", "params"]
    assert table[2:4] == [
        ["baseline", "1,000.0", "", "", "0.0 %", "1.0 K"],
        ["dtype", "900.0", "100.0", "10.0 %", "10.0 %", "900"],
    ]
    assert table[-2:] == [
        ["optimizer", "500.0", "100.0", "10.0 %", "50.0 %", "500"],
        ["together", "", "500.0", "50.0 %", "", ""],
    ]
    records = read_run_file(tmp_path / "a.json").records
    assert [record.model for record in records] == peaks
    assert records[-1].reduction == pytest.approx(0.5)
    assert records[-1].reduction_against == "baseline"


def test_names_are_what_has_to_be_trained(call, peaks, runner, capsys):
    """Of models that learn the same, such as with the loss fused or without, one; the target by its own name."""
    assert call("ablate", "--to", "tuned", "--names") == 0
    assert capsys.readouterr().out == ",".join((*peaks[:3], "tuned")) + "\n"
    assert runner.made == []


def test_a_loss_stands_beside_every_model_that_learns_the_same(call, peaks, tmp_path):
    quality_file(tmp_path / "q.json", {(peaks[2], "bf16"): 2.25, ("tuned", "bf16"): 2.0})
    assert call("ablate", "--to", "tuned", "--quality", "q.json", "-o", "a.md") == 0
    table = cells((tmp_path / "a.md").read_text())
    assert [row[-1] for row in table[2:]] == ["-", "-", "2.2500", "2.2500", "2.2500", "2.0000", ""]


def test_losses_stand_beside_their_models_and_dtypes(call, peaks, tmp_path):
    losses = {("baseline", "fp32"): 2.5, (peaks[1], "bf16"): 2.625, ("tuned", "fp32"): 9.0}
    quality_file(tmp_path / "q.json", losses)
    quality_file(tmp_path / "short.json", {("baseline", "fp32"): 7.0}, tokens=1_000_000)
    files = ("--quality", "short.json", "--quality", "q.json")
    assert call("ablate", "--to", "tuned", *files, "-o", "a.json", "-o", "a.md") == 0
    text = (tmp_path / "a.md").read_text()
    assert [row[-1] for row in cells(text)[2:]] == ["2.5000", "2.6250", "-", "-", "-", "-", ""]
    assert "Quality after 100.0 M tokens" in text
    assert "not trained to the end there: embedding and head, fused loss, checkpointing, optimizer." in text
    assert call("ablate", "--records", "a.json", *files, "-o", "again.md") == 0
    assert (tmp_path / "again.md").read_text() == text


def test_quality_of_other_models_leaves_a_column_of_dashes(call, peaks, tmp_path):
    quality_file(tmp_path / "q.json", {("ultra", "fp16"): 2.5})
    assert call("ablate", "--to", "tuned", "--quality", "q.json", "-o", "a.md") == 0
    text = (tmp_path / "a.md").read_text()
    assert {row[-1] for row in cells(text)[2:-1]} == {"-"}
    assert "hold none of these models" in text


def test_a_step_that_ran_out_of_memory_leaves_the_others(call, peaks, runner, capsys):
    runner.peaks = {**runner.peaks, peaks[1]: "oom"}
    assert call("ablate", "--to", "tuned") == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "dtype oom - -" in shown
    assert "embedding and head 800.0 200.0 20.0 %" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "ultr"], "'ultr'"),
        (["--to", "baseline"], "nothing changes"),
        (["--from", "encoder"], "no step changes block, dropout"),
        (["--quality", "none.json"], "none.json"),
        (["--records", "none.json"], "none.json"),
        (["--to", "mine.py:build"], "'mine.py:build'"),
    ],
)
def test_what_cannot_be_ablated(call, capsys, arguments, said):
    assert call("ablate", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_losses_of_unequal_effort_are_called_so(call, peaks, tmp_path):
    """Files that are shown together may have tried other rates."""
    losses = {("baseline", "fp32"): 3.0, ("tuned", "bf16"): 2.5}
    quality_file(tmp_path / "same.json", losses)
    quality_file(tmp_path / "other.json", losses, rates={"tuned": 4e-3})
    for name in ("same", "other"):
        assert call("ablate", "--to", "tuned", "--quality", f"{name}.json", "-o", f"{name}.md") == 0
    same, other = ((tmp_path / f"{name}.md").read_text() for name in ("same", "other"))
    assert "learning rates that were tried of each: 0.001." in same
    assert "not of equal effort" not in same
    assert "not of equal effort, for the learning rates that were tried differ: 0.001: baseline; 0.004: " in other
