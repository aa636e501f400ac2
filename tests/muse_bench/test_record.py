"""A run's file comes back as it was written, and is written whole or not at all; any other file is refused."""

import dataclasses
import json
import os

import pytest

from muse_bench.errors import ExitCode, UsageError
from muse_bench.ledger import LATER_PARTS, LEDGER_FIELDS, Ledger, ModuleRow, Repeat, TimelinePoint
from muse_bench.record import SCHEMA_VERSION, Environment, Proof, Record, RunFile, read_run_file, write_whole

POWERS = Ledger(**{name: 1 << place for place, name in enumerate(LEDGER_FIELDS)})


@pytest.fixture
def run(make_record):
    """A run whose records have something in every field that a record can have."""
    full = make_record(
        "ultra",
        reason="a reason",
        micro_batch=1,
        seed=3,
        ledger=dataclasses.replace(POWERS, unattributed=-5),
        step_time_seconds=0.125,
        tokens_per_second=1e-3,
        reduction=-0.5,
        reduction_against="baseline",
        verdict="PASS",
        device_lower_bytes=1,
        device_upper_bytes=2,
        context_source="measured: by hand",
        proof=Proof(cap_bytes=5, ran=True, steps=3, context_bytes=None, alloc_retries=0),
        smallest_budget_bytes=9,
        autocast="bf16",
        update="in-backward",
        execution="graph",
        host_bytes={"checkpoints": 7, "optimizer state": 0},
        peers={"mem-tracker": 7, "accelerate": None},
        modules=(ModuleRow(module="blocks.0.ffn", ledger=POWERS),),
        timeline=(TimelinePoint(phase="backward", ledger=POWERS),),
        repeats=(
            Repeat(status="ok", peak_allocated_bytes=5, step_time_seconds=0.5, ledger=POWERS),
            Repeat(status="oom", reason="it was too much"),
        ),
        notes=("a note", "bytes that were no text: \udcff"),
        duration_seconds=2,
    )
    blank = Record(
        model="file.py:factory",
        config={},
        mode="decode",
        dtype="fp16",
        batch=1,
        seq=1,
        status="crashed",
        provenance="measured",
    )
    environment = Environment(muse_bench="0.1.0", torch="2.13.0", gpu="NVIDIA H200", gpu_total_bytes=1 << 37)
    return RunFile(environment=environment, records=(full, blank), command="muse-bench compare")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "records.json"


@pytest.fixture
def changed(run, path):
    """Writes the run with one change made to its parsed JSON, and returns the path."""

    def write(change):
        values = json.loads(run.to_json())
        change(values, values["records"][0])
        path.write_text(json.dumps(values), encoding="utf-8")
        return path

    return write


def refusal(path):
    """The message with which the file is refused: one short line that begins with its name."""
    with pytest.raises(UsageError) as caught:
        read_run_file(path)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert message.startswith(f"{path}: ")
    assert message.count(str(path)) == 1
    assert "\n" not in message
    assert len(message) < len(str(path)) + 200
    return message


def test_a_run_comes_back_as_it_was_written(run, path):
    write_whole(path, run.to_json())
    assert read_run_file(path) == run


def test_unknown_fields_of_a_newer_minor_version_are_ignored(run, changed):
    def change(values, record):
        record["colour"] = values["colour"] = values["environment"]["colour"] = {"deep": [1]}

    assert read_run_file(changed(change)) == run


def test_an_older_record_does_not_say_how_it_ran_or_what_the_host_held(run, changed):
    def change(_, record):
        for name in ("update", "execution", "host_bytes"):
            del record[name]

    read = read_run_file(changed(change)).records[0]
    assert (read.update, read.execution, read.host_bytes, read.host_total_bytes) == (None, None, None, None)
    assert run.records[0].host_total_bytes == 7


def test_an_older_record_does_not_say_that_it_ran_several_times(run, changed):
    assert read_run_file(changed(lambda _, record: record.pop("repeats"))).records[0].repeats == ()
    assert run.records[0].repeats


@pytest.mark.parametrize(
    "repeat",
    [7, [], {}, {"status": "fine"}, {"status": "ok", "peak_allocated_bytes": -1}, {"status": "ok", "ledger": {"a": 1}}],
)
def test_a_repeat_is_held_against_its_fields(changed, repeat):
    refusal(changed(lambda _, record: record.update(repeats=[repeat])))


def test_the_parts_of_the_ledger_add_up():
    """Each part is a power of two, so that one left out or counted twice shows."""
    assert POWERS.total == (1 << len(LEDGER_FIELDS)) - 1
    assert POWERS.activations == POWERS.activations_saved + POWERS.activations_temporary
    assert Ledger().total == 0


