"""The HTML report: one file that loads nothing, in which names are only ever text, and which a browser draws."""

import base64
import dataclasses
import hashlib
import html.parser
import json
import re
import shutil
import subprocess

import pytest

from muse_bench.errors import UsageError
from muse_bench.record import Environment, RunFile
from muse_bench.report import formats
from muse_bench.report import html as report
from muse_bench.report.page import Part, page
from muse_bench.report.sheet import Sheet

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>\"'&"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


class Seen(html.parser.HTMLParser):
    """The elements of a document, its text by element, and what its attributes load."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.loads, self.scripts, self.ids, self.cells = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.tags.append(tag)
        self.loads += [values[name] for name in ("src", "href", "srcset", "action") if values.get(name)]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "script":
            self.scripts.append((values.get("type"), ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1] == "script" and self.scripts[-1][1] == "":
            self.scripts[-1] = (self.scripts[-1][0], data)
        elif data.strip():
            self.cells.append(data.strip())


def evil(run: RunFile) -> RunFile:
    """The run with a tag for every name that a user gives."""
    first = run.records[0]
    record = dataclasses.replace(
        first,
        model=EVIL,
        dtype=EVIL,
        gpu=EVIL,
        reduction_against=EVIL,
        modules=tuple(dataclasses.replace(row, module=EVIL) for row in first.modules[:2]),
        timeline=tuple(dataclasses.replace(point, phase=EVIL) for point in first.timeline),
        notes=(EVIL,),
    )
    return RunFile(environment=Environment(muse_bench=EVIL, gpu=EVIL, commit=EVIL), records=(record,), command=EVIL)


def charts(run: RunFile) -> int:
    """The bars, a step for each timeline, a treemap for each table of modules."""
    return 1 + sum(bool(record.timeline) + bool(record.modules) for record in run.records)


def test_it_is_one_of_the_formats():
    assert formats()["html"].suffix == ".html"


def test_it_has_landmarks_a_title_and_a_table_beside_each_chart(run):
    seen = Seen(report.render(run))
    for landmark in ("header", "nav", "main", "footer", "h1", "title", "noscript"):
        assert seen.tags.count(landmark) == 1
    assert seen.tags.count("figure") == charts(run)
    assert seen.tags.count("table") == seen.tags.count("figure") + 1
    assert len(set(seen.ids)) == len(seen.ids)
    assert {link for link in seen.loads if link.startswith("#")} <= {f"#{name}" for name in seen.ids}


def test_the_table_has_the_numbers_of_the_chart(run):
    text = report.render(run)
    seen = Seen(text)
    bars = next(json.loads(script) for kind, script in seen.scripts if kind == "application/json")
    drawn = [row["text"] for rows in bars["datasets"].values() for row in rows if "text" in row]
    assert drawn
    assert set(drawn) <= set(seen.cells)
    assert "oom" in seen.cells
    assert any("ran out of memory" in cell for cell in seen.cells)


def test_nothing_is_loaded_and_no_other_script_may_run(run):
    text = report.render(run)
    seen = Seen(text)
    assert all(link.startswith("#") for link in seen.loads)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)[1]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    scripts = [script for kind, script in seen.scripts if kind is None]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert re.findall(r"'sha256-([^']*)'", policy) == hashes
    assert "url(" not in text.partition("</style>")[0]
    assert "@import" not in text.partition("</style>")[0]


def test_names_are_text_wherever_they_stand(run):
    seen, plain = Seen(report.render(evil(run))), Seen(report.render(dataclasses.replace(run, records=run.records[:1])))
    assert "img" not in seen.tags
    assert seen.tags.count("script") == plain.tags.count("script")
    for kind, script in seen.scripts:
        if kind == "application/json":
            assert "<" not in script
            assert json.loads(script)


def test_a_page_of_tables_alone_has_no_script():
    text = page("Title", (), [Part("One", sheet=Sheet("One", ("a", "b"), [("x", "1.0")]))])
    assert "<script" not in text
    assert "script-src 'none'" in text


def test_without_altair_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(report, "EXTRA", ("altair", "no_such_module"))
    with pytest.raises(UsageError, match=re.escape("needs altair: pip install 'muse-bench[html]'")):
        formats()["html"].check()


def browse(path, folder, *options):
    """What Chromium makes of a file, and the addresses that it asked for."""
    log = folder / "net.json"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    flags += ("--disable-component-update", "--virtual-time-budget=10000", f"--user-data-dir={folder / 'profile'}")
    done = subprocess.run(
        [CHROMIUM, *flags, f"--log-net-log={log}", *options, "--dump-dom", path.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    events = json.loads(log.read_text())["events"]
    begun = [event["params"] for event in events if "initiator" in event.get("params", {})]
    # What Chromium asks for on its own account has no page as its origin.
    return done.stdout, [one["url"] for one in begun if one["initiator"] != "not an origin" and "url" in one]


@browser
def test_a_browser_draws_every_chart_and_asks_for_nothing(run, tmp_path):
    path = tmp_path / "x.html"
    text = report.render(run)
    path.write_text(text.replace("default-src 'none'; ", ""), encoding="utf-8")  # so that a request would get through
    shown, asked = browse(path, tmp_path)
    assert "could not be drawn:" not in shown.partition("</main>")[0]
    drawn = re.findall(r'<svg[^>]*class="marks".*?</svg>', shown, re.DOTALL)
    assert len(drawn) == charts(run)
    assert all("<path" in chart and "role=" in chart for chart in drawn)
    assert "peak 620.0 MiB" in drawn[1]
    assert [address for address in asked if address.startswith("http")] == []


@browser
def test_a_request_would_be_seen(tmp_path):
    path = tmp_path / "x.html"
    path.write_text("<img src='http://127.0.0.1:9/x.png'>")
    assert "http://127.0.0.1:9/x.png" in browse(path, tmp_path)[1]


@browser
def test_a_browser_runs_no_name(run, tmp_path):
    path = tmp_path / "x.html"
    path.write_text(report.render(evil(run)), encoding="utf-8")
    shown, asked = browse(path, tmp_path)
    assert "<title>owned" not in shown
    assert len(re.findall(r'<svg[^>]*class="marks"', shown)) == 3
    assert not any(address.endswith("/x") for address in asked)
