"""Write the report of a sweep: read the runs, collect the content, render the files."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from vlmbench.data.near_duplicates import NEAR_DUPLICATE
from vlmbench.report.alarms import Alarm, alarms
from vlmbench.report.baselines import BaselineSection, baseline_section
from vlmbench.report.dataset import data_sets, sample_groups, training_mixes
from vlmbench.report.escape import markdown, markdown_code, without_controls
from vlmbench.report.facts import (
    cautions,
    guessing_notes,
    outcome,
    progress,
    threshold_notes,
)
from vlmbench.report.folds import merge_folds
from vlmbench.report.forest import Axis, difference_axis, share_axis
from vlmbench.report.gallery import gallery
from vlmbench.report.images import DataFolders, data_folders
from vlmbench.report.plan import PlanFacts, level_of, look_at, missing_of, plan_facts
from vlmbench.report.provenance import setting_differences, sweep_facts
from vlmbench.report.questions import matches
from vlmbench.report.runs import RunResult, read_runs
from vlmbench.report.scores import TaskViewScores, by_seed, task_view_scores
from vlmbench.report.sealed import validation_tables
from vlmbench.report.steps import steps
from vlmbench.report.tables import (
    Table,
    accuracy_table,
    consistency_tables,
    further_tables,
    headline_table,
    task_view_title,
)
from vlmbench.report.terminal import (
    plain_alarms,
    plain_plan,
    plain_states,
    plain_tables,
    plain_verdicts,
)
from vlmbench.report.verdicts import Finding, Refusal, by_task_view, findings
from vlmbench.runs.folder import to_json
from vlmbench.runs.sweep import SweepDir
from vlmbench.system.files import write_whole
from vlmbench.system.reading import refuse_link


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadSweep:
    """The runs of a sweep and the verdicts on them: all that a report and a table need.

    `rows` are the runs as tables show them: the folds of a seed are one. `level` is the share of
    false verdicts that this look may spend.
    """

    runs: Sequence[RunResult]
    rows: Sequence[RunResult]
    level: float
    answers: Sequence[Finding]
    refusals: Sequence[Refusal]
    alarms: Sequence[Alarm]
    baselines: BaselineSection
    plan: PlanFacts


def read_sweep(sweep: SweepDir) -> ReadSweep:
    """Read the runs, register the look and compare. Raise UserError if the folder holds no run."""
    runs = read_runs(sweep)
    look = look_at(sweep.path, runs) if any(matches(runs)) else None
    level = level_of(sweep.path, look)
    missing = missing_of(sweep.path, runs)
    answers, refusals = findings(runs, level=level, missing=missing)

    return ReadSweep(
        runs=runs,
        rows=merge_folds(runs),
        level=level,
        answers=answers,
        refusals=refusals,
        alarms=alarms(runs),
        baselines=baseline_section(sweep.path, runs, level=level),
        plan=plan_facts(sweep.path, runs, look=look),
    )


def write_report(sweep: SweepDir, read: ReadSweep | None = None) -> Path:
    """Write index.html, report.md and verdicts.json. Return the path of the page.

    `read` is what `read_sweep` returned, so that nothing is read twice. Raise UserError if the
    folder holds no run.
    """
    refuse_link(sweep.report)
    read = read or read_sweep(sweep)
    folders = data_folders([run.config for run in read.runs], [sweep.path])
    content = _content(sweep.path.resolve().name, read, folders)

    verdicts = {
        "alarms": [alarm.to_row() for alarm in read.alarms],
        "tuning": None if read.baselines.worth is None else read.baselines.worth.to_row(),
        "findings": [finding.to_row() for finding in read.answers],
        "plan": read.plan.to_row(),
    }
    if read.baselines.localised:
        verdicts["localisation"] = [each.to_row() for each in read.baselines.localised]
    write_whole(sweep.report / "verdicts.json", to_json(verdicts) + "\n")

    template = markdown_environment().get_template("report.md.j2")
    write_whole(sweep.report / "report.md", template.render(content))

    page = sweep.report / "index.html"
    write_whole(page, _page(content, _plots(read.runs, content["scores"])))
    return page


def comparison_table(sweep: SweepDir, read: ReadSweep | None = None) -> str:
    """Return failed controls, the runs with their main figures, the verdicts and the plan as text.

    `read` is what `read_sweep` returned. Raise UserError if the folder holds no run.
    """
    read = read or read_sweep(sweep)
    tables = plain_tables(read.rows, read.baselines)
    verdicts, plan = plain_verdicts(read.answers), plain_plan(read.plan)
    blocks = (plain_alarms(read.alarms), tables, verdicts, plan)
    return "\n".join(block for block in blocks if block)


def state_table(sweep: SweepDir) -> str:
    """Return the state of each run as plain text. Raise UserError if the folder holds no run."""
    return plain_states(read_runs(sweep))


def _content(title: str, read: ReadSweep, folders: DataFolders) -> dict[str, Any]:
    """Return the values that the page and the Markdown are rendered from."""
    runs, answers, baselines = read.runs, read.answers, read.baselines
    return {
        "title": title,
        "level": read.level,
        "plan": read.plan,
        "validation": validation_tables(runs),
        "runs": runs,
        "alarms": read.alarms,
        "cautions": cautions(runs, read.refusals),
        "outcome": outcome(runs, answers),
        "baselines": baselines,
        "findings": answers,
        "other_findings": _other_findings(answers),
        "difference_axis": _difference_axis(answers),
        "headline_notes": [*threshold_notes(answers), *guessing_notes(runs)],
        "steps": steps(runs, answers),
        "progress": progress(runs),
        "scores": task_view_scores(runs),
        "gallery": gallery(runs, answers, baselines.asked, folders=folders),
        "data_sets": data_sets(runs, folders),
        "near_limit": NEAR_DUPLICATE,
        "training_mixes": training_mixes(runs),
        "sample_groups": sample_groups(runs, folders),
        "provenance": sweep_facts(runs),
        "settings": setting_differences(runs),
        **_tables(read.rows),
    }


def _other_findings(answers: Sequence[Finding]) -> list[tuple[str, list[Finding]]]:
    """Return the findings besides the main ones, by the title of their task and view."""
    groups = by_task_view(answers)
    return [(task_view_title(*task_view), members) for task_view, members in groups.items()]


def _tables(runs: Sequence[RunResult]) -> dict[str, Any]:
    """Return the tables of figures, the axis of the headline, and the meaning of every column."""
    headline, accuracy = headline_table(runs), accuracy_table(runs)
    further, consistency = further_tables(runs), consistency_tables(runs)

    legends = [table.legend for table in (headline, accuracy, *consistency, *further)]
    return {
        "headline": headline,
        "share_axis": _share_axis(headline),
        "accuracy": accuracy,
        "further": further,
        "consistency": consistency,
        "glossary": _unique(chain.from_iterable(legends)),
    }


def _unique(entries: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(entries))


def _difference_axis(answers: Sequence[Finding]) -> Axis:
    comparisons = [finding.comparison for finding in answers]
    return difference_axis(chain.from_iterable((each.low, each.high) for each in comparisons))


def _share_axis(headline: Table) -> Axis:
    return share_axis(row.figures[0].low for row in headline.rows if row.figures)


def _page(content: Mapping[str, Any], plots: Mapping[str, Any]) -> str:
    """Return the HTML. Its security policy allows its own script, by hash, and no other."""
    environment = html_environment()
    script, _, _ = PackageLoader("vlmbench.report").get_source(environment, "page.js")
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")

    return environment.get_template("index.html.j2").render(
        content,
        **plots,
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=f"sha256-{digest}",
    )


def _plots(runs: Sequence[RunResult], scores: Sequence[TaskViewScores]) -> dict[str, Any]:
    """Return the plots. Without matplotlib there are none, and the page tells how to get them."""
    if find_spec("matplotlib") is None:
        return {
            "panels": {},
            "legend": [],
            "score_plots": {},
            "most_points": 0,
            "plots_missing": True,
        }

    from vlmbench.report.plots import curves
    from vlmbench.report.plots.scores import score_plots

    return {
        "panels": {
            "step": curves.panels(runs, curves.STEPS),
            "tokens": curves.panels(runs, curves.TOKENS),
        },
        "legend": curves.legend(runs),
        "most_points": curves.MOST_POINTS,
        "score_plots": score_plots(scores, curves.line_styles(runs)),
        "plots_missing": False,
    }


@cache  # compiling the templates takes a third of a second
def html_environment() -> Environment:
    """Return the environment of the HTML templates, which escapes every printed value."""
    environment = Environment(
        loader=PackageLoader("vlmbench.report"),
        autoescape=True,
        finalize=without_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["by_seed"] = by_seed
    environment.filters["capitalize_first"] = _capitalize_first
    environment.filters["breakable"] = _breakable
    return environment


def _capitalize_first(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _breakable(name: str) -> Markup:
    """Return the name with a possible line break after each underscore."""
    return escape(name).replace("_", Markup("_<wbr>"))


@cache
def markdown_environment() -> Environment:
    """Return the environment of the Markdown templates, which escapes all but Markup values."""
    environment = Environment(  # noqa: S701 - HTML escapes would show as such in Markdown
        loader=PackageLoader("vlmbench.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_escape_markdown,
    )
    environment.filters["yaml"] = _yaml_scalar
    environment.filters["capitalize_first"] = _capitalize_first
    environment.filters["code"] = _code_span
    return environment


def _escape_markdown(value: Any) -> str:
    return value if isinstance(value, Markup) else markdown(str(value))


def _yaml_scalar(value: Any) -> Markup:
    return Markup(json.dumps(str(value)))  # noqa: S704 - a quoted scalar


def _code_span(value: Any) -> Markup:
    return Markup(markdown_code(str(value)))  # noqa: S704 - a code span
