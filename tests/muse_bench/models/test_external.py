"""A user's own model: found, built, or refused in one line that names what is wrong."""

import dataclasses
import sys

import pytest
import torch
from torch import nn

from muse_bench.errors import ExitCode, UsageError
from muse_bench.models.external import build_external, load_factory

GOOD = """
import dataclasses
from torch import nn

@dataclasses.dataclass
class Sizes:
    width: "int" = 3

def factory():
    return nn.Linear(Sizes().width, 2)

class Model(nn.Module):
    pass

number = 7
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a file into an empty folder that is the current one; leaves no imported module behind."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = dict(sys.modules)

    def write(name, text):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        return tmp_path / name

    yield write
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)


def refusal(reference):
    with pytest.raises(UsageError) as caught:
        build_external(reference)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "\n" not in message
    assert len(message) < 500
    return message


@pytest.mark.parametrize("reference", ["mine.py:factory", "./mine.py:factory", "mine:factory", "package.inner:factory"])
def test_a_factory_is_found_in_a_file_and_in_a_package(write, reference):
    write("mine.py", GOOD)
    write("package/__init__.py", "")
    write("package/inner.py", GOOD)
    model = build_external(reference)
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.out_features) == (3, 2)


def test_a_path_of_any_kind_names_a_file(write, tmp_path):
    path = write("with space.py", GOOD)
    assert isinstance(build_external(f"{path}:factory"), nn.Linear)


def test_a_class_is_a_factory_too(write):
    write("mine.py", GOOD)
    assert type(build_external("mine.py:Model")).__name__ == "Model"


def test_each_call_builds_anew(write):
    """Two cases of one model must not share its parameters."""
    write("mine.py", GOOD)
    assert build_external("mine.py:factory") is not build_external("mine.py:factory")


def test_two_files_of_one_name_are_two_models(write):
    write("a/model.py", GOOD)
    write("b/model.py", GOOD.replace("width, 2", "width, 5"))
    assert build_external("a/model.py:factory").out_features == 2
    assert build_external("b/model.py:factory").out_features == 5


def test_a_file_may_have_the_name_of_a_module_that_is_in_use(write):
    """A model in dataclasses.py or torch.py must not take the place of the real one for the rest of the process."""
    write("dataclasses.py", "from torch import nn\ndef factory():\n    return nn.Identity()\n")
    assert isinstance(build_external("dataclasses.py:factory"), nn.Identity)
    assert sys.modules["dataclasses"] is dataclasses


@pytest.mark.parametrize("reference", ["mine.py", "mine.py:", ":factory", "mine.py:a-b", "mine.py:a b", ""])
def test_a_reference_has_a_place_and_a_name(reference):
    assert f"'{reference}' does not name a model: write package.module:factory" in refusal(reference)


def test_a_missing_file_is_named(write, tmp_path):
    assert refusal("absent.py:factory") == "there is no file 'absent.py'"
    (tmp_path / "folder.py").mkdir()
    assert refusal("folder.py:factory") == "there is no file 'folder.py'"


@pytest.mark.parametrize(
    ("reference", "missing"), [("absent:factory", "absent"), ("package.absent:factory", "package.absent")]
)
def test_a_missing_module_is_named(write, reference, missing):
    write("package/__init__.py", "")
    assert f"there is no module '{missing}'" in refusal(reference)


def test_a_module_that_the_module_needs_is_named(write):
    """The one that is missing is not the one that was asked for."""
    write("mine.py", "import absent_dependency")
    assert "there is no module 'absent_dependency' (from 'mine')" in refusal("mine:factory")
    assert "'absent_dependency'" in refusal("mine.py:factory")


@pytest.mark.parametrize("name", ["absent", "number"])
def test_a_missing_function_is_named(write, name):
    write("mine.py", GOOD)
    assert refusal(f"mine.py:{name}") == f"'mine.py' has no function '{name}'"


@pytest.mark.parametrize(
    ("text", "kind"),
    [("raise ValueError('two\\nlines')", "ValueError: two lines"), ("def (", "SyntaxError"), ("1 / 0", "ZeroDivision")],
)
@pytest.mark.parametrize("reference", ["mine.py:factory", "mine:factory"])
def test_an_import_that_raises_is_told_in_one_line(write, reference, text, kind):
    write("mine.py", text)
    message = refusal(reference)
    assert message.startswith(f"importing '{reference.partition(':')[0]}' raised {kind}")


def test_an_import_that_raises_leaves_no_half_module(write):
    """The next import of the name would be handed the half that ran."""
    write("mine.py", "half = 1\nraise ValueError")
    refusal("mine.py:factory")
    assert not any(getattr(module, "half", None) == 1 for module in list(sys.modules.values()))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def factory():\n    raise RuntimeError('no weights\\nhere')", "raised RuntimeError: no weights here"),
        ("def factory(size):\n    return size", "raised TypeError: factory() missing 1 required positional argument"),
        ("def factory():\n    return {}['x']", "raised KeyError: 'x'"),
        ("def factory():\n    raise ValueError('long ' * 1000)", "raised ValueError: long long"),
    ],
)
def test_a_factory_that_raises_is_told_in_one_line(write, body, message):
    write("mine.py", body)
    assert f"the factory 'mine.py:factory' {message}" in refusal("mine.py:factory")


def test_a_factory_that_runs_out_of_memory_is_a_case_that_does_not_fit(write):
    """It is no mistake of the user's: the case becomes a row, and the others run."""
    write("mine.py", "import torch\ndef factory():\n    raise torch.cuda.OutOfMemoryError('9 GiB')")
    with pytest.raises(torch.cuda.OutOfMemoryError):
        build_external("mine.py:factory")


@pytest.mark.parametrize(
    ("value", "kind"), [("None", "NoneType"), ("(1, 2)", "tuple"), ("__import__('torch').ones(2)", "Tensor")]
)
def test_a_factory_that_returns_no_model_is_refused(write, value, kind):
    write("mine.py", f"def factory():\n    return {value}")
    assert refusal("mine.py:factory") == f"the factory 'mine.py:factory' returned {kind}, not an nn.Module"


def test_loading_does_not_build(write):
    """The reference of every case can be checked before the first one runs."""
    write("mine.py", "def factory():\n    raise RuntimeError")
    assert callable(load_factory("mine.py:factory"))
