"""Where text comes from: the installed Python, files, or a data set of the Hugging Face hub. No torch."""

import functools
import importlib
import importlib.util
import itertools
import os
import site
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from muse_bench.errors import UsageError
from muse_bench.quality.corpus import Document

PYTHON = "the installed Python"
PACKAGE_FOLDERS = ("site-packages", "dist-packages")
PIECES = 64  # a file is cut into about as many, so that both sides of the split get some
PIECE_BYTES = (1 << 10, 64 << 10)
TEXT_COLUMNS = ("text", "content", "document")


def installed_python() -> list[Document]:
    """Every .py file of the standard library and of the installed packages, named by its path below either."""
    documents: dict[str, Document] = {}
    for root in _roots():
        for path in _sources(root):
            name = path.relative_to(root).as_posix()
            documents.setdefault(name, Document(name, functools.partial(_content, path)))
    return list(documents.values())


def text_files(paths: Sequence[Path]) -> list[Document]:
    """The files cut into pieces at line ends.

    Raises: UsageError that names the file when it cannot be read, is empty or is not UTF-8.
    """
    documents = []
    for place, path in enumerate(paths):
        try:
            content = path.read_bytes()
            content.decode("utf-8")
        except OSError as error:
            raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}") from error
        if not content.strip():
            raise UsageError(f"{path}: is empty: give a file of text")
        documents += [
            Document(f"{place}/{path.name}#{index}", functools.partial(bytes, piece))
            for index, piece in enumerate(_pieces(content))
        ]
    return documents


def hub_dataset(name: str, max_bytes: int) -> list[Document]:
    """The texts of a data set's training split, NAME or NAME:CONFIGURATION, up to `max_bytes`.

    Raises: UsageError when `datasets` is not installed, the data set cannot be loaded, or it has no column of text.
    """
    if importlib.util.find_spec("datasets") is None:
        raise UsageError("--hf-dataset needs the package datasets: pip install 'muse-bench[datasets]'")
    path, _, configuration = name.partition(":")
    documents, total = [], 0
    try:
        datasets = importlib.import_module("datasets")
        rows: Iterator[dict[str, Any]] = iter(
            datasets.load_dataset(path, configuration or None, split="train", streaming=True)
        )
        first = next(rows, {})
        column = next((known for known in TEXT_COLUMNS if isinstance(first.get(known), str)), None)
        if column is None:
            raise UsageError(f"--hf-dataset {name}: has no column of {', '.join(TEXT_COLUMNS)}: {', '.join(first)}")
        for index, row in enumerate(itertools.chain([first], rows)):
            content = str(row[column]).encode("utf-8", "replace")
            if (total := total + len(content)) > max_bytes:
                break
            documents.append(Document(f"{name}#{index}", functools.partial(bytes, content)))
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"--hf-dataset {name}: {' '.join(str(error).split())[:200]}") from error
    return documents


def _roots() -> list[Path]:
    """The standard library and the folders of packages, each once."""
    known = sysconfig.get_paths()
    places = [known[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")] + site.getsitepackages()
    if site.ENABLE_USER_SITE:
        places.append(site.getusersitepackages())
    resolved = dict.fromkeys(Path(place).resolve() for place in places)
    libraries = {Path(known["stdlib"]).resolve()}
    return [root for root in resolved if root.is_dir() and (root in libraries or root.name in PACKAGE_FOLDERS)]


def _sources(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in (*PACKAGE_FOLDERS, "__pycache__")]
        yield from (Path(folder, name) for name in names if name.endswith(".py"))


def _content(path: Path) -> bytes | None:
    """None for a link to nothing and for what may not be read: an installation has both."""
    try:
        return path.read_bytes()
    except OSError:
        return None


def _pieces(content: bytes) -> Iterator[bytes]:
    least, most = PIECE_BYTES
    size = max(least, min(most, len(content) // PIECES))
    begin = 0
    while begin < len(content):
        end = content.find(b"\n", begin + size) + 1 or len(content)
        yield content[begin:end]
        begin = end
