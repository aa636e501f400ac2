"""A report as one HTML file: facts, charts with the tables of the same numbers beside them, notes. It loads nothing."""

import base64
import functools
import hashlib
import html
import importlib.resources
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from muse_bench.record import JOINT
from muse_bench.report.charts.palette import BY_STYLE, DARK, LIGHT, Palette
from muse_bench.report.charts.picture import Picture
from muse_bench.report.sheet import Sheet
from muse_bench.report.words import plain

Facts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Part:
    """One section: a chart, a table with its numbers, or both; a folded table opens on a click."""

    title: str
    picture: Picture | None = None
    sheet: Sheet | None = None
    folded: bool = False


def page(title: str, facts: Facts, parts: Sequence[Part], command: str | None = None) -> str:
    """The whole document."""
    pictured = any(part.picture is not None for part in parts)
    scripts = (_bundle(), _resource("page.js")) if pictured else ()
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{_style()}</style>",
        "</head>",
        "<body>",
        *_header(title, facts, command),
        *(_contents(parts) if len(parts) > 2 else ()),
        "<main>",
        "<noscript><p>The charts need JavaScript; the tables hold the same numbers.</p></noscript>",
        *(line for number, part in enumerate(parts) for line in _section(number, part)),
        "</main>",
        "<footer>Sizes are in MiB, 2<sup>20</sup> bytes. Made by muse-bench.</footer>",
        *(f"<script>{script}</script>" for script in scripts),
        "</body>",
        "</html>",
    ]
    return "\n".join(lines) + "\n"


def escape(text: str) -> str:
    """Text that HTML shows as it is, between tags and in attributes."""
    return html.escape(plain(text))


def _header(title: str, facts: Facts, command: str | None) -> Iterator[str]:
    yield f"<header>\n<h1>{escape(title)}</h1>"
    yield '<dl class="facts">'
    yield from (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value)
    if command:
        each = (f"<div><code>{escape(one)}</code></div>" for one in command.split(JOINT))
        yield f"<dt>command</dt><dd>{''.join(each)}</dd>"
    yield "</dl>\n</header>"


def _contents(parts: Sequence[Part]) -> Iterator[str]:
    yield '<nav aria-label="Sections">\n<ul>'
    yield from (f'<li><a href="#part-{number}">{escape(part.title)}</a></li>' for number, part in enumerate(parts))
    yield "</ul>\n</nav>"


def _section(number: int, part: Part) -> Iterator[str]:
    yield f'<section aria-labelledby="part-{number}">\n<h2 id="part-{number}">{escape(part.title)}</h2>'
    if part.picture is not None:
        yield from _figure(part.picture)
    if part.sheet is not None:
        yield from _folded(part.sheet) if part.folded else _table(part.sheet, part.sheet.title != part.title)
        if part.sheet.notes:
            yield '<ul class="notes">'
            yield from (f"<li>{escape(note)}</li>" for note in part.sheet.notes)
            yield "</ul>"
    yield "</section>"


def _figure(picture: Picture) -> Iterator[str]:
    yield f'<figure aria-label="{escape(picture.title)}">\n<div class="chart"></div>'
    yield f'<script type="application/json">{_data(picture)}</script>'
    yield f"<figcaption>{escape(picture.says)}</figcaption>\n</figure>"


def _data(picture: Picture) -> str:
    """The chart's JSON, in which no tag can begin or end whatever the names in it are."""
    text = json.dumps(picture.specification(BY_STYLE), separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _folded(sheet: Sheet) -> Iterator[str]:
    yield f"<details>\n<summary>{escape(sheet.title)}</summary>"
    yield from _table(sheet, False)
    yield "</details>"


def _table(sheet: Sheet, titled: bool) -> Iterator[str]:
    yield f'<div class="scrolls" tabindex="0" role="region" aria-label="{escape(sheet.title)}">\n<table>'
    if titled:
        yield f"<caption>{escape(sheet.title)}</caption>"
    kinds = [' class="words"' if sheet.is_words(column) else "" for column in range(len(sheet.headings))]
    headings = (f'<th scope="col"{kind}>{escape(text)}</th>' for text, kind in zip(sheet.headings, kinds, strict=True))
    yield f"<thead><tr>{''.join(headings)}</tr></thead>\n<tbody>"
    for row in sheet.rows:
        cells = [f"<td{kind}>{escape(text)}</td>" for text, kind in zip(row, kinds, strict=True)]
        cells[0] = f'<th scope="row"{kinds[0]}>{escape(row[0])}</th>'
        yield f"<tr>{''.join(cells)}</tr>"
    yield "</tbody>\n</table>\n</div>"


def _style() -> str:
    """The colours of light paper, of dark where it is preferred, of light in print, and the rules."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{ {_colours(DARK)} }}"
    return f"{_colours(LIGHT)}\n{dark}\n{_resource('page.css')}"


def _colours(palette: Palette) -> str:
    return f":root {{ {' '.join(f'{name}: {colour};' for name, colour in palette.variables())} }}"


def _policy(scripts: Sequence[str]) -> str:
    """Nothing may be loaded, and no script but these may run."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes) or "'none'"
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src {allowed}; base-uri 'none'; form-action 'none'"


def _resource(name: str) -> str:
    return importlib.resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script."""
    import vl_convert

    script: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")
