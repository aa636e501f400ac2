"""What commands run, show, write and exit with, over invented records."""

import importlib
import json
import sys

import pytest

from muse_bench.errors import UsageError
from muse_bench.record import read_run_file


def test_compare_needs_no_option_and_compares_the_seven(call, runner, capsys):
    assert call("compare") == 0
    (made,) = runner.made
    assert [case.model for case in made.cases] == [
        "baseline",
        "tuned",
        "standard",
        "ultra",
        "extreme",
        "ultimate",
        "muse",
    ]
    assert made.asked == "auto"
    shown = capsys.readouterr().out
    assert "reduction against baseline" in shown
    assert "predicted for NVIDIA GeForce RTX 4060 (no GPU on this machine)" in shown


def test_every_common_option_reaches_the_case(call, runner):
    sizes = "--vocab 1000 --d-model 64 --layers 3 --heads 4 --seq 16 --batch 5"
    protocol = "--mode inference --dtype bf16 --optimizer sgd --logits last --new-tokens 7 --micro-batch 2"
    steps = "--warmup 1 --steps 4 --workspace off --seed 9 --budget 4GiB --headroom 25% --timeout 60 --gpu rtx-3080"
    assert call(*f"compare --models ultra {sizes} {protocol} {steps}".split()) == 0
    (made,) = runner.made
    (case,) = made.cases
    assert (case.config.vocab_size, case.config.d_model, case.config.n_layers, case.config.n_heads) == (1000, 64, 3, 4)
    assert (case.vocab_size, case.seq, case.config.max_seq_len, case.batch) == (1000, 16, 16, 5)
    assert (case.mode, case.dtype, case.optimizer, case.logits) == ("inference", "bf16", "sgd", "last")
    assert (case.new_tokens, case.micro_batch, case.warmup_steps, case.measured_steps) == (7, 2, 1, 4)
    assert (case.workspace, case.seed, case.limit_bytes) == ("off", 9, 3 << 30)
    assert made.options["workspace"] == "off"
    assert (made.options["timeout_seconds"], made.options["gpu"]) == (60, "rtx-3080")


def test_parameters_choose_the_sizes_of_each_model(call, runner):
    assert call("compare", "--models", "baseline,muse", "--params", "7b", "--seq", "512") == 0
    baseline, muse = runner.made[0].cases
    assert (baseline.config.d_model, baseline.config.n_layers, baseline.config.n_heads) == (4096, 32, 32)
    assert muse.config.d_model > baseline.config.d_model
    assert muse.config.n_heads == muse.config.d_model // 128
    assert [case.parameters_asked for case in (baseline, muse)] == [7 * 10**9] * 2


def test_sizes_that_are_not_given_are_those_of_every_command(call, runner):
    assert call("compare", "--models", "baseline", "--layers", "3") == 0
    case = runner.made[0].cases[0]
    assert (case.config.d_model, case.config.n_layers, case.config.n_heads) == (1024, 3, 16)
    assert case.parameters_asked is None


def test_presets_keep_their_own_dtype_optimizer_and_micro_batch(call, runner):
    assert call("compare", "--models", "baseline,tuned,ultimate") == 0
    cases = runner.made[0].cases
    assert [case.dtype for case in cases] == ["fp32", "bf16", "fp16"]
    assert [case.optimizer for case in cases] == ["adamw", "adamw-fused", "adamw"]
    assert [case.micro_batch for case in cases] == [None, None, 1]


def test_a_variant_is_a_model_and_an_option_wins_over_it(call, runner):
    variant = "ultra+embedding_rank=8+dtype=bf16+optimizer=sgd+micro_batch=2"
    assert call("compare", "--models", f"ultra,{variant}", "--optimizer", "adamw-fused", "--batch", "4") == 0
    plain, case = runner.made[0].cases
    assert case.model == variant
    assert (plain.config.embedding_rank, case.config.embedding_rank) == (4, 8)
    assert (case.dtype, case.optimizer, case.micro_batch) == ("bf16", "adamw-fused", 2)


def test_decoding_reaches_behind_the_prompt(call, runner):
    assert call("predict", "ultra", "--mode", "decode", "--seq", "100", "--new-tokens", "28") == 0
    assert runner.made[0].cases[0].config.max_seq_len == 128


def test_a_users_model_has_no_config(call, runner):
    assert call("measure", "mine.py:build", "--vocab", "77") == 0
    case = runner.made[0].cases[0]
    assert (case.model, case.config, case.vocab_size, case.dtype) == ("mine.py:build", None, 77, "fp32")


def test_predict_asks_for_a_prediction(call, runner, capsys):
    assert call("predict", "ultra") == 0
    assert runner.made[0].asked == "predict"
    assert "no GPU on this machine" not in capsys.readouterr().out


def test_a_named_gpu_is_not_for_want_of_one(call, capsys):
    assert call("compare", "--models", "ultra", "--gpu", "rtx-4060") == 0
    assert "no GPU on this machine" not in capsys.readouterr().out


