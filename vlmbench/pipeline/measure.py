"""Figures of a run: every metric of every task and view, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vlmbench import metrics, stats
from vlmbench.data.census import census, questions
from vlmbench.data.run_records import RunRecords
from vlmbench.pipeline.cost import Cost
from vlmbench.types import Prediction

Scores = dict[str, dict[str, dict[str, Any]]]


def measure(predictions: Sequence[Prediction], *, seed: int) -> Scores:
    """Return task -> view -> name -> {value, low, high, n, n_parts} of every metric."""
    scores: Scores = {}
    for (task, view), subset in metrics.by_task_and_view(predictions).items():
        figures = scores.setdefault(str(task), {}).setdefault(view, {})
        for function in metrics.all_metrics().values():
            for name, estimate in stats.estimate(function, subset, seed=seed).items():
                figures[name] = asdict(estimate)
    return scores


def flatten(scores: Scores, *, prefix: str = "") -> dict[str, Mapping[str, float]]:
    """Return "task/view/name" -> figure, as W&B's summary takes them."""
    return {
        f"{prefix}{task}/{view}/{name}": figure
        for task, views in scores.items()
        for view, figures in views.items()
        for name, figure in figures.items()
    }


def data_summary(records: RunRecords, cost: Cost) -> dict[str, Any]:
    """Return what metrics.json says about the data of a run."""
    data = records.data
    splits = {"train": data.train, "val": data.val, "test": data.test}
    return {
        "train_records": cost.train_records,
        "train_tokens": cost.trained_tokens,
        "steps": cost.steps,
        "by_task": dict(cost.by_task),
        "questions": questions(records.train, records.wording),
        "parts": {name: subset.count_parts() for name, subset in splits.items()},
        **census(data),
        "warnings": list(data.warnings),
    }
