"""Weights in files: what is saved comes back, and a wrong file is refused before a byte of it is copied."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from muse_bench.config import Sizes
from muse_bench.errors import UsageError
from muse_bench.models.language_model import LanguageModel
from muse_bench.models.presets import PRESETS
from muse_bench.streaming import files
from muse_bench.streaming.files import load_weights, map_weights, save_weights
from muse_bench.streaming.header import DTYPES, LENGTH_BYTES, header_of, read_header
from muse_bench.streaming.page import Page

WANTED = {"a": (torch.float32, (3, 5)), "b": (torch.bfloat16, (256, 2)), "c": (torch.int64, ())}


def tensors(fill: int = 0) -> dict[str, Tensor]:
    return {name: torch.full(shape, fill, dtype=dtype) for name, (dtype, shape) in WANTED.items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    place = tmp_path / "weights.safetensors"
    save_weights(place, tensors(7))
    return place


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    raw = path.read_bytes()
    stop = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
    return json.loads(raw[LENGTH_BYTES:stop]), raw[stop:]


def write(path: Path, header: object, values: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + values)


def test_what_is_saved_comes_back_in_every_dtype(tmp_path: Path) -> None:
    saved = {name: torch.arange(12).reshape(3, 4).to(dtype) for name, dtype in DTYPES.items()}
    saved |= {"turned": torch.randn(4, 3).t(), "empty": torch.empty(0, 2), "one": torch.tensor(2.5)}
    save_weights(tmp_path / "w", saved)
    found = {name: torch.zeros_like(value) for name, value in saved.items()}
    load_weights(tmp_path / "w", found)
    torch.testing.assert_close(found, saved, rtol=0, atol=0)
    assert [place.name for place in tmp_path.iterdir()] == ["w"]


def test_a_place_that_is_not_contiguous_is_filled(path: Path) -> None:
    found = tensors()
    found["a"] = torch.zeros(5, 3).t()
    load_weights(path, found)
    assert found["a"].tolist() == [[7.0] * 5] * 3


def test_the_format_is_that_of_the_package(tmp_path: Path) -> None:
    theirs = pytest.importorskip("safetensors.torch")
    saved = {"x": torch.randn(3, 5, dtype=torch.bfloat16), "y": torch.randn(7), "z": torch.tensor([True, False])}
    save_weights(tmp_path / "ours", saved)
    torch.testing.assert_close(theirs.load_file(tmp_path / "ours"), saved, rtol=0, atol=0)
    theirs.save_file(saved, tmp_path / "theirs", metadata={"format": "pt"})
    found = {name: torch.zeros_like(value) for name, value in saved.items()}
    load_weights(tmp_path / "theirs", found)
    torch.testing.assert_close(found, saved, rtol=0, atol=0)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        header, values = parts(path)
        change(header)
        write(path, header, values)

    return edit


def cut(size: int) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def gap(path: Path) -> None:
    header, values = parts(path)
    for name in ("b", "c"):
        header[name]["data_offsets"] = [offset + 8 for offset in header[name]["data_offsets"]]
    write(path, header, values[:60] + bytes(8) + values[60:])


FAULTS = {
    "cut in a tensor": (cut(-1), "cut short"),
    "cut in the header": (cut(40), "cut short: its header ends at byte"),
    "cut in the length": (cut(3), "cut short"),
    "empty": (cut(0), "cut short"),
    "bytes behind": (lambda path: path.write_bytes(path.read_bytes() + b"12"), "2 bytes follow"),
    "another format": (lambda path: path.write_bytes(b"PK\3\4" * 64), "not a safetensors file"),
    "no JSON": (lambda path: path.write_bytes((4).to_bytes(8, "little") + b"{{{{"), "makes no sense"),
    "no object": (lambda path: write(path, [1], b""), "makes no sense"),
    "no offsets": (edited(lambda header: header["a"].pop("data_offsets")), "makes no sense"),
    "a size that is no number": (edited(lambda header: header["a"].update(shape=[3.0, 5])), "makes no sense"),
    "a negative size": (edited(lambda header: header["a"].update(shape=[-3, -5])), "makes no sense"),
    "a size that does not match": (edited(lambda header: header["a"].update(shape=[3, 6])), "'a' takes 72 bytes.* 60"),
    "a gap": (gap, "'b' begins at byte"),
    "a missing tensor": (edited(lambda header: header.update(d=header.pop("c"))), r"'c' is missing, where int64 \(\)"),
    "another shape": (
        edited(lambda header: header["a"].update(shape=[5, 3])),
        r"'a' is float32 \(5, 3\), where float32 \(3, 5\) is wanted",
    ),
    "another dtype": (edited(lambda header: header["b"].update(dtype="F16")), r"'b' is float16 .* bfloat16"),
    "an unknown dtype": (edited(lambda header: header["b"].update(dtype="F4")), "'b' is of dtype F4; known are BOOL"),
    "an extra tensor": (
        edited(lambda header: header.update(d={"dtype": "U8", "shape": [0], "data_offsets": [1092, 1092]})),
        r"'d' is uint8 \(0,\), where no such is wanted",
    ),
    "no file": (Path.unlink, "No such file"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("mapped", [False, True])
def test_a_wrong_file_is_refused_before_a_byte_is_copied(fault: str, mapped: bool, path: Path) -> None:
    spoil, message = FAULTS[fault]
    spoil(path)
    found = tensors()
    page = Page([found["b"]])
    wanted = {**found, "b": page.values()[0]}
    with pytest.raises(UsageError, match=message) as caught:
        map_weights(path, wanted, [(page, ["b"])]) if mapped else load_weights(path, wanted)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not any(value.any() for value in wanted.values())


def test_a_file_that_is_cut_short_while_it_is_read_is_told_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = read_header(path)
    monkeypatch.setattr(files, "read_header", lambda _: header)
    cut(-4)(path)
    with pytest.raises(UsageError, match="while it was read"):
        load_weights(path, tensors())


def test_a_file_that_cannot_be_written_leaves_the_old_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a file of weights is worse than none."""
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "_bytes", full)
    with pytest.raises(UsageError, match="No space left"):
        save_weights(path, tensors(9))
    assert path.read_bytes() == before
    assert [place.name for place in path.parent.iterdir()] == [path.name]
    with pytest.raises(UsageError, match="cannot hold"):
        header_of([("z", torch.zeros(1, dtype=torch.complex64))])


