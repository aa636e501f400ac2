"""Random model configurations and command lines, the same at every run.

Configurations are predicted by a real worker process; command lines run in this one, up to a stand-in for workers.
"""

import contextlib
import dataclasses
import io
import sys
import typing
from collections import Counter

import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from muse_bench import cli
from muse_bench.choices import choices, literal_words
from muse_bench.config import Case, Mode, ModelConfig, Optimizer, Sizes
from muse_bench.errors import UsageError
from muse_bench.execution.process import WorkerDied, WorkerProcess
from muse_bench.models.presets import PRESETS

CONFIGURATIONS, COMMAND_LINES = 300, 200
MIB = 1 << 20
THE_SAME = {
    "derandomize": True,
    "deadline": None,
    "database": None,
    "phases": (Phase.explicit, Phase.generate),
    "suppress_health_check": list(HealthCheck),
}


def values_of(hint):
    """Values that a field of a configuration may have, and a few that it may not."""
    if words := literal_words(hint):
        return st.sampled_from([*words, None] if type(None) in typing.get_args(hint) else words)
    if hint is bool:
        return st.booleans()
    numbers = st.sampled_from([0.0, 0.1, 0.5]) if hint is float else st.sampled_from([1, 2, 3, 4, 8, 16, 33, 0, -1])
    return st.one_of(st.none(), numbers) if type(None) in typing.get_args(hint) else numbers


HINTS = {name: hint for name, hint in typing.get_type_hints(ModelConfig).items() if name not in ("d_model", "n_heads")}
PARTS = {name: values_of(hint) for name, hint in HINTS.items() if name not in ("vocab_size", "n_layers", "max_seq_len")}
SIZES = {"vocab_size": (1, 200), "d_model": (1, 96), "n_layers": (1, 3), "n_heads": (1, 8), "seq_len": (4, 40)}


@st.composite
def cases(draw):
    """A preset at small sizes with up to four parts changed, under some protocol; None for one that is refused."""
    preset = PRESETS[draw(st.sampled_from(list(PRESETS)))]
    sizes = {name: draw(st.integers(*ends)) for name, ends in SIZES.items()}
    if draw(st.booleans()):
        sizes["d_model"] = 16 * draw(st.integers(1, 8))
        sizes["n_heads"] = draw(st.sampled_from([1, 2, 4]))
    changed = {name: draw(PARTS[name]) for name in draw(st.lists(st.sampled_from(list(PARTS)), max_size=4))}
    try:
        config = dataclasses.replace(preset.configure(Sizes(**sizes)), **changed)
        return Case(
            model="random",
            config=config,
            mode=draw(st.sampled_from(choices(Mode))),
            dtype=draw(st.sampled_from(["fp32", "fp16", "bf16"])),
            autocast=draw(st.sampled_from([None, None, None, "bf16"])),
            optimizer=draw(st.one_of(st.just(preset.optimizer), st.sampled_from(choices(Optimizer)))),
            update=preset.update,
            batch=draw(st.integers(1, 4)),
            micro_batch=draw(st.one_of(st.none(), st.integers(1, 4))),
            seq=max(sizes["seq_len"] - 3, 1),
            vocab_size=sizes["vocab_size"],
            new_tokens=draw(st.integers(1, 3)),  # behind the prompt, within the sequence
            warmup_steps=draw(st.integers(0, 2)),
            workspace=draw(st.sampled_from(["default", "off"])),
            gpu="rtx-3080",
        )
    except UsageError:
        return None


@pytest.fixture(scope="module")
def worker():
    process = WorkerProcess({"CUDA_VISIBLE_DEVICES": ""})
    yield process
    process.close()


@pytest.mark.fault(
    f"{CONFIGURATIONS} random model configurations, from one part changed to nonsense",
    "each is predicted, or refused in one line; none crashes the worker",
)
def test_no_configuration_crashes(worker, counted):
    """Two parts that a configuration admits together and the model does not."""
    ends = Counter()

    @settings(**THE_SAME, max_examples=CONFIGURATIONS)
    @given(cases())
    def check(case):
        if case is None:
            ends["refused"] += 1
            return
        result = worker.ask({"task": "predict", "case": case.to_json()}, 60, lambda _: None)
        foreseen = result["status"] in ("ok", "oom", "usage") or "takes no --autocast" in result["reason"]
        assert foreseen, (result["reason"], case)
        assert "\n" not in (result["reason"] or "")
        ends[result["status"]] += 1

    check()
    assert ends["ok"] > CONFIGURATIONS // 4
    counted(configurations=ends.total(), crashed=0)


