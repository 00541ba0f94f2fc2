"""What was run: what all cells share, where they differ, and what each took."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vlmbench.provenance import content_of_config
from vlmbench.report.cells import Cell
from vlmbench.report.figures import MISSING_FIGURE

JOULES_PER_WH = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where the cells' configurations differ: a column for each different one, seeds aside, named by its cells; a row
    for each key (`model` and `data`: the yaml that was chosen) with its value in every column."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One cell: what it took, and the facts that not all cells share."""

    cell: Cell
    time: str
    energy: str
    own: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """`common` are the facts that every cell shares; `time` and `energy` are of the cells whose own are known."""

    common: tuple[tuple[str, str], ...]
    runs: tuple[Run, ...]
    time: str
    energy: str


def what_was_run(cells: Sequence[Cell]) -> Runs:
    """Every cell, whatever its state."""
    rows = {cell.name: facts(cell) for cell in cells}
    shared = set.intersection(*(set(own) for own in rows.values())) if len(cells) > 1 else set()
    return Runs(
        common=tuple(fact for fact in rows[cells[0].name] if fact in shared),
        runs=tuple(
            Run(
                cell=cell,
                time=duration(cell.status.get("seconds")),
                energy=energy(cell.status.get("joules")),
                own=tuple(fact for fact in rows[cell.name] if fact not in shared),
            )
            for cell in cells
        ),
        time=duration(_total(cells, "seconds")),
        energy=energy(_total(cells, "joules")),
    )


def facts(cell: Cell) -> list[tuple[str, str]]:
    """What was run and on what, beside the commands: (term, value), those that are known."""
    env, data = cell.env, cell.metrics.get("data", {})
    engine = " because ".join(str(env[key]) for key in ("engine", "engine_reason") if env.get(key))
    rows = {
        "Folder": cell.name,
        "Engine": engine,
        "Vision tower": env.get("vision"),
        "Hardware": env.get("device"),
        "Processes": env.get("processes"),
        "Seed": cell.seed,
        "Trained on": _counts({"records": data.get("train_records"), "tokens": data.get("train_tokens")}),
        "Steps": data.get("steps"),
        "Records by task": _counts(data.get("by_task", {})),
        "Parts by side": _counts(data.get("groups", {})),
        "Python": env.get("python"),
        "Versions": ", ".join(f"{name} {version}" for name, version in env.get("versions", {}).items()),
        "Code": env.get("git"),
        "Content hash": cell.status.get("hash"),
    }
    return [(term, str(value)) for term, value in rows.items() if value is not None and value != ""]


def settings(cells: Sequence[Cell]) -> Settings:
    """What tells configurations apart, without places and without seeds; no row where nothing does."""
    configs: dict[str, tuple[dict[str, str], list[Cell]]] = {}
    for cell in cells:
        if cell.config:
            chosen = {"model": cell.model, "data": cell.data}
            flat = chosen | _flat(content_of_config(cell.config)) | chosen  # they come first, and win
            flat.pop("seed", None)
            configs.setdefault(json.dumps(flat, sort_keys=True), (flat, []))[1].append(cell)
    flats = [flat for flat, _ in configs.values()]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    values = {key: tuple(flat.get(key, MISSING_FIGURE) for flat in flats) for key in keys}
    return Settings(
        columns=tuple(_together(members) for _, members in configs.values()),
        rows=tuple((key, row) for key, row in values.items() if len(set(row)) > 1),
    )


def _together(cells: Sequence[Cell]) -> str:
    """The names of cells with one configuration: their seeds do not matter here."""
    return ", ".join(dict.fromkeys(cell.series for cell in cells))


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Dotted key -> the value as JSON, strings as they are."""
    if isinstance(value, Mapping) and value:
        parts = (_flat(inner, f"{name}.{key}" if name else str(key)) for key, inner in value.items())
        return {key: text for part in parts for key, text in part.items()}
    return {name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}


def _total(cells: Sequence[Cell], key: str) -> float | None:
    known = [cell.status[key] for cell in cells if isinstance(cell.status.get(key), int | float)]
    return sum(known) if known else None


def duration(seconds: float | None) -> str:
    """In the two largest units that are not 0; "" for None."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def energy(joules: float | None) -> str:
    """In watt-hours; "" for None."""
    if joules is None:
        return ""
    hours = joules / JOULES_PER_WH
    return f"{hours / 1000:.2f} kWh" if hours >= 1000 else f"{hours:.1f} Wh"


def _counts(counts: Mapping[str, Any]) -> str:
    parts = (f"{number:,} {name}" if isinstance(number, int) else f"{number} {name}" for name, number in counts.items())
    return ", ".join(part for part, number in zip(parts, counts.values(), strict=True) if number is not None)
