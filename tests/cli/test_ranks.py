"""The ranks' command line over invented memory: which models it runs, its table, names, saved runs and errors."""

import pytest


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")


@pytest.fixture
def by_ranks(runner):
    """1,000 MiB for the baseline, and for others what their three ranks are."""
    runner.peaks = {
        name: lambda case: case.config.embedding_rank + 10 * case.config.mixer_rank + 100 * case.config.ffn_rank
        for name in (
            "ultra",
            *(f"ultra+{part}_rank={rank}" for part in ("embedding", "mixer", "ffn") for rank in (2, 3)),
        )
    }
    runner.peaks |= {"baseline": 1_000, "ultra+embedding_rank=2+mixer_rank=2+ffn_rank=2": 222}
    return runner


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]


def test_each_part_alone_and_all_together(call, by_ranks, tmp_path):
    """The base has the ranks 4, 8 and, at a width of 512, 8."""
    assert call("ranks", "--values", "2", "--d-model", "512", "-o", "a.md", "-o", "a.json") == 0
    text = (tmp_path / "a.md").read_text()
    table = cells(text)
    assert table[0] == ["part", "rank", "peak", "reduction", "params"]
    assert [row[:4] for row in table[2:]] == [
        ["baseline", "", "1,000.0", "0.0 %"],
        ["ultra", "", "884.0", "11.6 %"],
        ["embedding", "2", "882.0", "11.8 %"],
        ["mixer", "2", "824.0", "17.6 %"],
        ["ffn", "2", "284.0", "71.6 %"],
        ["all", "2", "222.0", "77.8 %"],
    ]
    assert call("ranks", "--from", "a.json", "-o", "again.md") == 0
    assert (tmp_path / "again.md").read_text() == text


def test_names_are_what_runs(call, runner, capsys):
    assert call("ranks", "--part", "mixer,all", "--values", "2,3", "--names") == 0
    assert capsys.readouterr().out.strip().split(",") == [
        "baseline",
        "ultra",
        "ultra+mixer_rank=2",
        "ultra+mixer_rank=3",
        "ultra+embedding_rank=2+mixer_rank=2+ffn_rank=2",
        "ultra+embedding_rank=3+mixer_rank=3+ffn_rank=3",
    ]
    assert runner.made == []


def test_a_variant_is_a_base_too(call, runner, capsys):
    assert call("ranks", "--base", "ultra+mixer_rank=16+dtype=bf16", "--part", "mixer", "--values", "2") == 0
    cases = runner.made[0].cases
    assert [case.config.mixer_rank for case in cases[1:]] == [16, 2]
    assert "mixer" in capsys.readouterr().out


def test_a_rank_that_ran_out_of_memory_leaves_the_others(call, by_ranks, capsys):
    by_ranks.peaks["ultra+ffn_rank=3"] = "oom"
    assert call("ranks", "--part", "ffn", "--values", "2,3", "--d-model", "512") == 4
    shown = " ".join(capsys.readouterr().out.split())
    assert "ffn 2 284.0" in shown
    assert "ffn 3 oom - -" in shown


@pytest.mark.parametrize("other", ["tuned", "muse+mixer_rank=8", "ultra+dtype=bf16", "ultra+mixer_rank=d/4"])
def test_records_of_another_command_are_no_ranks(call, runner, capsys, other):
    assert call("compare", "--models", f"baseline,ultra,{other}", "-o", "a.json") == 0
    assert call("ranks", "--from", "a.json") == 2
    assert f"'{other}' is not 'ultra' with another rank" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--part", "heads"], "--part 'heads'"),
        (["--values", "8..4"], "--values '8..4'"),
        (["--base", "tuned"], "the embedding of 'tuned' is 'dense'"),
        (["--base", "tuned", "--part", "mixer"], "the mixer of 'tuned' is 'attention'"),
        (["--base", "mine.py:build"], "'mine.py:build'"),
        (["--base", "muse", "--part", "mixer", "--values", "3"], "mixer_rank 3"),
        (["--quality", "none.json"], "none.json"),
    ],
)
def test_what_has_no_ranks(call, capsys, arguments, said):
    assert call("ranks", *arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