@pytest.mark.parametrize("status", ["oom", "crashed"])
def test_a_case_that_failed_is_a_row_and_exit_code_4(call, runner, capsys, status):
    runner.peaks = {"ultra": status}
    assert call("compare", "--models", "baseline,ultra,tuned") == 4
    shown = capsys.readouterr().out
    assert "it was too much" in shown
    assert "tuned" in shown


@pytest.mark.parametrize(
    ("peaks", "code"),
    [
        ({}, 0),
        ({"ultra": 9_000}, 1),
        ({"ultra": 7_300}, 3),
        ({"ultra": "oom"}, 1),
        ({"ultra": "crashed"}, 4),
        ({"ultra": "crashed", "tuned": 9_000}, 1),
        ({"ultra": 7_300, "tuned": 9_000}, 1),
    ],
)
def test_verify_exits_with_the_worst_verdict(call, runner, capsys, peaks, code):
    runner.peaks = peaks
    assert call("verify-8gb") == code
    shown = capsys.readouterr().out
    assert "8 GiB less 10 %" in shown
    assert "What takes the most" in shown


def test_proofs_are_asked_of_the_runner(call, runner):
    runner.backend = "cuda"
    assert call("verify-8gb", "--prove", "--bisect") == 0
    assert (runner.made[0].options["proves"], runner.made[0].options["bisects"]) == (True, True)
    assert call("verify-8gb") == 0
    assert (runner.made[1].options["proves"], runner.made[1].options["bisects"]) == (False, False)


@pytest.mark.parametrize("arguments", [[], ["--backend", "predict"], ["--gpu", "rtx-3080"]])
def test_a_proof_needs_a_gpu(call, capsys, tmp_path, arguments):
    """A prediction must not pass for the proof that was asked for."""
    assert call("verify-8gb", "--prove", *arguments, "--output", "a.json") == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("muse-bench: error: --prove runs the case on a CUDA GPU")
    assert not (tmp_path / "a.json").exists()


def test_a_prediction_shows_its_bounds_and_where_they_come_from(call, runner, capsys):
    runner.peaks = {"ultra": 7_200}
    assert call("verify-8gb", "--models", "ultra,tuned") == 3
    shown = " ".join(capsys.readouterr().out.split())
    assert "at least at most" in shown
    assert "At least, at most: reserved -8 % to +8 %, as calibrated; context -128 to +256 MiB, estimated" in shown
    assert "ultra: verdict: INCONCLUSIVE: 6,624.0 MiB to 8,032.0 MiB" in shown


def test_outputs_hold_the_run_in_every_format(call, runner, tmp_path):
    runner.peaks = {"ultra": 25}
    files = ["--output", "a.json", "-o", "a.csv", "-o", "a.md"]
    assert call("compare", "--models", "baseline,ultra", *files) == 0
    run = read_run_file(tmp_path / "a.json")
    assert [record.reduction for record in run.records] == [0.0, 0.75]
    assert [record.verdict for record in run.records] == ["PASS", "PASS"]
    assert run.command == "muse-bench compare --models baseline,ultra --output a.json -o a.csv -o a.md"
    assert (tmp_path / "a.csv").read_text().count("\n") == 3
    assert "75.0 %" in (tmp_path / "a.md").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.json", "a.md"]


def test_an_earlier_output_is_overwritten(call, tmp_path):
    (tmp_path / "a.json").write_text("old")
    assert call("compare", "--models", "ultra", "--output", "a.json") == 0
    assert len(json.loads((tmp_path / "a.json").read_text())["records"]) == 1


def test_ctrl_c_keeps_what_has_finished(call, runner, capsys, tmp_path):
    runner.peaks = {"ultra": KeyboardInterrupt()}
    assert call("compare", "--models", "baseline,tuned,ultra,extreme", "-o", "a.json", "-o", "a.md") == 130
    shown = capsys.readouterr()
    go_on = "muse-bench compare --models baseline,tuned,ultra,extreme -o a.json -o a.md --resume"
    assert shown.err == f"muse-bench: interrupted: 2 of 4 cases finished; go on with: {go_on}\n"
    assert "tuned" in shown.out
    assert [record.model for record in read_run_file(tmp_path / "a.json").records] == ["baseline", "tuned"]
    assert "tuned" in (tmp_path / "a.md").read_text()


def test_ctrl_c_before_anything_has_finished_leaves_nothing(call, runner, capsys, tmp_path):
    runner.peaks = {"baseline": KeyboardInterrupt()}
    assert call("compare", "-o", "a.json") == 130
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_late_mistake_of_the_user_keeps_what_has_finished(call, runner, capsys, tmp_path):
    runner.peaks = {"mine.py:build": UsageError("the factory 'mine.py:build' raised RuntimeError")}
    assert call("compare", "--models", "baseline,mine.py:build", "-o", "a.json") == 2
    shown = capsys.readouterr()
    assert shown.err == "muse-bench: error: the factory 'mine.py:build' raised RuntimeError\n"
    assert len(read_run_file(tmp_path / "a.json").records) == 1