def test_the_schema_keeps_the_names_that_were_promised(run):
    values = json.loads(run.to_json())
    assert list(values) == ["schema_version", "command", "environment", "records"]
    assert {"muse_bench", "torch", "triton", "cuda", "driver", "gpu", "gpu_total_bytes", "compute_capability"} | {
        "allocator_config",
        "cublas_workspace_config",
        "commit",
    } <= values["environment"].keys()
    assert {"model", "config", "mode", "dtype", "batch", "seq", "status", "reason", "provenance", "parameters"} | {
        *("peak_allocated_bytes", "cold_peak_allocated_bytes", "peak_reserved_bytes", "device_peak_bytes", "ledger"),
        *("context_bytes", "step_time_seconds", "tokens_per_second", "reduction", "reduction_against", "verdict"),
    } <= values["records"][0].keys()
    assert list(values["records"][0]["ledger"]) == [
        *("parameters", "buffers", "gradients", "optimizer_state", "activations_saved", "activations_temporary"),
        *("inputs", "workspace", "communication", "unattributed"),
    ]


TEXTS = {
    "empty": "",
    "no JSON": "model,mode\nultra,train\n",
    "a list": "[]",
    "a bare number": "7",
    "no records": '{"schema_version": 1}',
    "no schema": '{"records": []}',
    "nested deeply": "[" * 100_000,
    "records nested deeply": '{"schema_version": 1, "records": ' + "[" * 100_000,
    "a number of 5,000 digits": '{"schema_version": 1, "records": [' + "9" * 5_000 + "]}",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_another_file_is_refused(path, text):
    path.write_text(text)
    refusal(path)


@pytest.mark.parametrize("content", [b"\x80\x81\x82", b"\xff\xfe{\x00}\x00", b"\x1f\x8b\x08\x00", b"\x00" * 64])
def test_bytes_that_are_no_text_are_refused(path, content):
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.999])
def test_a_truncated_file_is_refused(run, path, kept):
    text = run.to_json()
    path.write_text(text[: int(len(text) * kept)])
    assert "not a record file" in refusal(path)


def test_a_file_of_a_newer_schema_asks_for_an_upgrade(changed):
    message = refusal(changed(lambda values, record: values.update(schema_version=SCHEMA_VERSION + 1)))
    assert f"newer muse-bench (schema {SCHEMA_VERSION + 1}, this one reads {SCHEMA_VERSION}): upgrade" in message


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, None, True, [1]])
def test_a_schema_version_is_a_whole_number_from_1(changed, version):
    assert "schema_version" in refusal(changed(lambda values, record: values.update(schema_version=version)))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
@pytest.mark.parametrize("name", ["reduction", "step_time_seconds"])
def test_what_is_no_number_is_refused(run, path, name, number):
    """It would be read, and then could not be written again; 1e999 parses as infinity."""
    values = json.loads(run.to_json())
    values["records"][0][name] = "@"
    path.write_text(json.dumps(values).replace('"@"', number))
    assert number in refusal(path)


@pytest.mark.parametrize("name", ["model", "config", "mode", "dtype", "batch", "seq", "status", "provenance"])
def test_a_missing_field_is_named(changed, name):
    assert f"lacks the field '{name}'" in refusal(changed(lambda values, record: record.pop(name)))


@pytest.mark.parametrize("name", sorted(set(LEDGER_FIELDS) - set(LATER_PARTS)))
def test_a_ledger_that_lacks_a_part_is_refused(changed, name):
    """The part would count as zero, and the ledger no longer add up to the peak."""
    assert name in refusal(changed(lambda values, record: record["ledger"].pop(name)))


@pytest.mark.parametrize("answer", [-1, 1.5, True, "7", [7]])
def test_an_answer_of_another_predictor_is_bytes_or_nothing(changed, answer):
    assert "'peers'" in refusal(changed(lambda values, record: record["peers"].update(accelerate=answer)))


def test_where_a_module_stands_is_kept_and_left_out_where_it_is_not_known(run, path):
    rows = (ModuleRow(module="head", ledger=POWERS, source="m.py:3"), ModuleRow(module="other", ledger=POWERS))
    placed = dataclasses.replace(run.records[0], modules=rows)
    write_whole(path, dataclasses.replace(run, records=(placed,)).to_json())
    assert ["source" in row for row in json.loads(path.read_text())["records"][0]["modules"]] == [True, False]
    assert read_run_file(path).records == (placed,)


def test_an_unknown_part_of_a_ledger_is_refused(changed):
    """Its bytes would be left out of the sum."""
    assert "'colour'" in refusal(changed(lambda values, record: record["ledger"].update(colour=7)))


