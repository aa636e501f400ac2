"""An ablation as a waterfall: a bar for each technique, from the peak before it to the peak with it."""

from collections.abc import Sequence
from dataclasses import dataclass

import altair

from muse_bench.report.charts.encoding import tooltip
from muse_bench.report.charts.palette import Palette
from muse_bench.report.charts.picture import WIDTH
from muse_bench.units import MIB

BAR = 28
KINDS = ("peak", "saves", "costs")
PARTS = ("parameters", "gradients", "activations_temporary")  # of the ledger, whose colours the kinds take


@dataclass(frozen=True, slots=True)
class Fallen:
    """One bar: its label, where it begins and ends in bytes, and the words beside it."""

    label: str
    begin: int
    end: int
    says: str
    is_total: bool = False

    @property
    def kind(self) -> str:
        """Whether it is a peak, or saves or costs memory."""
        return "peak" if self.is_total else "saves" if self.end <= self.begin else "costs"


def waterfall(steps: Sequence[Fallen], palette: Palette) -> altair.TopLevelMixin:
    """The bars in their order from the top, their labels numbered so that equal ones stay apart."""
    names = [f"{number}. {step.label}" for number, step in enumerate(steps)]
    values = [
        {
            "step": name,
            "begin": step.begin / MIB,
            "end": step.end / MIB,
            "most": max(step.begin, step.end) / MIB,
            "kind": step.kind,
            "says": step.says,
        }
        for name, step in zip(names, steps, strict=True)
    ]
    colours = dict(zip(KINDS, (palette.parts[part] for part in PARTS), strict=True))
    shown = [kind for kind in KINDS if any(step.kind == kind for step in steps)]
    rows = altair.Y("step:N", sort=names, title=None, axis=altair.Axis(ticks=False))
    most = max(max(step.begin, step.end) for step in steps) / MIB
    base = altair.Chart(altair.InlineData(values=values))
    fallen = base.mark_bar(stroke=palette.edge, strokeWidth=0.7).encode(
        x=altair.X("begin:Q", title="MiB at the peak", scale=altair.Scale(domain=[0, most * 1.3 or 1], nice=False)),
        x2="end:Q",
        y=rows,
        color=altair.Color(
            "kind:N", title=None, scale=altair.Scale(domain=shown, range=[colours[kind] for kind in shown])
        ),
        tooltip=tooltip([("step", "technique"), ("says", "MiB")]),
    )
    words = base.mark_text(align="left", dx=6, color=palette.ink).encode(x="most:Q", y=rows, text="says:N")
    return altair.layer(fallen, words).properties(width=WIDTH, height=BAR * len(values))
