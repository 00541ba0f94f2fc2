"""Plans and runs that tests of plans share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmbench.config import Primary
from vlmbench.runs.plan import Plan, PlannedRun, question_of, variant_hash
from vlmbench.types import Prediction, Task

VARIANTS = ("without_comparison", "with_comparison")
DATE = "2026-11-27T09:30:00+00:00"


@dataclass(frozen=True, kw_only=True)
class ReadRun:
    """A run as a report reads it."""

    config: dict[str, Any]
    status: dict[str, Any]
    predictions: list[Prediction] = field(default_factory=list)


def planned(
    variants: Iterable[str] = VARIANTS, seeds: Iterable[int] = (0, 1), *, model: str = "smol"
) -> tuple[PlannedRun, ...]:
    """Return a planned run for each variant and seed."""
    return tuple(
        PlannedRun(
            model=model,
            data=data,
            seed=seed,
            variant_hash=variant_hash(config_of(seed), model=model, data=data),
        )
        for data in variants
        for seed in seeds
    )


def plan_of(runs: Sequence[PlannedRun] | None = None, **given: Any) -> Plan:
    """Return a plan of these runs."""
    runs = planned() if runs is None else tuple(runs)
    values: dict[str, Any] = {
        "date": DATE,
        "version": "0.1.0",
        "question": question_of(runs),
        "primary": Primary.balanced_accuracy,
        "runs": runs,
    }
    return Plan(**values | given)


def config_of(seed: int) -> dict[str, Any]:
    return {"seed": seed, "trainer": {"epochs": 1}, "eval": {"limit": 8, "test": "open"}}


def read_run(
    data: str, seed: int, state: str = "finished", *, right: int = 3, model: str = "smol"
) -> ReadRun:
    """Return a run with four answers, `right` of them right."""
    predictions = [
        Prediction(
            id=f"r{i}",
            task=Task.JUDGE_PAIR,
            group=f"g{i}",
            view="raw",
            expected="normal",
            predicted="normal" if i < right else "abnormal",
            scores={"normal": -0.1 - i, "abnormal": -2.0},
        )
        for i in range(4)
    ]
    status = {"model": model, "data": data, "seed": seed, "state": state, "overrides": []}
    return ReadRun(config=config_of(seed), status=status, predictions=predictions)
