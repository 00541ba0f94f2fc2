"""How a sweep was made: what all runs share, which settings differ, and what each run took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.report.figures import MISSING_FIGURE
from vlmbench.report.runs import RunResult
from vlmbench.runs.identity import figure_settings

JOULES_PER_WH = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingDifferences:
    """The settings that differ between runs.

    There is one column for each configuration, seeds aside, named by its runs. There is one row
    for each key, with its value in every column. The rows `model` and `data` name the chosen yaml.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """A run, what it took, and the facts that not all runs share."""

    run: RunResult
    time: str
    energy: str
    own: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepFacts:
    """The facts that all runs share (`common`), and the facts of each run.

    `time` and `energy` are sums over the runs that recorded them.
    """

    common: tuple[tuple[str, str], ...]
    runs: tuple[RunFacts, ...]
    time: str
    energy: str


def sweep_facts(runs: Sequence[RunResult]) -> SweepFacts:
    """Return the facts about every run, in any state."""
    facts = {run.name: list_facts(run) for run in runs}
    shared = set.intersection(*map(set, facts.values())) if len(runs) > 1 else set()

    members = [
        RunFacts(
            run=run,
            time=duration(run.status.get("seconds")),
            energy=energy(run.status.get("joules")),
            own=tuple(fact for fact in facts[run.name] if fact not in shared),
        )
        for run in runs
    ]
    return SweepFacts(
        common=tuple(fact for fact in facts[runs[0].name] if fact in shared),
        runs=tuple(members),
        time=duration(_total(runs, "seconds")),
        energy=energy(_total(runs, "joules")),
    )


def list_facts(run: RunResult) -> list[tuple[str, str]]:
    """Return the known facts about a run as (term, value), without its commands."""
    env, data = run.env, run.metrics.get("data", {})
    engine = [str(env[key]) for key in ("engine", "engine_reason") if env.get(key)]
    precision = [str(env[key]) for key in ("precision", "precision_reason") if env.get(key)]
    amounts = {
        "records": data.get("train_records"),
        "tokens": data.get("train_tokens"),
    }
    versions = [f"{name} {version}" for name, version in env.get("versions", {}).items()]

    facts = {
        "Folder": run.name,
        "Engine": " because ".join(engine),
        "Precision": " because ".join(precision),
        "Vision tower": env.get("vision"),
        "Hardware": env.get("device"),
        "Processes": env.get("processes"),
        "Seed": run.seed,
        "Trained on": _count_words(amounts),
        "Steps": data.get("steps"),
        "Records by task": _count_words(data.get("by_task", {})),
        "Parts by split": _count_words(data.get("parts", {})),
        "Python": env.get("python"),
        "Versions": ", ".join(versions),
        "Code": env.get("git"),
        "Run hash": run.status.get("run_hash"),
    }
    return [(term, str(value)) for term, value in facts.items() if value not in (None, "")]


def setting_differences(runs: Sequence[RunResult]) -> SettingDifferences:
    """Return the settings that differ between configurations; paths and seeds are left out."""
    configs: dict[str, tuple[dict[str, str], list[RunResult]]] = {}

    for run in runs:
        if run.config:
            settings = _comparable_settings(run)
            key = json.dumps(settings, sort_keys=True)
            configs.setdefault(key, (settings, []))[1].append(run)

    columns = [settings for settings, _ in configs.values()]
    keys = dict.fromkeys(key for settings in columns for key in settings)
    rows = {key: tuple(settings.get(key, MISSING_FIGURE) for settings in columns) for key in keys}
    return SettingDifferences(
        columns=tuple(_series_names(members) for _, members in configs.values()),
        rows=tuple((key, row) for key, row in rows.items() if len(set(row)) > 1),
    )


def _comparable_settings(run: RunResult) -> dict[str, str]:
    """Return dotted key -> value of the settings that change figures, without the seed."""
    choices = {"model": run.model, "data": run.data}

    # The choices come first in the table, and they replace settings of the same name.
    settings = choices | _flatten(figure_settings(run.config)) | choices
    settings.pop("seed", None)
    settings.pop("data.fold", None)
    return settings


def _series_names(runs: Sequence[RunResult]) -> str:
    """Return the names of runs that share a configuration, each series once."""
    return ", ".join(dict.fromkeys(run.series for run in runs))


def _flatten(value: Any, name: str = "") -> dict[str, str]:
    """Return dotted key -> value. Strings stay as they are, other values become JSON."""
    if isinstance(value, Mapping) and value:
        settings: dict[str, str] = {}
        for key, inner in value.items():
            settings |= _flatten(inner, f"{name}.{key}" if name else str(key))
        return settings

    if isinstance(value, str):
        return {name: value}
    return {
        name: json.dumps(
            value,
            ensure_ascii=False,
            default=str,
        )
    }


def _total(runs: Sequence[RunResult], key: str) -> float | None:
    """Return the sum over the runs that recorded `key`; None if no run did."""
    values = [run.status.get(key) for run in runs]
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) if numbers else None


def duration(seconds: float | None) -> str:
    """Return a time in its two largest units that are not 0; "" for None."""
    if seconds is None:
        return ""

    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)

    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def energy(joules: float | None) -> str:
    """Return an energy in Wh or kWh; "" for None."""
    if joules is None:
        return ""

    watt_hours = joules / JOULES_PER_WH
    return f"{watt_hours / 1000:.2f} kWh" if watt_hours >= 1000 else f"{watt_hours:.1f} Wh"


def _count_words(counts: Mapping[str, Any]) -> str:
    """Return `900 records, 5,400 tokens`; counts that are None are left out."""
    words = [
        f"{number:,} {name}" if isinstance(number, int) else f"{number} {name}"
        for name, number in counts.items()
        if number is not None
    ]
    return ", ".join(words)