def test_the_ledgers_of_modules_and_moments_may_leave_out_what_is_zero(run, path):
    """They are many, and mostly zeros; each reads back whole."""
    few = ModuleRow(module="head", ledger=Ledger(gradients=5))
    small = dataclasses.replace(run.records[0], modules=(few,))
    write_whole(path, dataclasses.replace(run, records=(small,)).to_json())
    assert json.loads(path.read_text())["records"][0]["modules"][0]["ledger"] == {"gradients": 5}
    assert read_run_file(path).records == (small,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", 7),
        ("model", None),
        ("config", None),
        ("config", []),
        ("config", {"mixer_rank": [4]}),
        ("batch", "1"),
        ("batch", 1.5),
        ("batch", -1),
        ("batch", None),
        ("seq", True),
        ("seq", 1 << 63),
        ("parameters", -1),
        ("status", "fine"),
        ("status", ["ok"]),
        ("provenance", "guessed"),
        ("verdict", "MAYBE"),
        ("reduction", "84%"),
        ("peak_allocated_bytes", -1),
        ("peak_reserved_bytes", 1.0),
        ("device_peak_bytes", "1 MiB" * 1_000),
        ("context_bytes", True),
        ("context_bytes", {"checkpoints": 1}),
        ("host_bytes", 7),
        ("host_bytes", []),
        ("host_bytes", {"checkpoints": -1}),
        ("host_bytes", {"checkpoints": {}}),
        ("host_bytes", {"checkpoints": 1 << 62, "weights": 1 << 62}),
        ("update", 1),
        ("execution", ["graph"]),
        ("step_time_seconds", -0.5),
        ("tokens_per_second", "fast"),
        ("ledger", "none"),
        ("ledger", []),
        ("ledger", 7),
        ("modules", None),
        ("modules", {}),
        ("modules", ["blocks.0"]),
        ("modules", [{"module": "blocks.0"}]),
        ("timeline", 3),
        ("timeline", [{"phase": "forward", "ledger": None}]),
        ("notes", "one note, not a list of them"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused(changed, name, value):
    refusal(changed(lambda values, record: record.update({name: value})))


@pytest.mark.parametrize("value", [-1, 1.5, "1", None, True, 1 << 63])
def test_a_ledger_holds_whole_bytes(changed, value):
    path = changed(lambda values, record: record["ledger"].update(gradients=value))
    assert "'gradients' of a ledger" in refusal(path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("records", {}),
        ("records", None),
        ("records", ["ultra"]),
        ("command", 7),
        ("environment", None),
        ("environment", {"gpu_total_bytes": -1}),
        ("environment", {"torch": 2.13}),
        ("environment", {"muse_bench": None}),
    ],
)
def test_the_rest_of_the_file_is_checked_too(changed, name, value):
    refusal(changed(lambda values, record: values.update({name: value})))


def test_a_huge_file_is_refused_unread(run, path, monkeypatch):
    write_whole(path, run.to_json())
    monkeypatch.setattr("muse_bench.schema.LARGEST_FILE_BYTES", path.stat().st_size)
    assert read_run_file(path) == run
    monkeypatch.setattr("muse_bench.schema.LARGEST_FILE_BYTES", path.stat().st_size - 1)
    monkeypatch.setattr(type(path), "read_text", lambda *_, **__: pytest.fail("the file was read"))
    assert "larger than" in refusal(path)


def test_a_folder_is_refused(tmp_path):
    assert "cannot be read: Is a directory" in refusal(tmp_path)


def test_a_missing_file_is_refused(tmp_path):
    assert "cannot be read: No such file or directory" in refusal(tmp_path / "nothing.json")
    assert "cannot be read" in refusal(tmp_path / "nothing" / "records.json")


def test_a_file_without_permission_is_refused(run, path, monkeypatch):
    write_whole(path, run.to_json())

    def deny(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", deny)  # a mode of 0 does not stop root
    assert "cannot be read: Permission denied" in refusal(path)


def test_a_file_is_written_byte_for_byte(path):
    """In text mode line ends could be translated."""
    write_whole(path, "line\n\r\nµ\n")
    assert path.read_bytes() == "line\n\r\nµ\n".encode()
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077, 0o000])
def test_permissions_follow_the_umask(path, mask):
    """A temporary file is readable by its owner alone; what it becomes is an ordinary file."""
    before = os.umask(mask)
    try:
        write_whole(path, "text")
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("call", ["fsync", "replace", "chmod"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(path, monkeypatch, call):
    """A full disk is often noticed only by fsync."""
    path.write_text("old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(UsageError, match="cannot be written: No space left on device") as caught:
        write_whole(path, "new")
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(path, monkeypatch):
    path.write_text("old")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_text_that_has_no_bytes_is_refused(path):
    """A file name whose bytes are not UTF-8 comes from the command line with surrogates in it."""
    path.write_text("old")
    with pytest.raises(UsageError, match="cannot be written") as caught:
        write_whole(path, "model \udcff")
    assert str(caught.value).isascii()
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing" / "records.json"):
        with pytest.raises(UsageError) as caught:
            write_whole(path, "text")
        assert str(caught.value).startswith(f"{path}: cannot be written: ")
    assert list(tmp_path.iterdir()) == []
