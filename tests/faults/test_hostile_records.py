"""Record files that are corrupt, truncated, huge or hostile.

Most files are read by the command line in this process, the worst by one of its own.
"""

import copy
import html.parser
import importlib
import itertools
import json
import os
import random
import re
import sys
import threading
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from muse_bench import cli
from muse_bench.record import read_run_file
from muse_bench.schema import LARGEST_FILE_BYTES, LARGEST_NUMBER

RECORDS = Path(__file__).parent / "old_records" / "host-weights.json"
HOSTILE = {
    "script": "</script><script>alert(1)</script><img src=x onerror=alert(1)>",
    "escape codes": "a\x1b[31m\x1b]0;owned\x07\x1b[2J\r\x9b31m",
    "a table's end": "a|b\n\n| --- |\n# c `d` [e](javascript:alert(1)) <b>",
    "a path": "../../../../tmp/owned/../x",
    "an absolute path": "/etc/passwd\x00.svg",
    "turned letters": "a\u202ebc\u2066\u200b\ufeff",
    "half a letter": "a\ud800b",
    "markup": "[bold red]a[/] :warning: {0} %s {x}",
    "a formula": '=HYPERLINK("http://x","y")',
    "a long name": "x" * 5_000,
    "nothing": "",
}
SHOWING = (
    ("report", "a.json"),
    ("report", "a.json", "-o", "x.md", "-o", "x.csv", "-o", "x.json"),
    (
        "check",
        "a.json",
        "--against",
        "b.json",
        "--allow-other",
        "provenance",
        "-o",
        "x.md",
        "-o",
        "x.xml",
        "-o",
        "x.csv",
    ),
    ("diff", "b.json", "a.json", "-o", "x.md", "-o", "x.csv", "-o", "x.json"),
    ("accuracy", "a.json", "b.json", "-o", "x.md"),
    ("sweep", "--from", "a.json", "-o", "x.md", "-o", "x.csv"),
    ("ablate", "--records", "named.json", "-o", "x.md", "-o", "x.csv"),
    ("ranks", "--from", "named.json", "-o", "x.md"),
    ("floor", "--from", "named.json", "-o", "x.md", "-o", "x.json"),
    ("claims", "--from", "a.json", "-o", "x.md", "-o", "x.csv"),
    ("kernels", "--from", "a.json", "-o", "x.md"),
    ("quality", "--from", "a.json", "-o", "x.md"),
)
DRAWING = (
    ("report", "a.json", "-o", "x.html"),
    ("report", "a.json", "--charts", "pictures"),
)
DRAWN = ("script", "a path", "a long name")  # charts take seconds
QUICK = (*SHOWING[:1], ("report", "a.json", "-o", "x.md", "-o", "x.csv", "-o", "x.json"))
PICTURES = ("altair", "vl_convert")
FILES = 100


