"""Write the report of a sweep: the steps, in order."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vlmbench.files import write_whole
from vlmbench.report.cells import Cell, read_cells
from vlmbench.report.dataset import data_sets, diets, samples
from vlmbench.report.escape import markdown, markdown_code
from vlmbench.report.facts import cautions, doubts, outcome, progress
from vlmbench.report.forest import difference_axis, share_axis
from vlmbench.report.gallery import gallery
from vlmbench.report.judgement import Place, by_seed, places
from vlmbench.report.runs import settings, what_was_run
from vlmbench.report.steps import steps
from vlmbench.report.tables import Table, accuracy_table, consistency_tables, further_tables, headline_table, named
from vlmbench.report.terminal import plain_states, plain_tables
from vlmbench.report.verdicts import Finding, Refusal, by_place, findings
from vlmbench.rundir import SweepDir, to_json


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
    write_whole(page, _page(content, _plots(cells, content["places"])))
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
        "elsewhere": [(named(*place), answers) for place, answers in by_place(found).items()],
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
        "places": places(cells),
        "gallery": gallery(cells, found),
        "data_sets": data_sets(cells),
        "diets": diets(cells),
        "samples": samples(cells),
        "runs": what_was_run(cells),
        "settings": settings(cells),
    }


def _share_axis(headline: Table) -> Any:
    return share_axis(row.figures[0].low for row in headline.rows if row.figures)


def _page(content: Mapping[str, Any], plots: Mapping[str, Any]) -> str:
    """The page. Its policy lets this script run, known by its hash, and nothing else."""
    environment = html_environment()
    script, _, _ = PackageLoader("vlmbench.report").get_source(environment, "page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return environment.get_template("index.html.j2").render(
        content,
        **plots,
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=f"sha256-{digest}",
    )


def _plots(cells: Sequence[Cell], places: Sequence[Place]) -> dict[str, Any]:
    """Nothing without matplotlib, which the page then says: the figures under the plots are there all the same."""
    if find_spec("matplotlib") is None:
        return {"panels": {}, "legend": [], "judged_plots": {}, "most_points": 0, "plots_missing": True}
    from vlmbench.report.plots import curves, judgement

    return {
        "panels": {"step": curves.panels(cells, curves.STEPS), "tokens": curves.panels(cells, curves.TOKENS)},
        "legend": curves.legend(cells),
        "most_points": curves.MOST_POINTS,
        "judged_plots": judgement.plots(places, curves.styles(cells)),
        "plots_missing": False,
    }


def html_environment() -> Environment:
    """Templates of pages: whatever they print is escaped."""
    environment = Environment(
        loader=PackageLoader("vlmbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["by_seed"] = by_seed
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