def named_pages() -> list[tuple[Page, list[str]]]:
    generator = torch.Generator().manual_seed(0)
    sizes = {"odd": [(3, 5)], "large": [(16, 16), (8, 64)], "next": [(32, 32)]}
    return [
        (
            Page([torch.randn(shape, generator=generator) for shape in shapes]),
            [f"{name}{n}" for n in range(len(shapes))],
        )
        for name, shapes in sizes.items()
    ]


def values(pages: list[tuple[Page, list[str]]]) -> dict[str, Tensor]:
    return {name: value for page, names in pages for name, value in zip(names, page.values(), strict=True)}


def test_pages_that_lie_in_the_file_as_in_memory_are_mapped(tmp_path: Path) -> None:
    """One whose tensors do not fill their places is copied: what is written to it would reach into the next."""
    place, saved = tmp_path / "w", named_pages()
    bias = torch.randn(3)
    save_weights(place, {"bias": bias, **values(saved)}, saved)
    before = place.read_bytes()
    pages = named_pages()
    for page, _ in pages:
        page.host.zero_()
    found = {"bias": torch.zeros(3), **values(pages)}
    hosts = [page.host for page, _ in pages]
    assert map_weights(place, found, pages) == sum(page.size_bytes for page, _ in pages[1:])
    assert [page.host is host for (page, _), host in zip(pages, hosts, strict=True)] == [True, False, False]
    torch.testing.assert_close(values(pages), values(saved), rtol=0, atol=0)
    torch.testing.assert_close(found["bias"], bias, rtol=0, atol=0)
    pages[1][0].host.fill_(1)
    torch.testing.assert_close(values(pages[2:]), values(saved[2:]), rtol=0, atol=0)
    assert place.read_bytes() == before


def test_a_page_in_another_order_than_the_file_is_copied(tmp_path: Path) -> None:
    saved = named_pages()
    everything = values(saved)
    save_weights(tmp_path / "w", dict(reversed(everything.items())))
    pages = named_pages()
    for page, _ in pages:
        page.host.zero_()
    map_weights(tmp_path / "w", values(pages), pages)
    torch.testing.assert_close(values(pages), everything, rtol=0, atol=0)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_model_with_weights_in_host_memory_takes_those_of_a_file(mapped: bool, tmp_path: Path) -> None:
    sizes = Sizes(vocab_size=256, d_model=64, n_layers=2, n_heads=2, seq_len=16)
    source, target = (LanguageModel(PRESETS["muse"].configure(sizes)).eval() for _ in range(2))
    save_weights(tmp_path / "w", source.state_dict(), source.named_pages())
    before = target.state_dict()["head.up.weight"].clone()
    if mapped:
        assert map_weights(tmp_path / "w", target.state_dict(), target.named_pages()) > 0
    else:
        load_weights(tmp_path / "w", target.state_dict())
    assert not torch.equal(before, target.state_dict()["head.up.weight"])
    ids = torch.randint(256, (2, 16))
    with torch.no_grad():
        torch.testing.assert_close(target(ids), source(ids), rtol=0, atol=0)