@pytest.fixture
def show(tmp_path, monkeypatch, capsys):
    """Runs one command line in this process, in an empty folder; its exit code and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["muse-bench", *arguments])
        code = int(cli.main())
        out, err = capsys.readouterr()
        assert code in (0, 1, 2, 3, 4), (arguments, code)
        if code == 2:
            assert err.startswith("muse-bench: error: "), (arguments, err)
            assert err.count("\n") == 1, (arguments, err)
        return code, out, err

    return run


@pytest.fixture
def values():
    """A record file, parsed, with few moments and modules: what is wrong with one is wrong with all."""
    parsed = json.loads(RECORDS.read_text())
    for record in parsed["records"]:
        record |= {name: record[name][:8] for name in ("modules", "timeline")}
    return parsed


def put(where, values):
    Path(where).write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")


def with_text(values, text, *, names=True, **more):
    """The file with this in place of every text that may be any; with `names` in those that tell cases apart, too."""
    changed = copy.deepcopy(values)
    free = ("gpu", "reason", "optimizer", "update", "execution", "autocast", "logits", "workspace_setting")
    free += ("device_peak_provenance", "link_source", "context_source", "reduction_against")
    for number, record in enumerate(changed["records"]):
        record |= {**dict.fromkeys(free, text), **more, "notes": [text], "host_bytes": {text: 5}}
        if names:
            record |= {"model": text + str(number), "mode": text, "dtype": text}
            record["config"] = {"vocab_size": text, text: text, "mixer": text}
        for row in record["modules"]:
            row |= {"module": text, "source": text}
        for point in record["timeline"]:
            point["phase"] = text
    environment = changed["environment"]
    kept = ("compute_capability",)  # two numbers, or the file is refused
    changed["environment"] = {n: text if isinstance(v, str) and n not in kept else v for n, v in environment.items()}
    return {**changed, "command": text}


@pytest.mark.fault(
    "a record file whose every name is a script, escape codes, a table's end, a path, a formula, 5,000 letters, ...",
    "every command shows it or refuses it in one line; no script, no escape code, no file outside the folder",
)
@pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in PICTURES), reason="needs the extra html")
def test_hostile_names_do_nothing(values, show, tmp_path, counted):
    """Names went into file names, HTML, Markdown, XML or the terminal as they were."""
    shown = 0
    for name, text in HOSTILE.items():
        put("a.json", with_text(values, text))
        put("b.json", with_text(values, text, provenance="measured"))
        put("named.json", with_text(values, text, names=False))
        for arguments in (*SHOWING, *(DRAWING if name in DRAWN else ())):
            code, out, err = show(*arguments)
            shown += code != 2
            assert all(letter.isprintable() or letter == "\n" for letter in out + err), arguments
            check_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "named.json", "pictures"}
    assert not Path("/tmp/owned").exists()
    counted(names=len(HOSTILE), commands=len(SHOWING) + len(DRAWING), shown=shown, scripts_or_escape_codes=0)


def check_files(folder):
    """What was written is of its kind, whatever the names in it are."""
    for path in [*folder.glob("x.*"), *folder.glob("pictures/**/*.svg")]:
        text = path.read_text(encoding="utf-8", errors="surrogatepass")
        if path.suffix in (".svg", ".xml"):
            tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(text).iter()}
            assert "script" not in tags
        elif path.suffix == ".html":
            Page().feed(text)
        elif path.suffix == ".md":
            check_markdown(text)
        path.unlink()


class Page(html.parser.HTMLParser):
    """Fails at a tag or an attribute that no template has."""

    def handle_starttag(self, tag, attributes):
        assert tag not in ("img", "b", "iframe", "object")
        assert not [name for name, value in attributes if name.startswith("on")]
        assert all((value or "").startswith("#part-") for name, value in attributes if name in ("href", "src"))

    def handle_data(self, data):
        assert self.cdata_elem != "script" or not data.startswith("alert(1)")


def check_markdown(text):
    """Every row of a table has as many cells as its heading; no tag begins, and no link."""
    lines = text.splitlines()
    outside = re.sub(r"`[^`\n]*`", "", re.sub(r"\\.", "", text))
    assert "<" not in outside.replace("<!--", "")
    assert "](javascript" not in outside
    for above, below in itertools.pairwise(lines):
        if above.startswith("| ") and below.startswith("| "):
            assert cells(above) == cells(below)
    assert not [line for line in lines if line.startswith("# ")]


def cells(line):
    return re.sub(r"\\.", "", line).count("|")


@pytest.mark.fault(
    "a record file cut off, with bytes changed, values swapped, numbers absurd, from a fixed seed",
    "shown, or refused in one line; never a traceback",
)
def test_corrupt_files_are_refused_in_one_line(values, show, counted):
    """A value of a kind that a field may have and a table cannot show."""
    draw = random.Random(0)
    text = json.dumps(values)
    shown = 0
    put("b.json", text)
    for number in range(FILES):
        put("a.json", cut(text, draw) if number % 2 else swapped(values, draw))
        Path("named.json").write_bytes(Path("a.json").read_bytes())
        codes = []
        for arguments in QUICK if number % 20 else SHOWING:
            code, _, _ = show(*arguments)
            codes.append(code)
        shown += codes[0] != 2
    assert 0 < shown < FILES
    counted(files=FILES, tracebacks=0)


def cut(text, draw):
    """The file less its end, or with a few letters changed."""
    if draw.random() < 0.5:
        return text[: draw.randrange(len(text))]
    letters = list(text)
    for _ in range(draw.randint(1, 3)):
        letters[draw.randrange(len(letters))] = draw.choice('{}[],:"0-9eNx \\\x00')
    return "".join(letters)


def swapped(values, draw):
    """The file with a few values in place of which something else stands."""
    changed = copy.deepcopy(values)
    numbers = (0, -1, 1.5, 1e308, LARGEST_NUMBER, -LARGEST_NUMBER, LARGEST_NUMBER + 1)
    strange = (None, True, *numbers, "", "x", [], {}, [[]])
    for _ in range(draw.randint(1, 4)):
        place = changed
        while True:
            key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
            inner = place[key]
            if not isinstance(inner, dict | list) or not inner or draw.random() < 0.2:
                break
            place = inner
        place[key] = draw.choice(strange)
    return changed


WORST = {
    "nested 100,000 deep": "[" * 100_000,
    "nested in a field": '{"schema_version": 1, "records": [' + '{"a":' * 5_000 + "1" + "}" * 5_000 + "]}",
    "NaN": '{"schema_version": 1, "records": [NaN]}',
    "Infinity": '{"schema_version": 1, "records": [-Infinity]}',
    "1e999": '{"schema_version": 1, "records": [1e999]}',
    "no compute capability": '{"schema_version": 1, "environment": {"compute_capability": "x"}, "records": []}',
    "a number of 100,000 digits": '{"schema_version": 1, "records": [' + "9" * 100_000 + "]}",
    "a key twice": '{"schema_version": 1, "records": [], "schema_version": 1}',
    "a pickle": "cos\nsystem\n(S'touch owned'\ntR.",
    "nothing": "",
}


@pytest.mark.fault(
    "a record file nested 100,000 deep, with NaN, a number of 100,000 digits, a key twice; a pickle; an empty file",
    "refused in one line that names the file",
)
def test_the_worst_files_are_refused(muse_bench, show, counted):
    """Of two values for one key the last one counted, in silence."""
    for name, text in WORST.items():
        put("a.json", text)
        code, out, err = show("report", "a.json")
        assert (code, out) == (2, ""), name
        assert err.startswith("muse-bench: error: a.json: "), (name, err)
    assert not Path("owned").exists()
    Path("a.json").unlink()
    put("deep.json", WORST["nested 100,000 deep"])
    assert "not a record file" in muse_bench("report", "deep.json").usage_error()
    counted(files=len(WORST), exit_code=2)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.fault(
    "a record file of 300 GiB, one that never ends (/dev/zero), a pipe that nobody stops writing to",
    "refused in one line after at most 256 MiB, of which nothing is parsed",
)
def test_a_huge_file_is_not_read_to_its_end(muse_bench, folder, counted):
    """A size is asked of the file system, and a device or a pipe has none: it was read until memory was full."""
    with (folder / "sparse.json").open("wb") as stream:
        stream.truncate(300 << 30)
    os.mkfifo(folder / "pipe.json")
    threading.Thread(target=write_for_good, args=(folder / "pipe.json",), daemon=True).start()
    for name in ("sparse.json", "/dev/zero", "pipe.json"):
        said = muse_bench("report", name, before=limit_memory).usage_error()
        assert "larger than 256 MiB" in said
    counted(files=3, most_read_mib=LARGEST_FILE_BYTES >> 20, exit_code=2)


def write_for_good(pipe):
    try:
        with pipe.open("wb", buffering=0) as stream:
            while True:
                stream.write(b" " * (1 << 20))
    except BrokenPipeError:
        return


def limit_memory():
    """For this process and those that it starts: to three times the largest file."""
    import resource

    most = 3 * LARGEST_FILE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def test_the_file_that_is_changed_is_sound():
    """What is made of an unsound file would be refused for that."""
    assert read_run_file(RECORDS).records[0].modules
