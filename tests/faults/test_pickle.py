"""Pickles from outside.

To load one is to run it. The sources are read for whatever does, and a file that is one is given to every reader.
"""

import ast
import pickle
from pathlib import Path

import pytest
import torch

from muse_bench.quality.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*(ROOT / "muse_bench").rglob("*.py"), *(ROOT / "kernels").rglob("*.py")])
FORBIDDEN = {
    *("pickle.load", "pickle.loads", "pickle.Unpickler", "dill.load", "dill.loads", "joblib.load", "shelve.open"),
    *("marshal.load", "marshal.loads", "cPickle.load", "pd.read_pickle", "pandas.read_pickle", "torch.hub.load"),
    *("yaml.load", "yaml.unsafe_load", "eval", "exec", "os.system", "os.popen", "torch.package.PackageImporter"),
    *("jsonpickle.decode", "runpy.run_path", "torch.jit.load", "torch.export.load"),
}


def offences(source):
    """The calls of a source, and its imports, that load what may be a pickle."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{one.name}" for one in node.names if f"{node.module}.{one.name}" in FORBIDDEN)
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {one.arg: ast.unparse(one.value) for one in node.keywords}
        if name in FORBIDDEN or given.get("allow_pickle") == "True" or given.get("trust_remote_code") == "True":
            yield name
        if name in ("torch.load", "load_state_dict_from_url") and given.get("weights_only") != "True":
            yield name
        if given.get("shell") == "True":
            yield f"{name} with a shell"


@pytest.mark.fault(
    "code of the tool that would load a pickle, or run text that it was given", "there is none: the sources are read"
)
def test_no_source_loads_a_pickle(counted):
    """torch.load without weights_only=True, or any of the others that run what they load."""
    found = {path.name: list(offences(path.read_text(encoding="utf-8"))) for path in SOURCES}
    assert {name: calls for name, calls in found.items() if calls} == {}
    counted(calls=0)


def test_what_loads_a_pickle_is_found():
    """A reader of sources that finds nothing at all."""
    told = ["pickle.load(f)", "torch.load(f)", "torch.load(f, weights_only=False)", "np.load(f, allow_pickle=True)"]
    told += ["from pickle import loads", "f(x, trust_remote_code=True)", "eval(x)", "subprocess.run(x, shell=True)"]
    assert all(list(offences(source)) for source in told)
    assert list(offences("torch.load(f, weights_only=True); model.eval(); json.load(f)")) == []


class Evil:
    """Makes a file when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.mark.fault(
    "a pickle in the place of a record file, a baseline, a training's record or a checkpoint",
    "refused, or begun anew; what it would do is not done",
)
def test_a_pickle_is_not_run(muse_bench, folder, counted):
    """A checkpoint that anybody who may write to the folder could have put there."""
    mark = folder / "owned"
    (folder / "x.json").write_bytes(pickle.dumps(Evil(mark)))
    for command in (("report",), ("quality", "--from"), ("kernels", "--from"), ("check", "--against", "x.json")):
        assert "not a record file" in muse_bench(*command, "x.json").usage_error()
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    torch.save({"model": Evil(mark)}, folder / "x.pt")
    assert load_checkpoint(folder / "x.pt", model, optimizer) is None
    assert not mark.exists()
    pickle.loads((folder / "x.json").read_bytes())
    assert mark.exists()
    counted(readers=5, run=0)
