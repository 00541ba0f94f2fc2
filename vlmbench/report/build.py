"""Write the report of a sweep: the steps, in order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vlmbench.report.cells import Cell, read_cells
from vlmbench.report.escape import markdown, markdown_code
from vlmbench.report.facts import cautions, doubts, facts, outcome, progress
from vlmbench.report.forest import difference_axis, share_axis
from vlmbench.report.gallery import galleries
from vlmbench.report.steps import steps
from vlmbench.report.tables import Table, accuracy_table, consistency_tables, further_tables, headline_table
from vlmbench.report.terminal import plain_states, plain_tables
from vlmbench.report.verdicts import Finding, Refusal, findings
from vlmbench.rundir import SweepDir, to_json, write_whole


def write_report(sweep: SweepDir) -> Path:
    """Read every cell of the sweep; write index.html, report.md and verdicts.json; give the page's path.

    Raises UserError where the folder holds no cell.
    """
    cells = read_cells(sweep)
    found, refused = findings(cells)
    content = _content(sweep.path.resolve().name, cells, found, refused)
    page = sweep.report / "index.html"
    write_whole(sweep.report / "verdicts.json", to_json([finding.to_row() for finding in found]) + "\n")
    write_whole(sweep.report / "report.md", markdown_environment().get_template("report.md.j2").render(content))
    write_whole(page, html_environment().get_template("index.html.j2").render(content, **_plots(cells)))
    return page


def comparison_table(sweep: SweepDir) -> str:
    """Cells by main figures as plain text. Raises UserError where the folder holds no cell."""
    return plain_tables(read_cells(sweep))


def state_table(sweep: SweepDir) -> str:
    """How far each cell has come, as plain text. Raises UserError where the folder holds no cell."""
    return plain_states(read_cells(sweep))


def _content(title: str, cells: Sequence[Cell], found: Sequence[Finding], refused: Sequence[Refusal]) -> dict[str, Any]:
    headline, accuracy = headline_table(cells), accuracy_table(cells)
    further, consistency = further_tables(cells), consistency_tables(cells)
    legends = (table.legend for table in (headline, accuracy, *consistency, *further))
    return {
        "title": title,
        "cells": cells,
        "cautions": cautions(cells, refused),
        "outcome": outcome(cells, found),
        "findings": found,
        "difference_axis": difference_axis(v for f in found for v in (f.comparison.low, f.comparison.high)),
        "headline": headline,
        "doubts": doubts(cells),
        "share_axis": _share_axis(headline),
        "steps": steps(cells, found),
        "progress": progress(cells),
        "accuracy": accuracy,
        "further": further,
        "consistency": consistency,
        "glossary": list(dict.fromkeys(chain.from_iterable(legends))),
        "galleries": galleries(cells),
        "facts": [(cell, facts(cell)) for cell in cells],
    }


def _share_axis(headline: Table) -> Any:
    return share_axis(row.figures[0].low for row in headline.rows if row.figures)


def _plots(cells: Sequence[Cell]) -> dict[str, Any]:
    """Nothing without matplotlib, which the page then says: the figures under the plots are there all the same."""
    if find_spec("matplotlib") is None:
        return {"panels": [], "legend": [], "plots_missing": True}
    from vlmbench.report.curves import legend, panels

    return {"panels": panels(cells), "legend": list(legend(cells).values()), "plots_missing": False}


def html_environment() -> Environment:
    """Templates of pages: whatever they print is escaped."""
    environment = Environment(
        loader=PackageLoader("vlmbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["breakable"] = lambda name: escape(name).replace("_", Markup("_<wbr>"))
    return environment


def markdown_environment() -> Environment:
    """Whatever a template prints is escaped, unless a filter made it Markup: the same rule as for the page."""
    environment = Environment(  # noqa: S701 - HTML escapes would show as such in Markdown
        loader=PackageLoader("vlmbench.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, Markup) else markdown(str(value)),
    )
    environment.filters["yaml"] = lambda value: Markup(json.dumps(str(value)))  # noqa: S704 - a quoted scalar
    environment.filters["code"] = lambda value: Markup(markdown_code(str(value)))  # noqa: S704 - a code span
    return environment
