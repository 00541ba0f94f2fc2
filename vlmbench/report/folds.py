"""The folds of a cross-validation, taken together: one run for each seed, over all parts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

from vlmbench.metrics import Measure, all_metrics, by_task_and_view
from vlmbench.report.runs import RunResult
from vlmbench.runs.identity import fold_of
from vlmbench.stats import estimate
from vlmbench.types import Difference, Prediction, Rate

Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A seed that does not count, because runs of some folds are not finished."""

    series: Key
    name: str
    lacking: tuple[int, ...]
    number: int

    @property
    def sentence(self) -> str:
        folds = ", ".join(map(str, self.lacking))
        noun = "fold" if len(self.lacking) == 1 else "folds"
        return f"{self.name} lacks {noun} {folds} of {self.number}, so this seed does not count"


def pool_folds(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs with the folds of each seed as one run that has the answers of all.

    Folds that are not finished, and seeds that lack a fold, are left out. Runs without folds stay
    as they are.
    """
    groups = _by_seed(runs)
    pooled: dict[tuple[Key, int | None], RunResult | None] = {}
    found: list[RunResult] = []
    for run in runs:
        fold = fold_of(run.config)
        if fold is None:
            found.append(run)
        elif run.finished and _seed_of(run) not in pooled:
            members = groups[_seed_of(run)]
            whole = _pool(members) if len(members) == fold.number else None
            pooled[_seed_of(run)] = whole
            found += [] if whole is None else [whole]
    return found


def merge_folds(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs as tables show them: whole seeds as one row with figures over all parts.

    Everything else stays a row of its own: runs without folds, and the folds of other seeds.
    """
    merged: dict[str, RunResult] = {}
    inside: set[str] = set()
    for pooled in pool_folds(runs):
        if pooled.folds and pooled.predictions:
            figures = {"scores": _measure(pooled)}
            merged[pooled.folds[0].name] = replace(pooled, metrics=figures)
            inside |= {fold.name for fold in pooled.folds}

    rows = []
    for run in runs:
        if run.name in merged:
            rows.append(merged[run.name])
        elif run.name not in inside:
            rows.append(run)
    return rows


def _measure(pooled: RunResult) -> dict[str, dict[str, dict[str, Any]]]:
    """Return task -> view -> name -> figure with its interval, over all folds.

    Shares are of all records. Other figures, such as AUROC, are means over folds, because scores of
    several models do not compare.
    """
    fold_of_id = {each.id: fold.name for fold in pooled.folds for each in fold.predictions}
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, view), subset in by_task_and_view(pooled.predictions).items():
        figures = scores.setdefault(str(task), {}).setdefault(view, {})
        for function in all_metrics().values():
            measure = partial(_by_fold, function, fold_of_id)
            for name, found in estimate(measure, subset, seed=0).items():
                figures[name] = asdict(found)
    return scores


def _by_fold(
    measure: Measure, fold_of_id: Mapping[str, str], predictions: Sequence[Prediction]
) -> dict[str, Rate | float]:
    """Return the figures of a metric: rates of all records, and means of the folds' other ones."""
    figures = dict(measure(predictions))
    others = [name for name, value in figures.items() if not isinstance(value, Rate)]
    if not others:
        return figures

    members: dict[str, list[Prediction]] = {}
    for each in predictions:
        members.setdefault(fold_of_id[each.id], []).append(each)
    folds = [measure(own) for own in members.values()]

    for name in others:
        values = [fold[name] for fold in folds if name in fold]
        known = [value for value in values if not isinstance(value, Rate)]
        if not known:  # no fold has both labels
            del figures[name]
            continue

        mean = sum(known) / len(known)
        figures[name] = Difference(mean) if isinstance(figures[name], Difference) else mean
    return figures


def gaps(runs: Sequence[RunResult]) -> list[Gap]:
    """Return the seeds that lack a fold, though one of their folds was begun."""
    groups = _by_seed(runs)
    found: dict[tuple[Key, int | None], Gap] = {}
    for run in runs:
        fold = fold_of(run.config)
        if fold is None:
            continue

        have = groups.get(_seed_of(run), {})
        lacking = tuple(index for index in range(fold.number) if index not in have)
        if lacking:
            found[_seed_of(run)] = Gap(
                series=_seed_of(run)[0],
                name=run.series if run.seed is None else f"{run.series} · seed {run.seed}",
                lacking=lacking,
                number=fold.number,
            )
    return list(found.values())


def folds_of(runs: Iterable[RunResult]) -> list[RunResult]:
    """Return the runs with the single folds in place of pooled ones."""
    return list(chain.from_iterable(run.folds or (run,) for run in runs))


def _seed_of(run: RunResult) -> tuple[Key, int | None]:
    return (run.model, run.setting, run.data), run.seed


def _by_seed(runs: Sequence[RunResult]) -> dict[tuple[Key, int | None], dict[int, RunResult]]:
    """Return (model, setting, data), seed -> fold -> finished run; the last of several counts."""
    groups: dict[tuple[Key, int | None], dict[int, RunResult]] = {}
    for run in runs:
        fold = fold_of(run.config)
        if fold is not None and run.finished:
            groups.setdefault(_seed_of(run), {})[fold.index] = run
    return groups


def _pool(members: Mapping[int, RunResult]) -> RunResult:
    """Return the folds of one seed as one run. Calibrations and figures stay with the folds."""
    folds = tuple(members[index] for index in sorted(members))
    first = folds[0]
    data = {key: value for key, value in first.config["data"].items() if key != "fold"}
    return replace(
        first,
        config={**first.config, "data": data},
        metrics={},
        log=(),
        calibration={},
        predictions=tuple(chain.from_iterable(fold.predictions for fold in folds)),
        validation=tuple(chain.from_iterable(fold.validation for fold in folds)),
        folds=folds,
    )
