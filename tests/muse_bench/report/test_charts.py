"""The charts' data: nothing twice or left out, rectangles that fill their frame, colours that can be told apart."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from muse_bench.ledger import LEDGER_FIELDS, Ledger, ModuleRow, TimelinePoint
from muse_bench.report.charts import ablation, records
from muse_bench.report.charts.encoding import by_group
from muse_bench.report.charts.palette import BY_STYLE, DARK, LIGHT
from muse_bench.report.charts.squarify import Rectangle, slices, squarify
from muse_bench.units import MIB

FRAME = Rectangle(0, 0, 900, 400)
ROUNDING = 1e-9  # of an area in pixels squared: that of a coordinate, a few 1e-13 pixels, along a side of the frame
sizes = st.lists(st.integers(1, 1 << 40), min_size=1, max_size=60).map(lambda found: sorted(found, reverse=True))


@given(sizes)
def test_areas_are_in_proportion_and_stay_in_the_frame(found):
    scale = FRAME.width * FRAME.height / sum(found)
    for size, one in zip(found, squarify(found, FRAME), strict=True):
        assert one.width * one.height == pytest.approx(size * scale, rel=1e-6, abs=ROUNDING)
        assert one.x >= -1e-6
        assert one.y >= -1e-6
        assert one.x + one.width <= FRAME.width + 1e-6
        assert one.y + one.height <= FRAME.height + 1e-6


@given(sizes)
def test_rectangles_do_not_overlap(found):
    placed = [one for one in squarify(found, FRAME) if min(one.width, one.height) > 1e-3]
    for index, a in enumerate(placed):
        for b in placed[:index]:
            across = min(a.x + a.width, b.x + b.width) - max(a.x, b.x)
            down = min(a.y + a.height, b.y + b.height) - max(a.y, b.y)
            assert across < 1e-6 or down < 1e-6


def test_equal_sizes_become_squares():
    assert {(one.width, one.height) for one in squarify([1] * 4, Rectangle(0, 0, 200, 200))} == {(100.0, 100.0)}


def test_slices_lie_along_the_longer_side():
    assert [one.width for one in slices([3, 1], Rectangle(0, 0, 400, 10))] == [300, 100]
    assert [one.y for one in slices([3, 1], Rectangle(0, 5, 10, 400))] == [5, 305]


def test_the_bars_are_the_ledger_and_end_in_the_peak_and_the_reduction(run):
    rows = values(records.comparison(run.records), "part")
    held = {(row["case"], row["part"]): row["mib"] for row in rows}
    first = run.records[0]
    assert held["baseline", "saved activations"] == first.ledger.activations_saved / MIB
    assert sum(size for (case, _), size in held.items() if case == "ultra") == 45
    ends = {row["case"]: row["end"] for row in values(records.comparison(run.records), "end")}
    assert ends["streamed"] == "oom"
    assert ends["ultra"].startswith("45.0 MiB, ")
    assert ends["ultra"].endswith(" % less")


def test_records_of_one_name_keep_bars_and_files_of_their_own(run):
    first = run.records[0]
    twice = [first, first, dataclasses.replace(first, model="BASELINE")]
    assert len(set(records.labels(twice))) == 3
    names = [picture.name.lower() for picture in records.pictures(twice)]
    assert len(set(names)) == len(names)
    assert len({row["case"] for row in values(records.comparison(twice), "end")}) == 3


def test_a_name_is_no_way_out_of_the_folder(run):
    record = dataclasses.replace(run.records[0], model="../../etc/x:y")
    assert all("/" not in picture.name and not picture.name.startswith(".") for picture in records.pictures([record]))


def test_the_timeline_marks_the_peak_and_says_what_lives_there(run):
    picture = records.step(run.records[0], "baseline")
    (mark,) = values(picture, "peak")
    points = run.records[0].timeline
    assert points[mark["at"]].ledger.total == max(point.ledger.total for point in points)
    assert mark["holder0"] == "head, temporary activations: 64.0 MiB"
    pointed = values(picture, "total")
    assert len(pointed) == len(points)
    assert pointed[3]["optimizer_state"] == "200.0"


def test_what_is_less_than_nothing_is_not_drawn(run):
    ledger = Ledger(parameters=4 * MIB, unattributed=-MIB)
    record = dataclasses.replace(
        run.records[0],
        ledger=ledger,
        modules=(ModuleRow(module="a", ledger=ledger), ModuleRow(module="b", ledger=Ledger())),
        timeline=(TimelinePoint(phase="forward", ledger=ledger),),
    )
    for picture in records.pictures([record]):
        assert all(row.get("mib", 0) >= 0 for row in values(picture))
        assert picture.svg().startswith("<svg")


def test_a_treemap_holds_every_byte(run):
    modules = tuple(ModuleRow(module=f"part{n}x", ledger=Ledger(parameters=(n + 1) * MIB)) for n in range(100))
    record = dataclasses.replace(run.records[0], modules=modules)
    pieces = values(records.modules(record, "baseline"), "part")
    assert len(pieces) == records.MODULES
    assert sum(float(row["text"].replace(",", "")) for row in pieces) == sum(range(1, 101))
    assert sum((row["x2"] - row["x"]) * (row["y2"] - row["y"]) for row in pieces) == pytest.approx(940 * 380)


def test_a_waterfall_goes_from_peak_to_peak(run):
    first = run.records[0]
    models = ("baseline", "baseline+dtype=bf16", "baseline+dtype=bf16+norm=rms-norm")
    peaks = (800 * MIB, None, 300 * MIB)
    chain = [
        dataclasses.replace(first, model=model, peak_allocated_bytes=peak, status="ok" if peak else "oom")
        for model, peak in zip(models, peaks, strict=True)
    ]
    rows = values(*ablation.pictures(dataclasses.replace(run, records=tuple(chain))), "begin")
    assert [(row["begin"], row["end"]) for row in rows] == [(0, 800), (800, 800), (800, 300), (0, 300)]
    assert rows[1]["says"] == "oom"
    assert rows[2]["says"] == "saves 500.0 (62.5 %)"


def test_svg_and_png_are_files_of_their_kind(run):
    picture = records.comparison(run.records)
    assert "var(" not in picture.svg()
    assert picture.png().startswith(b"\x89PNG")


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_text_outlines_and_lines_stand_out_from_the_paper(palette):
    for text in (palette.ink, palette.faint):
        assert contrast(text, palette.paper) >= 4.5  # WCAG 2.2, 1.4.3
    for drawn in (palette.edge, *palette.series):
        assert contrast(drawn, palette.paper) >= 3  # WCAG 2.2, 1.4.11


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_labels_are_read_on_every_part_or_have_a_rim_that_they_are_read_on(palette):
    behind = palette.parts.values() if palette.rim == "transparent" else [palette.rim]
    assert min(contrast(palette.label, colour) for colour in behind) >= 4.5


@pytest.mark.parametrize("palette", [LIGHT, DARK])
@pytest.mark.parametrize("eye", ["protan", "deutan", "tritan"])
def test_no_two_parts_look_the_same_to_a_colour_blind_reader(palette, eye):
    seen = [lab(simulated(palette.parts[part], eye)) for part in LEDGER_FIELDS]
    just_noticeable = 2.3  # Mahy et al., 1994, in CIELAB
    assert min(math.dist(a, b) for index, a in enumerate(seen) for b in seen[:index]) > 2 * just_noticeable


def test_every_colour_of_a_page_is_a_variable_of_its_style():
    assert {f"var({name})" for name, _ in LIGHT.variables()} == {colour for _, colour in BY_STYLE.variables()}


@pytest.mark.parametrize(("length", "columns"), [(4, 6), (36, 3), (400, 3)])
def test_a_legend_is_no_wider_than_its_chart(length, columns):
    """Long names in as many columns as short ones are cut off at the chart's edge."""
    for channel in by_group(["a" * length, "b"], LIGHT):
        assert channel.to_dict()["legend"] == {"columns": columns}


def values(picture, field=None):
    """The rows of the chart's data that have a field."""
    datasets = picture.specification(LIGHT)["datasets"].values()
    return [row for rows in datasets for row in rows if field is None or field in row]


def linear(colour):
    parts = (int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5))
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def contrast(first, second):
    low, high = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(linear, (first, second)))
    return (high + 0.05) / (low + 0.05)


EYES = {  # Machado, Oliveira, Fernandes 2009, severity 1
    "protan": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deutan": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881)),
    "tritan": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900)),
}


def simulated(colour, eye):
    light = linear(colour)
    return [min(1, max(0, sum(a * b for a, b in zip(row, light, strict=True)))) for row in EYES[eye]]


def lab(light):
    """CIELAB under D65 of linear sRGB."""
    rows = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
    white = (0.9505, 1.0, 1.089)
    x, y, z = (sum(a * b for a, b in zip(row, light, strict=True)) / w for row, w in zip(rows, white, strict=True))
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
