"""Text from the installed Python, from files and from the hub."""

import sys
import types

import pytest

from muse_bench.errors import UsageError
from muse_bench.quality import sources
from muse_bench.quality.sources import hub_dataset, installed_python, text_files


def test_the_installed_python_has_its_library_and_packages_each_once():
    found = {document.name: document for document in installed_python()}
    assert b"JSONDecoder" in found["json/decoder.py"].read()
    assert "typer/main.py" in found
    assert not any(name.startswith("site-packages/") or "__pycache__" in name for name in found)


def test_a_source_that_cannot_be_read_is_no_document(tmp_path):
    (tmp_path / "a.py").symlink_to(tmp_path / "gone.py")
    (path,) = sources._sources(tmp_path)
    assert sources._content(path) is None


def test_a_file_is_cut_at_line_ends(tmp_path):
    lines = [f"line {index} of a book\n" for index in range(2_000)]
    path = tmp_path / "book.txt"
    path.write_text("".join(lines))
    pieces = [document.read() for document in text_files([path])]
    assert b"".join(pieces) == path.read_bytes()
    assert all(piece.endswith(b"\n") for piece in pieces)
    assert len(pieces) > 30


@pytest.mark.parametrize(
    ("content", "said"), [(b" \n", "is empty"), (b"\xff\xfe", "is not UTF-8 text"), (None, "cannot be read")]
)
def test_a_file_that_is_no_text_is_named(tmp_path, content, said):
    path = tmp_path / "book.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"book\.txt: {said}"):
        text_files([path])


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for `datasets` with one data set."""
    rows = [{"id": index, "content": f"text {index}"} for index in range(10)]

    def load_dataset(path, configuration, *, split, streaming):
        if path != "small":
            raise FileNotFoundError(f"no data set\n{path}")
        return rows if configuration is None else [{"id": 1}]

    module = types.ModuleType("datasets")
    module.load_dataset = load_dataset
    module.__spec__ = types.SimpleNamespace(name="datasets")
    monkeypatch.setitem(sys.modules, "datasets", module)


def test_a_data_set_is_read_as_far_as_allowed(hub):
    assert [document.read() for document in hub_dataset("small", 20)] == [b"text 0", b"text 1", b"text 2"]


@pytest.mark.parametrize(
    ("name", "said"), [("small:ids", "has no column of text, content"), ("none", "no data set none")]
)
def test_a_data_set_that_does_not_serve_is_one_line(hub, name, said):
    with pytest.raises(UsageError, match=said) as caught:
        hub_dataset(name, 100)
    assert "\n" not in str(caught.value)


def test_without_the_package_the_hub_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pip install 'muse-bench\[datasets\]'"):
        hub_dataset("small", 100)