PREDICTED = {
    "ledger": {"parameters": 60 * MIB, "activations_saved": 31 * MIB},
    "modules": [{"module": "head", "ledger": {"parameters": 60 * MIB}}],
    "timeline": [{"phase": "backward", "ledger": {"parameters": 60 * MIB}}],
    "parameters": 7,
    "steady_peak_allocated_bytes": 91 * MIB,
    "cold_peak_allocated_bytes": 95 * MIB,
    "peak_reserved_bytes": 120 * MIB,
    "context_bytes": 300 * MIB,
    "host_bytes": None,
    "smallest_budget_bytes": 400 * MIB,
}


class Answering:
    """Stands in for the worker of predictions."""

    pid = 1

    def __init__(self, *_):
        pass

    def hello(self):
        return {"kind": "hello", "environment": {"muse_bench": "0.1.0", "torch": "2.13.0"}, "cuda_unavailable": "none"}

    def ask(self, request, timeout_seconds, on_phase):
        on_phase("building")
        values = {"parameters": 5, "weights": {}} if request["task"] != "predict" else PREDICTED
        return {"kind": "result", "status": "ok", "reason": None, "values": dict(values)}

    def close(self):
        pass


class Dead(Answering):
    """Stands in for workers that train, check or time: there is none."""

    def hello(self):
        raise WorkerDied("there is no worker here")

    def ask(self, *_):
        raise WorkerDied("there is no worker here")


TEXTS = ("", " ", "1", "0", "-1", "2.5", "nan", "1e400", "9" * 30, "8GiB", "10%", "101%", "ultra", "muse,ultra", "a,,b")
TEXTS += ("ultra+mixer_rank=4", "ultra+x=1", "x.py:f", "hf:x", "setup:x.py:f", "-", "--", "seq", "batch,seq", "1..64")
TEXTS += ("a.json", "none.json", "x.json", "x.md", "x.csv", "x.html", "x.xml", "x", "folder", "/proc/x.md", "é\u202e")
TEXTS += (
    "\udcff",
    "a\x1b[31m",
    "a\nb",
    "rtx-3080",
    "h200",
    "train",
    "decode",
    "peak:2%",
    "peak",
    "[red]",
    "{0}",
    "~",
    ".",
)


@st.composite
def command_lines(draw):
    """A command, or something like one, with options of its own and others, each with a value or without."""
    group = typer.main.get_command(cli.app)
    name = draw(st.sampled_from([*group.commands, "", "comparre", "--version"]))
    words = [name]
    known = [
        option for one in getattr(group.commands.get(name), "params", ()) for option in one.opts if option[0] == "-"
    ]
    text = st.sampled_from(TEXTS)
    for _ in range(draw(st.integers(0, 4))):
        if draw(st.booleans()) and known:
            words.append(draw(st.sampled_from(known)))
        words.append(draw(text))
    return [word for word in words if word not in ("--install-completion", "--show-completion")]


@pytest.mark.fault(
    f"{COMMAND_LINES} random command lines: options of every command with values of every other",
    "each runs, or is refused in one line with exit code 2; never a traceback",
)
def test_no_command_line_ends_in_a_traceback(tmp_path, monkeypatch, counted):
    """An option whose value is looked at only after the work has begun, or by a library that raises its own error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for name, module in list(sys.modules.items()):
        if name.startswith("muse_bench.") and hasattr(module, "WorkerProcess"):
            stand_in = Answering if name == "muse_bench.execution.runner" else Dead
            monkeypatch.setattr(module, "WorkerProcess", stand_in)
    codes = Counter()

    @settings(**THE_SAME, max_examples=COMMAND_LINES)
    @given(command_lines())
    def check(words):
        monkeypatch.setattr(sys, "argv", ["muse-bench", *words])
        err, out = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
            code = int(cli.main())
        assert code in range(5), words
        if code == 2 and words != [""]:
            assert len(err.getvalue().splitlines()) == 1, (words, err.getvalue())
        assert "Traceback" not in err.getvalue()
        codes[code] += 1

    check()
    assert codes[2] < COMMAND_LINES
    counted(command_lines=codes.total(), tracebacks=0)