def test_records_are_on_disk_after_every_case(call, runner, monkeypatch, tmp_path):
    seen = []
    plain = runner.run

    def run(self, cases):
        for record in plain(self, cases):
            yield record
            seen.append([json.loads(line).get("model") for line in (tmp_path / "a.jsonl").read_text().splitlines()])

    monkeypatch.setattr(runner, "run", run)
    assert call("compare", "--models", "baseline,tuned,ultra", "-o", "a.json") == 0
    names = [None, "baseline", "tuned", "ultra"]  # the first line is about the run
    assert seen == [names[:2], names[:3], names]


def test_nothing_but_results_is_printed_off_a_terminal(call, capsys):
    assert call("compare", "--models", "ultra") == 0
    assert capsys.readouterr().err == ""


def test_what_accelerate_copies_is_run_on_a_gpu_and_not_captured(call, runner, monkeypatch):
    """A copy that is waited for ends a capture, and with it the case."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(runner, "backend", "cuda")
    assert call("compare", "--mode", "inference", "--models", "muse,muse+weights=accelerate") == 0
    assert [case.execution for case in runner.made[0].cases] == ["graph", "eager"]


def test_without_accelerate_nothing_runs_for_it(call, runner, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr(runner, "backend", "cuda")
    assert call("compare", "--mode", "inference", "--models", "muse,muse+weights=accelerate") == 2
    assert runner.made[0].cases == []
    assert "pip install 'muse-bench[peers]'" in capsys.readouterr().err


def test_a_number_of_parameters_runs_the_modes_that_the_model_can_do(call, runner):
    """Four bits are not trained; a mode that is asked for is the only one; without --params nothing changes."""
    models = "streamed,streamed+weight_format=int4"
    assert call("verify-8gb", "--params", "300m", "--models", models) == 0
    found = [(case.model, case.mode) for case in runner.made[0].cases]
    assert found == [
        *(("streamed", mode) for mode in ("inference", "decode", "train")),
        *(("streamed+weight_format=int4", mode) for mode in ("inference", "decode")),
    ]
    assert runner.made[0].options["caps"]
    assert call("verify-8gb", "--params", "300m") == 0
    assert {case.model for case in runner.made[1].cases} == {"streamed"}
    assert call("verify-8gb", "--params", "300m", "--mode", "decode") == 0
    assert [case.mode for case in runner.made[2].cases] == ["decode"]
    assert call("verify-8gb", "--models", "muse") == 0
    assert [case.mode for case in runner.made[3].cases] == ["train"]
    assert not runner.made[3].options["caps"]


def test_an_optimizer_that_counts_on_the_host_is_not_captured(call, runner):
    """A replayed graph would go on with the first step's count."""
    assert call("compare", "--models", "muse,muse+optimizer=adamw-8bit,muse+optimizer=adamw") == 0
    assert [case.execution for case in runner.made[0].cases] == ["graph", "eager", "eager"]


def test_a_folder_in_the_place_of_host_memory(call, runner, tmp_path, capsys):
    assert call("verify-8gb", "--models", "muse", "--host-folder", str(tmp_path)) == 0
    (case,) = runner.made[0].cases
    assert (case.host_folder, case.execution) == (str(tmp_path), "eager")
    assert call("verify-8gb", "--models", "muse", "--host-folder", str(tmp_path / "none")) == 2
    assert "is no folder" in capsys.readouterr().err


def test_host_memory_that_must_do_fails_what_needs_more(call, runner, capsys):
    runner.fields = lambda case: {"host_bytes": {"weights": 40 << 30}, "parameters": 20 * 10**9}
    assert call("verify-8gb", "--models", "muse", "--host-memory", "40GiB") == 0
    assert "host memory is short" not in capsys.readouterr().out
    assert call("verify-8gb", "--models", "muse", "--host-memory", "32GiB") == 1
    shown = " ".join(capsys.readouterr().out.split())
    assert "host memory is short: 40.00 GiB needed, 32.00 GiB given; about --params 16b would fit" in shown
    assert call("verify-8gb", "--models", "muse", "--host-memory", "32 GB") == 2


def test_this_machines_host_memory_is_noted_and_fails_nothing(call, runner, capsys, monkeypatch):
    runner.fields = lambda case: {"host_bytes": {"weights": 40 << 30}}
    command = importlib.import_module("muse_bench.cli.verify_8gb")
    monkeypatch.setattr(command, "available_bytes", lambda: 32 << 30)
    assert call("verify-8gb", "--models", "muse") == 0
    assert "32.00 GiB available in this machine" in " ".join(capsys.readouterr().out.split())


def test_host_memory_reaches_every_case_and_verdict(call, runner, capsys):
    runner.fields = lambda case: {"host_bytes": {"weights": 40 << 30}, "parameters": 20 * 10**9}
    assert call("compare", "--models", "baseline,muse", "--host-memory", "32GiB") == 0
    assert [case.host_memory_bytes for case in runner.made[0].cases] == [32 << 30] * 2
    assert "FAIL" in capsys.readouterr().out
