"""Bad input through the real process: one line that names the value and what would be right, exit 2, no file."""

import json

import pytest

RECORD = {
    "model": "ultra",
    "config": {},
    "mode": "train",
    "dtype": "fp16",
    "batch": 1,
    "seq": 8,
    "status": "ok",
    "provenance": "measured",
}


def _run_file(**changes: object) -> str:
    return json.dumps({"schema_version": 1, "environment": {}, "records": [RECORD], **changes})


def _assert_usage_error(process, *said: str) -> None:
    assert process.returncode == 2, process.stderr
    assert process.stdout == ""
    (line,) = process.stderr.splitlines()
    assert line.startswith("muse-bench: error: ")
    assert "Traceback" not in line
    for words in said:
        assert words in line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["compare", "--models", "baseline,ultr"], ["'ultr'", "ultra", "file.py:factory"]),
        (["compare", "--models", "a,,b"], ["'a,,b'", "empty"]),
        (["compare", "--heads", "7"], ["1024", "7", "--heads"]),
        (["compare", "--vocab", "-3"], ["-3", "whole number"]),
        (["compare", "--layers", "0"], ["0", "whole number"]),
        (["compare", "--vocab", "many"], ["--vocab", "'many'", "integer"]),
        (["compare", "--vocab", "9" * 5000], ["--vocab", "integer"]),
        (["compare", "--mode", "sleep"], ["--mode", "'sleep'", "inference"]),
        (["compare", "--baseline", "gpt"], ["'gpt'", "baseline"]),
        (["compare", "--models", "muse+weights=accelerate"], ["'accelerate'", "train", "inference or decode"]),
        (
            ["compare", "--models", "muse+weights=accelerate", "--mode", "inference", "--gpu", "rtx-3080"],
            ["'accelerate'", "measured only", "CUDA"],
        ),
        (["compare", "--params", "7x"], ["'7x'", "100M"]),
        (["compare", "--params", "1k"], ["--params 1,000", "--vocab"]),
        (["compare", "--params", "7b", "--d-model", "1024", "--heads", "8"], ["--params 7b", "--d-model and --heads"]),
        (["predict", "mine.py:build", "--params", "7b"], ["'mine.py:build'", "--params", "presets"]),
        (["compare", "--gpu", "rtx-9999"], ["rtx-9999", "rtx-"]),
        (["compare", "--gpu", "rtx-3080", "--backend", "cuda"], ["rtx-3080", "--backend cuda"]),
        (["compare", "--timeout", "-1"], ["--timeout -1", "more than 0"]),
        (["compare", "--timeout", "nan"], ["--timeout nan"]),
        (["compare", "--seed", "-1"], ["--seed -1", "0"]),
        (["compare", "--models", "muse+weight_format=int4"], ["int4", "not trained", "'train'", "--mode inference"]),
        (["quality", "--models", "muse+weight_format=int4"], ["int4", "not trained", "int8"]),
        (["verify-8gb", "--budget", "8 GB"], ["'8 GB'", "8GiB"]),
        (["verify-8gb", "--headroom", "100%"], ["'100%'", "10%"]),
        (["verify-8gb", "--prove", "--gpu", "rtx-3080"], ["--prove", "CUDA", "--gpu"]),
        (["frontier", "--vary", "batch,depth"], ["--vary 'depth'", "batch, seq, layers, width"]),
        (["frontier", "--budgets", "8GiB,12"], ["'12'", "12 bytes", "8GiB"]),
        (["frontier", "--budgets", "8GB"], ["'8GB'", "8GiB"]),
        (["frontier", "--budgets", "8GiB,"], ["''", "8GiB"]),
        (["frontier", "--headroom", "lots"], ["'lots'", "10%"]),
        (["frontier", "--models", "mine.py:build", "--vary", "layers"], ["'mine.py:build'", "--vary layers", "batch"]),
        (["frontier", "--models", "ultra", "--d-model", "1000", "--vary", "width"], ["--vary width", "1000", "16"]),
        (["frontier", "--gpu", "rtx-9999"], ["rtx-9999", "rtx-"]),
        (["frontier", "--check", "--gpu", "rtx-3080"], ["--check", "--gpu rtx-3080"]),
        (["frontier", "--check"], ["--check", "CUDA"]),
        (["measure", "mine.py:build", "--mode", "decode"], ["'mine.py:build'", "presets"]),
        (["measure"], ["MODEL", "--help"]),
        (["compare", "--modle", "ultra"], ["--modle", "--model"]),
        (["comparre"], ["comparre", "compare"]),
        (["report", "none.json"], ["none.json", "No such file"]),
        (["report", "none.json", "--format", "pdf"], ["'pdf'", "markdown"]),
    ],
)
def test_a_wrong_option(muse_bench, tmp_path, arguments, said):
    process = muse_bench(*arguments, *(["--output", "out.json"] if arguments[0] in ("compare", "frontier") else []))
    _assert_usage_error(process, *said)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("out.txt", ["out.txt", "'.txt'", ".csv, .html, .json, .md"]),
        ("missing/out.json", ["missing/out.json", "No such file"]),
        ("folder.json", ["folder.json", "folder"]),
        ("file/out.json", ["file/out.json", "Not a directory"]),
        ("/proc/out.json", ["/proc/out.json", "cannot be written"]),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_anything_runs(muse_bench, tmp_path, output, said):
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "file").touch()
    process = muse_bench("compare", "--output", "good.json", "--output", output)
    _assert_usage_error(process, *said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a record file"),
        ("not json", "not a record file"),
        (_run_file()[:-20], "not a record file"),
        ("[" * 100_000, "not a record file"),
        ("[]", "not a record file"),
        (_run_file(schema_version=99), "newer muse-bench"),
        (_run_file(records=[]), "no records"),
        (_run_file(records=[{**RECORD, "peak_allocated_bytes": 1.5}]), "peak_allocated_bytes"),
        (_run_file(records=[{**RECORD, "peak_allocated_bytes": 10**400}]), "peak_allocated_bytes"),
        (_run_file(records=[{**RECORD, "config": "none"}]), "config"),
        (_run_file(records=[{**RECORD, "verdict": "MAYBE"}]), "verdict"),
        (_run_file(records=[{**RECORD, "ledger": {"parameters": "x"}}]), "ledger"),
        (_run_file(records=[{**RECORD, "modules": 5}]), "not a record file"),
        (_run_file(command=5), "command"),
        (_run_file(environment={"gpu": [1]}), "gpu"),
        (_run_file().replace("8", "NaN"), "NaN"),
    ],
)
def test_a_record_file_that_is_none(muse_bench, tmp_path, text, said):
    (tmp_path / "records.json").write_text(text)
    process = muse_bench("report", "records.json", "--output", "out.md")
    _assert_usage_error(process, "records.json", said)
    assert [path.name for path in tmp_path.iterdir()] == ["records.json"]


def test_bytes_that_are_no_text(muse_bench, tmp_path):
    (tmp_path / "records.json").write_bytes(b"\xff\xfe\x00")
    _assert_usage_error(muse_bench("report", "records.json"), "records.json", "not a record file")


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("none.py:build", "none.py"),
        ("mine.py:none", "none"),
        ("mine.py:fails", "no luck"),
        ("mine.py:answer", "not an nn.Module"),
        ("broken.py:build", "broken.py"),
        ("no_such_package.models:build", "no_such_package"),
    ],
)
def test_a_factory_that_is_none_or_raises(muse_bench, tmp_path, model, said):
    (tmp_path / "mine.py").write_text(
        "def fails():\n    raise RuntimeError('no\\nluck')\ndef answer():\n    return 42\n"
    )
    (tmp_path / "broken.py").write_text("def build(:\n")
    process = muse_bench("predict", model, "--output", "out.json")
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.splitlines()
    assert said in line
    assert not (tmp_path / "out.json").exists()


def test_control_characters_of_a_name_do_not_reach_the_terminal(muse_bench):
    _assert_usage_error(muse_bench("compare", "--models", "a\x1b[31m\nb"), "a?[31m b")
