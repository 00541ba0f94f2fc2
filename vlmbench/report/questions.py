"""The questions of a sweep: which series stand against which, on which records."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from vlmbench.report.folds import Gap, gaps
from vlmbench.report.runs import RunResult
from vlmbench.report.series import group_by_series
from vlmbench.runs.folder import State
from vlmbench.runs.plan import PlannedRun
from vlmbench.system.text import counted
from vlmbench.types import Probe, Task

BASELINE = "without_comparison"

# It trains on as many tokens, which separates "comparison records" from "more records".
CONTROL = "matched_control"

# It trains on no pairs, so it is not compared on them.
SINGLE = "single"

# More settings of one seed are a search, which no verdict follows from.
MAX_SETTINGS = 20

# Tasks on which variants are compared, in this order -> the noun for what is judged.
TASKS: Mapping[str, str] = {
    Task.JUDGE_PAIR: "pairs",
    Task.JUDGE_LINK: "link pairs",
    Task.JUDGE_SINGLE: "single images",
    Task.COMPARE_VIEWS: "pairs of views",
    Task.COMPARE_SHAPES: "pairs of shapes",
}
UNFINISHED = {
    str(State.FAILED): "failed",
    str(State.PRUNED): "was pruned",
    str(State.STOPPED): "was stopped",
    str(State.RUNNING): "is not finished",
}


class Axis(StrEnum):
    """The difference between the two arms of a question."""

    DATA = "data"
    SETTING = "setting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A variant against a baseline, with all else equal, on one task and view.

    On the data axis both are data variants. On the setting axis they are settings of one data
    variant, which `data` names.
    """

    model: str
    setting: str
    variant: str
    baseline: str
    task: str
    view: str
    axis: Axis = Axis.DATA
    data: str = ""

    @property
    def main(self) -> bool:
        """Return whether this is the main question of the experiment."""
        on_raw_pairs = (self.task, self.view) == (Task.JUDGE_PAIR, "raw")
        return on_raw_pairs and (self.axis is Axis.SETTING or self.baseline == BASELINE)

    @property
    def subject(self) -> str:
        return " · ".join(part for part in (self.model, self.data, self.setting) if part)

    @property
    def records(self) -> str:
        """Return the judged records in words, such as `held-out raw pairs`."""
        return f"held-out {self.view} {TASKS[self.task]}"

    @property
    def name(self) -> str:
        words = f"{self.variant} against {self.baseline} on {self.records}"
        return f"{self.subject}: {words}" if self.subject else words


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """All finished runs of a variant and of its baseline, and the runs that are missing."""

    question: Question
    variant_runs: tuple[RunResult, ...]
    baseline_runs: tuple[RunResult, ...]
    unfinished: tuple[RunResult, ...]
    missing: tuple[PlannedRun, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def runs(self) -> tuple[RunResult, ...]:
        return (*self.variant_runs, *self.baseline_runs)

    @property
    def seeds(self) -> tuple[tuple[int | None, ...], tuple[int | None, ...]]:
        """The finished seeds of the variant, and those of the baseline."""
        variant, baseline = (
            tuple(run.seed for run in arm) for arm in (self.variant_runs, self.baseline_runs)
        )
        return variant, baseline

    @property
    def pruned(self) -> int:
        """The number of runs that were pruned: those that did worse."""
        return sum(run.state == State.PRUNED for run in self.unfinished)

    @property
    def account(self) -> str:
        """Return what became of the seeds that both arms do not share; "" for none."""
        lost = [f"{run.label} {UNFINISHED.get(run.state, run.state)}" for run in self.unfinished]
        lost += [
            f"{run.model} · {run.data} · seed {run.seed}{_fold_words(run)} did not start"
            for run in self.missing
        ]
        lost += [gap.sentence for gap in self.gaps]
        variant, baseline = self.seeds
        if set(variant) != set(baseline):
            lost.append(
                f"{self.question.variant} has {seed_list(variant)}, "
                f"{self.question.baseline} has {seed_list(baseline)}"
            )
        return "; ".join(lost)


def matches(runs: Sequence[RunResult], missing: Sequence[PlannedRun] = ()) -> Iterator[Match]:
    """Yield each variant with its baseline and with the control; else settings with the first.

    All finished seeds of an arm count, whether or not the other arm has them too.
    """
    series = group_by_series(runs)
    found = False

    for model, setting, variant in series:
        for baseline in (BASELINE, CONTROL):
            key, other = (model, setting, variant), (model, setting, baseline)
            if variant in (BASELINE, SINGLE, baseline) or other not in series:
                continue

            found = True
            yield from _with_missing(_on_records(runs, series, key, other, Axis.DATA), missing)

    if not found:
        for key, other in _setting_pairs(series):
            yield from _with_missing(_on_records(runs, series, key, other, Axis.SETTING), missing)


Key = tuple[str, str, str]
SeriesRuns = Mapping[Key, Mapping[int | None, RunResult]]


def _setting_pairs(series: SeriesRuns) -> Iterator[tuple[Key, Key]]:
    """Yield (model, setting, data) of each setting with that of the first one."""
    first: dict[tuple[str, str], Key] = {}
    for model, setting, data in series:
        first.setdefault((model, data), (model, setting, data))

    if len(series) > MAX_SETTINGS:
        return
    for key in series:
        other = first[key[0], key[2]]
        if key != other and key[2] != SINGLE:
            yield key, other


def _with_missing(found: Iterator[Match], missing: Sequence[PlannedRun]) -> Iterator[Match]:
    """Yield matches with the planned runs of their model and data variants that did not start."""
    for match in found:
        question = match.question
        names = (question.data,) if question.data else (question.variant, question.baseline)
        own = (run for run in missing if run.model == question.model and run.data in names)
        yield replace(match, missing=tuple(own))


def _on_records(
    runs: Sequence[RunResult], series: SeriesRuns, key: Key, other: Key, axis: Axis
) -> Iterator[Match]:
    """Yield the match on every task and view that all runs of both arms answered."""
    variant_runs, baseline_runs = tuple(series[key].values()), tuple(series[other].values())
    keys = (key, other)
    unfinished = tuple(
        run for run in runs if not run.finished and (run.model, run.setting, run.data) in keys
    )

    lacking = tuple(gap for gap in gaps(runs) if gap.series in keys)

    model, setting, data = key
    on_data = axis is Axis.DATA
    for task, view in shared_task_views((*variant_runs, *baseline_runs)):
        question = Question(
            model=model,
            setting=setting if on_data else "",
            variant=data if on_data else setting or "defaults",
            baseline=other[2] if on_data else other[1] or "defaults",
            task=task,
            view=view,
            axis=axis,
            data="" if on_data else data,
        )
        yield Match(
            question=question,
            variant_runs=variant_runs,
            baseline_runs=baseline_runs,
            unfinished=unfinished,
            gaps=lacking,
        )


def shared_task_views(runs: Sequence[RunResult]) -> list[tuple[Task, str]]:
    """Return the (task, view) that every run has ordinary predictions for, the raw view first."""
    ordinary = [
        {(p.task, p.view) for p in run.predictions if p.probe == Probe.NONE} for run in runs
    ]
    shared = [(task, view) for task, view in set.intersection(*ordinary) if task in TASKS]
    return sorted(shared, key=position)


def position(task_view: tuple[str, str]) -> tuple[int, bool, str]:
    """Return the sort key: the order of TASKS, then the raw view, then the views by name."""
    task, view = task_view
    return list(TASKS).index(task), view != "raw", view


def seed_words(seeds: tuple[tuple[int | None, ...], tuple[int | None, ...]]) -> str:
    """Return the seeds of a variant and its baseline in words: their number, if they are equal."""
    variant, baseline = seeds
    if variant == baseline:
        return counted(len(variant), "seed")
    return f"{seed_list(variant)} against {seed_list(baseline)}"


def _fold_words(run: PlannedRun) -> str:
    return "" if run.fold is None else f" · fold {run.fold}"


def seed_list(seeds: Sequence[int | None]) -> str:
    """Return seeds in words, such as "seeds 0, 1, 2"."""
    names = [str(seed) for seed in seeds if seed is not None]
    if not names:
        return "a run without a seed"
    return f"seed{'s' * (len(names) > 1)} {', '.join(names)}"
