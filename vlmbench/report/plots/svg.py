"""Drawing with matplotlib, and the SVG element that a page holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Told apart by most colour-blind readers (after Okabe and Ito); style.css has a lighter set for dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8508a", "#8c6d00", "#4d4d4d")
FRAME, TEXT = "#010203", "#040506"  # stand for the page's colours of lines and of quiet text
UNUSED_IDS = r"figure|axes|patch|line2d|matplotlib\.axis|[xy]tick|text|FillBetween\w*|LineCollection|PathCollection"
VARIABLES = {FRAME: "var(--rule)", TEXT: "var(--quiet)"} | {c: f"var(--series-{i})" for i, c in enumerate(COLOURS, 1)}


def draw(paint: Callable[[Axes], None], *, key: str, label: str, size: tuple[float, float]) -> Markup:
    """What `paint` draws, `size` in inches. `key` is a word that no other plot of the page has; `label` says what is
    seen, to those who do not see it."""
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key, "font.size": 9}):
        figure = Figure(figsize=size, layout="constrained", facecolor="none")
        axes = figure.subplots(subplot_kw={"facecolor": "none"})
        _dress(axes)
        paint(axes)
        target = StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(target, format="svg", metadata=nothing)
    return _inline(target.getvalue(), key, label)


def _dress(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FRAME)
    axes.grid(axis="y", color=FRAME, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(color=FRAME, labelcolor=TEXT, length=0)


def _inline(svg: str, key: str, label: str) -> Markup:
    """The svg element alone: the page's colours and font, no names of schemas, ids that no other plot has, a tenth of
    a pixel."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(rf' id="(?:{UNUSED_IDS})_\d+"| transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"font: [^;\"]*;?|font-(size|family): [^;\"]*;", "", svg)
    svg = re.sub(r"(\d\.\d)\d+", r"\1", svg)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><").replace("<g/>", "").replace("<defs></defs>", "")
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    head = re.match(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', svg)
    if head is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    opening = f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(label)}">'
    return Markup(opening + svg[head.end() :])  # noqa: S704 - holds numbers, words of this package, an escaped label
