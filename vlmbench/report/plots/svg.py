"""Draw with matplotlib and return the SVG element for a page."""

from __future__ import annotations

import re
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Most colour-blind readers can tell these apart (after Okabe and Ito). style.css has a lighter set
# for dark pages.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#a8508a", "#8c6d00", "#4d4d4d")

# Placeholders for the page's colours of lines and of secondary text.
FRAME, TEXT = "#010203", "#040506"

VARIABLES = {FRAME: "var(--rule)", TEXT: "var(--quiet)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(COLOURS, 1)
}
UNUSED_IDS = (
    r"figure|axes|patch|line2d|matplotlib\.axis|[xy]tick|text|FillBetween\w*|LineCollection|"
    r"PathCollection"
)


def draw(
    paint: Callable[[Axes], None], *, key: str, label: str, size: tuple[float, float]
) -> Markup:
    """Return the SVG of what `paint` draws, `size` in inches.

    `key` must be unique on the page. `label` describes the plot to screen readers.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # nothing of a matplotlibrc
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": key,
                "font.size": 9,
            }
        )
        figure = Figure(
            figsize=size,
            layout="constrained",
            facecolor="none",
        )
        axes = figure.subplots(subplot_kw={"facecolor": "none"})
        _style_axes(axes)
        paint(axes)

        target = StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        # Figure.savefig draws twice, the first time only to lay the figure out.
        canvas: Any = FigureCanvasSVG(figure)  # untyped
        canvas.print_svg(target, metadata=no_metadata)

    return _to_inline(target.getvalue(), key, label)


def _style_axes(axes: Axes) -> None:
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(FRAME)
    axes.grid(
        axis="y",
        color=FRAME,
        linewidth=0.6,
    )
    axes.set_axisbelow(True)
    axes.tick_params(
        color=FRAME,
        labelcolor=TEXT,
        length=0,
    )


def _to_inline(svg: str, key: str, label: str) -> Markup:
    """Return the svg element alone, fit for the page.

    It takes the page's colours and font, has no namespaces, has ids that start with `key`, and
    keeps a tenth of a pixel.
    """
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(rf' id="(?:{UNUSED_IDS})_\d+"| transform="rotate\(-0 [^)]*\)"', "", svg)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{key}-", svg)
    svg = re.sub(r"font: [^;\"]*;?|font-(size|family): [^;\"]*;", "", svg)
    svg = re.sub(r"(\d\.\d)\d+", r"\1", svg)

    svg = re.sub(r"\s+", " ", svg).replace("> <", "><")
    svg = svg.replace("<g/>", "").replace("<defs></defs>", "")

    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)

    head = re.match(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', svg)
    if head is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox; check its version")

    opening = f'<svg viewBox="{head[1]}" role="img" aria-label="{escape(label)}">'
    return Markup(opening + svg[head.end() :])  # noqa: S704 - numbers, own words, an escaped label
