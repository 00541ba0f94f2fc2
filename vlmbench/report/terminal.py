"""Figures as aligned text, in ASCII but for names that the user chose."""

from __future__ import annotations

from collections.abc import Sequence

from vlmbench.metrics import describe
from vlmbench.report.alarms import Alarm
from vlmbench.report.baselines import BaselineSection, BaselineTable
from vlmbench.report.escape import one_line
from vlmbench.report.figures import Figure
from vlmbench.report.plan import PlanFacts
from vlmbench.report.runs import RunResult
from vlmbench.report.sealed import SEALED_TITLE, sealed_runs
from vlmbench.report.tables import Column, accuracy_table, headline_table, remark
from vlmbench.report.verdicts import Finding
from vlmbench.types import Task

COLUMNS_PER_BLOCK = 4


def plain_tables(runs: Sequence[RunResult], baselines: BaselineSection | None = None) -> str:
    """Return the headline shares on held-out raw pairs, then every other accuracy; in percent.

    A block has a line for each run, and one for the records (and parts) behind each column. Runs
    with a sealed test split have a block of validation figures. The first table of the baselines
    follows, with the verdict on tuning.
    """
    sealed = sealed_runs(runs)
    names = {run.name for run in sealed}
    answered = [run for run in runs if run.name not in names]

    blocks = []
    if not sealed or any(run.finished for run in answered):
        blocks += _answered_blocks(answered)
    if sealed:
        columns = _headline_columns(sealed)
        titles = [column.title.lower() for column in columns]
        title = f"judge_pair raw, {SEALED_TITLE}: % (95 % interval)"
        blocks.append(_block(title, columns, titles, sealed))
    if baselines is not None and baselines.tables:
        blocks.append(_baseline_block(baselines.tables[0]))
        blocks += [one_line(baselines.sentence)] if baselines.sentence else []

    return "\n\n".join(blocks) + "\n"


def plain_verdicts(answers: Sequence[Finding]) -> str:
    """Return the main verdicts with their numbers, one a line; "" if there are none."""
    main = [finding for finding in answers if finding.question.main]
    sentences = [one_line(f"{finding.claim}: {finding.numbers}.") for finding in main]
    lines = [sentence.replace(" · ", " ") for sentence in sentences]
    return "\n".join(["verdict", *lines]) + "\n" if lines else ""


def plain_alarms(alarms: Sequence[Alarm]) -> str:
    """Return the controls that runs fail, one a line; "" if there are none."""
    lines = [one_line(alarm.sentence).replace(" · ", " ") for alarm in alarms]
    return "\n".join(["FAILED CONTROLS", *lines]) + "\n" if lines else ""


def plain_plan(facts: PlanFacts) -> str:
    """Return what was planned and what came of it, a sentence a line."""
    sentences = [one_line(sentence).replace(" · ", " ") for sentence in facts.sentences]
    return "\n".join(["plan", *sentences])


def _answered_blocks(runs: Sequence[RunResult]) -> list[str]:
    main = _headline_columns(runs)
    others = [
        column
        for column in accuracy_table(runs).columns
        if (column.task, column.view) != (Task.JUDGE_PAIR, "raw")
    ]

    title = "judge_pair raw, held out: % (95 % interval)"
    blocks = [_block(title, main, [column.title.lower() for column in main], runs)]

    title = "other held-out records, accuracy: % (95 % interval)"
    for start in range(0, len(others), COLUMNS_PER_BLOCK):
        columns = others[start : start + COLUMNS_PER_BLOCK]
        heads = [f"{column.task} {column.view}" for column in columns]
        blocks.append(_block(title, columns, heads, runs))
    return blocks


def _headline_columns(runs: Sequence[RunResult]) -> list[Column]:
    columns = headline_table(runs).columns
    return [column for column in columns if describe(column.name).unit == "share"]


def _baseline_block(table: BaselineTable) -> str:
    heads = [title.lower() for title, _ in table.heads]
    grid = [["method", *heads, "seconds"]]
    for row in table.rows:
        seconds = "-" if row.seconds is None else f"{row.seconds:.1f}"
        name = one_line(row.name.replace(" · ", " "))
        grid.append([name, *map(_in_its_unit, row.figures), seconds])

    title = f"{table.task} {table.view}, held out: is tuning worth it? (95 % interval)"
    return "\n".join([title, *_align(grid)])


def _in_its_unit(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    return f"{figure.text} ({figure.interval})" if figure.interval else figure.text


def plain_states(runs: Sequence[RunResult]) -> str:
    """Return a line for each run: its folder, state, minutes, and why it stopped."""
    grid = [["run", "state", "minutes", ""]]
    for run in runs:
        grid.append([one_line(run.name), one_line(run.state), _minutes(run), one_line(run.note)])

    return "\n".join(_align(grid))


def _minutes(run: RunResult) -> str:
    seconds = run.status.get("seconds")
    return f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else "-"


def _align(grid: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*grid, strict=True)]

    lines = []
    for row in grid:
        texts = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        lines.append("  ".join(texts).rstrip())

    return lines


def _block(
    title: str, columns: Sequence[Column], heads: Sequence[str], runs: Sequence[RunResult]
) -> str:
    finished = [run for run in runs if run.finished]

    grid = [["run", *heads]]
    for run in finished:
        grid.append([_label(run), *(_percent(column, run) for column in columns)])
    grid.append(["records (parts)", *(_counts(column, finished) for column in columns)])

    remarks = [f"{_label(run)}  {one_line(remark(run))}" for run in runs if not run.finished]
    return "\n".join([title, *_align(grid), *remarks])


def _label(run: RunResult) -> str:
    return one_line(run.label.replace(" · ", " "))


def _percent(column: Column, run: RunResult) -> str:
    figure = column.figure_of(run)
    if figure.value is None:
        return "-"
    if figure.low is None or figure.high is None:
        return f"{100 * figure.value:.1f}"

    return f"{100 * figure.value:.1f} ({100 * figure.low:.1f}-{100 * figure.high:.1f})"


def _counts(column: Column, finished: Sequence[RunResult]) -> str:
    figures = [column.figure_of(run) for run in finished]
    records = _range([figure.n for figure in figures])
    parts = _range([figure.n_parts for figure in figures])
    return f"{records} ({parts})"


def _range(numbers: Sequence[int | None]) -> str:
    """Return one number where all runs agree, as they should; else the lowest and the highest."""
    distinct = sorted({number for number in numbers if number is not None})
    if not distinct:
        return "-"

    return str(distinct[0]) if len(distinct) == 1 else f"{distinct[0]}-{distinct[-1]}"
